"""What happened to each fault that the tests inject: a row each, printed after them."""

from dataclasses import dataclass, field, replace


@dataclass(frozen=True, kw_only=True)
class Row:
    """One fault.

    Attributes:
        fault: what was done.
        outcome: what the training did.
        steps_lost: steps done twice; None where nothing went on by itself.
        seconds: until the next step, or until the error.
        survived: whether it was as it should be.
    """

    fault: str
    outcome: str
    steps_lost: int | None
    seconds: float | None
    survived: bool = True


@dataclass
class FaultTable:
    rows: list[Row] = field(default_factory=list)

    def add(self, fault: str, outcome: str, *, steps_lost: int | None = None, seconds: float | None = None) -> None:
        self.rows.append(Row(fault=fault, outcome=outcome, steps_lost=steps_lost, seconds=seconds))

    def take(self, test: str, rows: list[Row], *, passed: bool) -> None:
        """Adds the rows of a test. One that did not pass has at least one."""
        if not passed and not rows:
            rows = [Row(fault=test, outcome="the test did not come to an end", steps_lost=None, seconds=None)]
        self.rows.extend(replace(row, survived=passed) for row in rows)

    def __str__(self) -> str:
        """A Markdown table and a line of sums; empty without rows."""
        if not self.rows:
            return ""
        lines = ["| fault | outcome | steps lost | seconds |", "|---|---|---|---|"]
        for row in self.rows:
            lost = "" if row.steps_lost is None else str(row.steps_lost)
            seconds = "" if row.seconds is None else f"{row.seconds:.0f}"
            outcome = row.outcome if row.survived else f"**FAILED**: {row.outcome}"
            lines.append(f"| {row.fault} | {outcome} | {lost} | {seconds} |")
        lost = sum(row.steps_lost or 0 for row in self.rows)
        slowest = max((row.seconds or 0.0 for row in self.rows), default=0.0)
        survived = sum(row.survived for row in self.rows)
        lines.append(
            f"\n{len(self.rows)} faults injected, {survived} survived, {lost} steps done twice, at most {slowest:.0f} s"
        )
        return "\n".join(lines)
