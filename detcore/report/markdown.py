"""A report as Markdown, its charts and pictures as files beside it."""

from collections.abc import Iterator, Sequence

from detcore.data.html_page import jpeg
from detcore.report import charts
from detcore.report.parts import Cards, Charts, Heading, Part, Pictures, Points, Section, Table

FOLDER = "images"


def markdown(title: str, about: str, sections: Sequence[Section]) -> str:
    """The text; it shows the files of `files`, which lie in the folder `images` beside it."""
    lines = [f"# {_plain(title)}", "", _plain(about), ""]
    for section in sections:
        lines += [f"## {_plain(section.title)}", ""]
        if section.note:
            lines += [_plain(section.note), ""]
        for part in section.parts:
            lines += [*_part(part), ""]
    return "\n".join(lines)


def files(sections: Sequence[Section]) -> Iterator[tuple[str, bytes]]:
    """The names and contents of the charts and pictures."""
    for section in sections:
        for part in section.parts:
            match part:
                case Charts(charts=drawn):
                    for chart in drawn:
                        yield f"{chart.name}.svg", charts.alone(chart.drawing).encode()
                case Pictures(name=name, pictures=pictures):
                    for number, picture in enumerate(pictures, start=1):
                        yield f"{name}_{number:02d}.jpg", jpeg(picture.image, quality=82)


def _part(part: Part) -> list[str]:
    match part:
        case Heading(title=title, note=note):
            return [f"### {_plain(title)}", "", _plain(note)]
        case Cards(cards=cards):
            return [f"- {_plain(card.label)}: **{_plain(card.value)}** {_plain(card.note)}".rstrip() for card in cards]
        case Points(lines=lines):
            return [f"- {_plain(line)}" for line in lines]
        case Table(columns=columns, rows=rows):
            return [_row(columns), _row(["---", *["---:"] * (len(columns) - 1)]), *map(_row, rows)]
        case Charts(charts=drawn):
            shown = [(f"{FOLDER}/{chart.name}.svg", chart.caption) for chart in drawn]
        case Pictures(name=name, pictures=pictures):
            captions = (": ".join(filter(None, (one.file_name, one.caption))) for one in pictures)
            shown = [(f"{FOLDER}/{name}_{number:02d}.jpg", text) for number, text in enumerate(captions, start=1)]
    return [
        line for path, text in shown for line in (f"![{_plain(text)}]({path})", *((_plain(text),) if text else ()), "")
    ]


def _row(values: Sequence[object]) -> str:
    cells = (f"{value:,}" if isinstance(value, int) else _plain(str(value)) for value in values)
    return f"| {' | '.join(cells)} |"


def _plain(text: str) -> str:
    """What Markdown would take for its own signs, as letters."""
    for sign in "\\`*_[]<>|":
        text = text.replace(sign, f"\\{sign}")
    return " ".join(text.split())
