"""What the sections of a report are made of, whatever they are written as."""

from collections.abc import Sequence
from dataclasses import dataclass

from detcore.report.pictures import Picture


@dataclass(frozen=True, kw_only=True)
class Card:
    """A figure that is read first."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Cards:
    """Figures beside each other."""

    cards: Sequence[Card]


@dataclass(frozen=True, kw_only=True)
class Points:
    """Sentences below each other."""

    lines: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Table:
    """Texts and numbers.

    Attributes:
        columns: their headings.
        rows: as long as these.
        bars: places of the columns of percentages that a bar may stand behind.
        folded: shown only when asked for, under this title; '' shows it.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[object]]
    bars: frozenset[int] = frozenset()
    folded: str = ""


@dataclass(frozen=True, kw_only=True)
class Chart:
    """An SVG drawing.

    Attributes:
        name: of its file, without the suffix.
        caption: below it.
        drawing: by `charts`.
    """

    name: str
    caption: str
    drawing: str


@dataclass(frozen=True, kw_only=True)
class Charts:
    """Drawings beside each other, where there is room."""

    charts: Sequence[Chart]


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Pictures beside each other, `small` ones or wide ones; `name` begins the names of their files."""

    name: str
    pictures: Sequence[Picture]
    small: bool = False


@dataclass(frozen=True, kw_only=True)
class Heading:
    """Of a part of a section, and a sentence below it."""

    title: str
    note: str = ""


Part = Heading | Cards | Points | Table | Charts | Pictures


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of a report under a heading; `anchor` is what a link to it says."""

    title: str
    anchor: str
    parts: Sequence[Part]
    note: str = ""
