"""What is known of a trial, in its folder: enough to go on after any end of the search."""

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Self

from detcore.config import EngineConfig
from detcore.engine.atomic import write_file

FILE_NAME = "trial.json"
LOG = "log.txt"
"""What the training of a trial prints."""
Outcome = Literal["finished", "stopped early", "failed"]


@dataclass(frozen=True, kw_only=True)
class Takeover:
    """A trial's going on from another's checkpoint.

    Attributes:
        donor: the other trial's number.
        step: of the checkpoint.
        values: the settings from there on.
    """

    donor: int
    step: int
    values: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """One trial, as `trial.json` in its folder keeps it.

    Attributes:
        number: 0, 1, …; that of its folder.
        folder: the run_dir of its training.
        values: the settings that it was begun with, by the keys of the space.
        takeovers: in their order; the last one's values are those that hold.
        taken_over: how many of these have been done; the last may have been begun only.
        outcome: None while it is to go on.
        reason: why it failed.
    """

    number: int
    folder: Path
    values: dict[str, Any]
    takeovers: tuple[Takeover, ...] = field(default=())
    taken_over: int = 0
    outcome: Outcome | None = None
    reason: str = ""

    @property
    def current(self) -> dict[str, Any]:
        """The settings that it trains with now."""
        return self.takeovers[-1].values if self.takeovers else self.values

    @property
    def ended(self) -> bool:
        """For good: what failed is tried again by the next search in the same folder."""
        return self.outcome in ("finished", "stopped early")

    def save(self) -> Self:
        """Writes the file, whole or not at all."""
        self.folder.mkdir(parents=True, exist_ok=True)
        kept = {key: value for key, value in asdict(self).items() if key != "folder"}
        write_file(self.folder / FILE_NAME, (json.dumps(kept, indent=2) + "\n").encode())
        return self

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The reverse of `save`.

        Raises:
            ValueError: if the file is broken.
            OSError: if there is none.
        """
        path = folder / FILE_NAME
        try:
            kept = json.loads(path.read_text())
            takeovers = tuple(Takeover(**each) for each in kept.pop("takeovers"))
            return cls(folder=folder, takeovers=takeovers, **kept)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{path} is broken ({error}); remove {folder} to have this trial run anew") from error

    def concluded(self, outcome: Outcome, reason: str = "") -> Self:
        """The same with its end."""
        return replace(self, outcome=outcome, reason=reason)

    def scores(self, engine: EngineConfig) -> list[tuple[int, float]]:
        """Step and value of the metric that decides, on val, of each evaluation so far."""
        return [(int(row["step"]), row[engine.monitored(row)]) for row in self.evaluations()]

    def evaluations(self) -> list[dict[str, float]]:
        """All figures of each, in the order of steps. A line that is being written is not yet there."""
        path = self.folder / "evaluations.csv"
        lines = path.read_text() if path.is_file() else ""
        whole = lines[: lines.rfind("\n") + 1]
        return [
            {name: float(value) for name, value in row.items() if value} for row in csv.DictReader(io.StringIO(whole))
        ]


def trial_folder(sweep: Path, number: int) -> Path:
    return sweep / "trials" / f"{number:04d}"


def read_trials(sweep: Path) -> dict[int, TrialRecord]:
    """Those that have begun, by number."""
    found = (TrialRecord.load(path.parent) for path in sorted((sweep / "trials").glob(f"*/{FILE_NAME}")))
    return {record.number: record for record in found}


def best_of(scores: list[tuple[int, float]]) -> tuple[int, float] | None:
    """The evaluation with the highest value, the earlier of two equals; None of none."""
    return max(scores, key=lambda found: (found[1], -found[0]), default=None)


NUMBER = "trial"
"""The key by which Ray hands a trial its number, among its settings."""


@dataclass(frozen=True)
class Listed:
    """A list or a mapping on its way through Ray, which would look for something to draw in it."""

    text: str


def for_ray(record: TrialRecord) -> dict[str, Any]:
    """What Ray hands a trial: its number and its settings."""
    return {NUMBER: record.number, **{key: as_one(value) for key, value in record.current.items()}}


def from_ray(handed: Mapping[str, Any]) -> dict[str, Any]:
    """The settings in it."""
    values = {key: value for key, value in handed.items() if key != NUMBER}
    return {key: json.loads(value.text) if isinstance(value, Listed) else value for key, value in values.items()}


def as_one(value: Any) -> Any:
    return Listed(json.dumps(value)) if isinstance(value, list | tuple | dict) else value
