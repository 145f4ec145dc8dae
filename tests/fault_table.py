"""What happened to each fault that the tests inject: a row each, printed after them."""

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Row:
    """One fault.

    Attributes:
        fault: what was done.
        outcome: what the training did.
        steps_lost: steps done twice; None where nothing went on by itself.
        seconds: until the next step, or until the error.
    """

    fault: str
    outcome: str
    steps_lost: int | None
    seconds: float | None


@dataclass
class FaultTable:
    rows: list[Row] = field(default_factory=list)

    def add(self, fault: str, outcome: str, *, steps_lost: int | None = None, seconds: float | None = None) -> None:
        self.rows.append(Row(fault=fault, outcome=outcome, steps_lost=steps_lost, seconds=seconds))

    def __str__(self) -> str:
        """A Markdown table and a line of sums; empty without rows."""
        if not self.rows:
            return ""
        lines = ["| fault | outcome | steps lost | seconds |", "|---|---|---|---|"]
        for row in self.rows:
            lost = "" if row.steps_lost is None else str(row.steps_lost)
            seconds = "" if row.seconds is None else f"{row.seconds:.0f}"
            lines.append(f"| {row.fault} | {row.outcome} | {lost} | {seconds} |")
        lost = sum(row.steps_lost or 0 for row in self.rows)
        slowest = max((row.seconds or 0.0 for row in self.rows), default=0.0)
        lines.append(
            f"\n{len(self.rows)} faults injected and survived, {lost} steps done twice, at most {slowest:.0f} s"
        )
        return "\n".join(lines)
