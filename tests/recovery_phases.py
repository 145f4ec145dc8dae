"""Where the seconds of a recovery went: read from what Ray Train's controller has noted of it, in the head's logs."""

import json
import time
from dataclasses import dataclass, field
from pathlib import Path

PHASES = {
    "noticed": "[FailurePolicy] RETRY",
    "old group ended": "Worker group shutdown successful",
    "placed": "Placement group ready in",
    "processes": "worker actors created in",
    "imports": "Train context initialized on workers",
    "group joined": "Train function launched on workers",
}
"""The end of each, as the controller notes it; then follows what the ranks do until their first step."""
FIRST = ("noticed", "old group ended")
"""Of these the first counts: where there is no room for the new group it is tried again."""
LAST = "first step"


@dataclass
class Recoveries:
    """One row for each recovery: what went wrong, and the seconds of each phase."""

    rows: list[tuple[str, dict[str, float]]] = field(default_factory=list)

    def add(self, fault: str, logs: Path, *, begin: float, end: float) -> None:
        """Notes the recovery between two times by the clock.

        Args:
            logs: the session's folder of Ray Train's logs on the machine of the driver.
        """
        found: dict[str, float] = {}
        for path in logs.glob("ray-train-sys-controller-*.log"):
            for line in path.read_text().splitlines():
                when, message = _record(line)
                for phase, sign in PHASES.items():
                    if begin <= when <= end and sign in message and not (phase in FIRST and phase in found):
                        found[phase] = when
        times = [begin, *(found[phase] for phase in PHASES if phase in found), end]
        names = [*(phase for phase in PHASES if phase in found), LAST]
        seconds = {name: times[index + 1] - times[index] for index, name in enumerate(names)}
        self.rows.append((fault, seconds))

    def __str__(self) -> str:
        """A Markdown table; empty without rows."""
        if not self.rows:
            return ""
        columns = [*PHASES, LAST]
        lines = [f"| seconds until | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}"]
        for fault, seconds in self.rows:
            cells = (f"{seconds[column]:.1f}" if column in seconds else "" for column in columns)
            lines.append(f"| {fault} | {' | '.join(cells)} |")
        return "\n".join(lines)


def _record(line: str) -> tuple[float, str]:
    try:
        noted = json.loads(line)
        seconds, milliseconds = noted["asctime"].split(",")
        return time.mktime(time.strptime(seconds, "%Y-%m-%d %H:%M:%S")) + int(milliseconds) / 1000, noted["message"]
    except (ValueError, KeyError):  # a line that is still being written
        return 0.0, ""
