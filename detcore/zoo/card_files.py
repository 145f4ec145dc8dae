"""A model card as Markdown, as the registry's description, and as one HTML file with its pictures in it."""

import re
from collections.abc import Iterable, Iterator
from html import escape
from pathlib import Path

from PIL import Image

from detcore.data.html_page import figure, heading, jpeg_address, page, row, table
from detcore.zoo.card import Card, Section

_MARKUP = re.compile(r"([\\`*_\[\]<>|#])")
_WIDEST = 960


def markdown(card: Card, *, sections: Iterable[Section] | None = None) -> str:
    """The card as Markdown, without pictures."""
    lines = [f"# {_plain(card.title)}", "", _plain(card.about)]
    for section in card.sections if sections is None else sections:
        lines += ["", f"## {section.title}", *_markdown_body(section)]
    return "\n".join(lines) + "\n"


def description(card: Card, *, most: int) -> str:
    """The card for the registry's pages: as Markdown within so many characters.

    What is longest and least needed there goes first: the figures by class, then the end.
    """
    whole = markdown(card)
    if len(whole) <= most:
        return whole
    shorter = [
        Section(title=section.title, text="By class: card/card.html among the artifacts.")
        if section.title == card.classes
        else section
        for section in card.sections
    ]
    text = markdown(card, sections=shorter)
    return text if len(text) <= most else text[: most - 1] + "…"


def html(card: Card, pictures: Path | None) -> str:
    """The card as one file that needs nothing else.

    Args:
        pictures: an evaluation's folder, with curves (`*pr_curve.png`) and `pictures/*.png`; None leaves them out.
    """
    body: list[str] = []
    for section in card.sections:
        body += [heading(section.title), *_html_body(section)]
        if section.title == card.classes and pictures is not None:
            body += _pictures(pictures, card.kind)
    return page(card.title, card.about, body)


def _markdown_body(section: Section) -> Iterator[str]:
    if section.text:
        yield from ("", _plain(section.text))
    if section.points:
        yield from ("", *(f"- {_plain(point)}" for point in section.points))
    if section.code:
        yield from ("", "```python", section.code, "```")
    if section.columns:
        yield from ("", _row(section.columns), _row(["---", *["---:"] * (len(section.columns) - 1)], plain=False))
        yield from (_row(values) for values in section.rows)


def _row(values: Iterable[str], *, plain: bool = True) -> str:
    return f"| {' | '.join(_plain(value) if plain else value for value in values)} |"


def _plain(text: str) -> str:
    """Names of classes and what people typed are text: no link, picture or HTML comes of them."""
    return _MARKUP.sub(r"\\\1", " ".join(text.split()))


def _html_body(section: Section) -> Iterator[str]:
    if section.text:
        yield f"<p>{escape(section.text)}</p>"
    if section.points:
        yield f"<ul>{''.join(f'<li>{escape(point)}</li>' for point in section.points)}</ul>"
    if section.code:
        yield f"<pre>{escape(section.code)}</pre>"
    if section.columns:
        yield table(section.columns, section.rows)


def _pictures(folder: Path, kind: str) -> Iterator[str]:
    curves = sorted(folder.glob("*pr_curve.png"), key=lambda path: (len(path.name), path.name))
    if curves:
        yield heading("Precision over recall", "On test, at IoU 0.5.")
        names = [path.stem.removesuffix("pr_curve").rstrip("_") or kind for path in curves]
        yield row([figure(_address(path), name, kind="plot") for path, name in zip(curves, names, strict=True)])
    samples = sorted((folder / "pictures").glob("*.png"))
    if samples:
        yield heading("Samples", "Images of the test split, evenly spread: truth on the left, the model on the right.")
        yield row([figure(_address(path)) for path in samples])


def _address(path: Path) -> str:
    with Image.open(path) as opened:
        picture = opened.convert("RGB")
    picture.thumbnail((_WIDEST, _WIDEST))
    return jpeg_address(picture)
