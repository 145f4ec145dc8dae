"""The curves of a run, as CSV files that DVC plots: a row a log, a row an evaluation."""

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detcore.engine.atomic import append, write_file


class History:
    """A table with a row a step, mirrored in a CSV file.

    The file is rewritten when a row brings a new column, and appended to otherwise. DVC may delete it between two runs:
    a checkpoint carries the rows (`state`), and `load` brings the file back to just these.

    Args:
        path: the file, or None on the ranks that write none.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._columns: list[str] = []
        self._rows: list[dict[str, float]] = []

    def add(self, step: int, metrics: Mapping[str, float]) -> None:
        row = {"step": step, **metrics}
        self._rows.append(row)
        if self._path is not None and set(row) <= set(self._columns):
            append(self._path, self._as_csv([row], header=False))
        else:
            self._columns += [name for name in row if name not in self._columns]
            self._write()

    def state(self) -> list[dict[str, float]]:
        return list(self._rows)

    def load(self, rows: list[dict[str, float]]) -> None:
        """Replaces all rows, also in the file: those of a dead future go."""
        self._rows = list(rows)
        self._columns = list(dict.fromkeys(name for row in rows for name in row))
        self._write()

    def _write(self) -> None:
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_file(self._path, self._as_csv(self._rows, header=True))

    def _as_csv(self, rows: list[dict[str, float]], *, header: bool) -> bytes:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self._columns or ["step"])
        if header:
            writer.writeheader()
        writer.writerows(rows)
        return text.getvalue().encode()


def write_summary(path: Path, values: Mapping[str, Any]) -> None:
    """The run's final figures as one JSON object, for `dvc metrics`."""
    write_file(path, (json.dumps(dict(values), indent=2) + "\n").encode())
