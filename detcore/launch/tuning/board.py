"""The trials of a search as they stand, for people: a table in the terminal, which changes while they train."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.live import Live
from rich.table import Table

from detcore.config import EngineConfig
from detcore.config.variation import as_overrides
from detcore.launch.tuning.record import TrialRecord, best_of

_WIDE = 160
_SHOWN = 40
"""Rows of the table while it changes: those that train, then the best."""


def console() -> Console:
    """Standard output; where that is a file, wide enough for the table."""
    return Console(width=None if sys.stdout.isatty() else _WIDE)


@dataclass(kw_only=True)
class Row:
    """A trial: what is shown of it.

    Attributes:
        status: what became of it, or 'waiting' or 'training'.
        step: of its last evaluation.
        score: of that.
        best: step and value of its best one.
    """

    number: int
    values: Mapping[str, Any]
    status: str = "waiting"
    step: int = 0
    score: float | None = None
    best: tuple[int, float] | None = None
    note: str = ""

    @classmethod
    def of(cls, record: TrialRecord, engine: EngineConfig) -> Self:
        scores = record.scores(engine)
        step, score = scores[-1] if scores else (0, None)
        note = record.reason
        if record.taken_over:
            last = record.takeovers[record.taken_over - 1]
            note = f"from trial {last.donor} at step {last.step}" + (f"; {note}" if note else "")
        return cls(
            number=record.number,
            values=record.current,
            status=record.outcome or "waiting",
            step=step,
            score=score,
            best=best_of(scores),
            note=note,
        )


@dataclass(kw_only=True)
class Board:
    """All trials of a search. A context manager, in which a terminal shows them; elsewhere each change is a line.

    Attributes:
        total: how many trials there are to be.
        metric: the name of what decides, for the heading.
    """

    total: int
    steps: int
    metric: str
    rows: dict[int, Row] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._console = console()
        self._live: Live | None = None

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live = Live(self.table(most=_SHOWN), console=self._console, refresh_per_second=2)
            self._live.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._live is not None:
            self._live.update(self.table(most=_SHOWN))
            self._live.__exit__(kind, error, at)
            self._live = None

    def show(self, row: Row, change: str) -> None:
        """Takes a trial as it is now; `change` says what happened, for where there is no table."""
        self.rows[row.number] = row
        if self._live is not None:
            self._live.update(self.table(most=_SHOWN))
        else:
            print(f"trial {row.number}: {change}", file=sys.stdout, flush=True)

    def ranked(self) -> list[Row]:
        """The best first; without an evaluation last."""
        return sorted(self.rows.values(), key=lambda row: (-row.best[1] if row.best else float("inf"), row.number))

    def table(self, *, most: int | None = None) -> Table:
        """Those that train, and the others by rank.

        Args:
            most: rows.
        """
        counts = {
            status: sum(row.status == status for row in self.rows.values())
            for status in ("training", "finished", "stopped early", "failed")
        }
        title = f"{self.total} trials: " + ", ".join(f"{count} {status}" for status, count in counts.items() if count)
        table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
        keys = list(dict.fromkeys(key for row in self.rows.values() for key in row.values))
        table.add_column("trial", justify="right")
        for key in keys:
            table.add_column(key.rpartition(".")[2], justify="right", no_wrap=True)
        for name in ("step", f"{self.metric} now", "best", "at step"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("status")
        ranked = self.ranked()
        shown = sorted(ranked, key=lambda row: row.status != "training")[:most]
        for row in shown:
            first = bool(ranked) and row is ranked[0] and row.best is not None
            settings = [
                as_overrides({key: row.values[key]})[0].partition("=")[2] if key in row.values else "" for key in keys
            ]
            table.add_row(
                str(row.number),
                *settings,
                f"{row.step}/{self.steps}",
                "" if row.score is None else f"{row.score:.2f}",
                *(("", "") if row.best is None else (f"{row.best[1]:.2f}", str(row.best[0]))),
                row.status + (f" ({row.note})" if row.note else ""),
                style="bold green" if first else "dim" if row.status in ("stopped early", "failed") else None,
            )
        if len(shown) < len(ranked):
            table.caption = f"and {len(ranked) - len(shown)} more"
        return table
