"""What a check found."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Group
from rich.markup import escape
from rich.table import Table

from detcore.data.checking.kinds import KINDS, LEVELS, Kind, Level

_MOST_PLACES = 20
_SHOWN_PLACES = 3
_STYLES = {"error": "bold red", "warning": "yellow", "note": "cyan"}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something that was found.

    Attributes:
        code: the key of `KINDS`.
        level: 'error' (prepare refuses, or results would be wrong), 'warning' (likely a slip), 'note'.
        what: in words.
        count: how many.
        of: of how many, 0 where that says nothing.
        places: the first 20, such as 'train: 000042.jpg: annotation 7'.
        mend: what to do.
    """

    code: str
    level: Level
    what: str
    count: int
    of: int
    places: tuple[str, ...]
    mend: str


def finding(code: str, places: Sequence[str], *, of: int = 0, count: int | None = None) -> list[Finding]:
    """A finding of a kind at its places; none where there is no place."""
    if not places:
        return []
    kind = KINDS.get(code) or Kind("warning", code.replace("_", " "), "look at them")  # a newer hotcoco's
    number = len(places) if count is None else count
    return [
        Finding(
            code=code,
            level=kind.level,
            what=kind.what,
            count=number,
            of=of,
            places=tuple(places[:_MOST_PLACES]),
            mend=kind.mend,
        )
    ]


@dataclass(frozen=True, kw_only=True)
class CheckReport:
    """All that was found in a data set, the worst first.

    Attributes:
        name, format: the data set's.
        images, objects: by split, of what could be read.
    """

    name: str
    format: str
    images: dict[str, int]
    objects: dict[str, int]
    findings: tuple[Finding, ...]

    @property
    def errors(self) -> int:
        """How many findings are errors."""
        return sum(finding.level == "error" for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Plain values that JSON can hold."""
        return {**asdict(self), "errors": self.errors}

    def table(self) -> Group:
        """What `rich` prints: the summary, and a row a finding, with its first places and how to mend it."""
        shown = Table(show_lines=True)
        shown.add_column("level")
        shown.add_column("what", ratio=3)
        shown.add_column("where", ratio=4, overflow="fold")
        shown.add_column("how to mend", ratio=3)
        for found in self.findings:
            rest = found.count - _SHOWN_PLACES
            more = [f"and {rest:,} more"] if rest > 0 else []
            share = f" of {found.of:,}" if found.of else ""
            shown.add_row(
                f"[{_STYLES[found.level]}]{found.level}[/]",
                f"{found.count:,}{share} {found.what}",
                escape("\n".join([*found.places[:_SHOWN_PLACES], *more])),
                found.mend,
            )
        return Group(escape(self.summary()), *([shown] if self.findings else []))

    def summary(self) -> str:
        """One line."""
        levels = [one.level for one in self.findings]
        counts = [f"{levels.count(level)} {level}{'' if levels.count(level) == 1 else 's'}" for level in LEVELS]
        data = ", ".join(
            f"{name} {images:,} images and {self.objects[name]:,} objects" for name, images in self.images.items()
        )
        return f"{self.name} ({self.format}): {data or 'nothing could be read'}: {', '.join(counts)}"
