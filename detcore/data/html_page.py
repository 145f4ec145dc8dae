"""Reports as one HTML file that needs nothing else: pictures and styles are in it."""

import base64
import io
from collections.abc import Collection, Sequence
from html import escape
from pathlib import Path

from PIL import Image

_STYLE = """
:root { color-scheme: light dark;
  --ink: #1c2128; --soft: #59636e; --ground: #ffffff; --line: #d1d9e0; --wash: #f6f8fa; --share-ink: #2563eb80; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6edf3; --soft: #9198a1; --ground: #0d1117; --line: #3d444d; --wash: #151b23; }
  img.plot { background: #ffffff; border-radius: 6px; }
}
body { margin: 2rem auto; max-width: 90rem; padding: 0 1.5rem; background: var(--ground); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin: 0; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; border-bottom: 1px solid var(--line); padding-bottom: .3rem; }
p.about, figcaption, .soft { color: var(--soft); }
p.about { margin: .2rem 0 1.5rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: .6rem 0; }
th, td { padding: .25rem .8rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
th { background: var(--wash); font-weight: 600; }
figure { margin: 0; flex: 1 1 24rem; max-width: 48rem; }
figure:has(img.plot) { flex-basis: 32rem; }
figure img { width: 100%; height: auto; display: block; }
figcaption { font-size: .85rem; margin: .3rem 0 .8rem; }
td.share { background: linear-gradient(90deg, var(--share-ink) var(--share), transparent 0) no-repeat;
  background-size: calc(100% - 1.2rem) 3px; background-position: .6rem calc(100% - 1px); }
.row { display: flex; flex-wrap: wrap; gap: 1rem; align-items: flex-start; }
.scroll { overflow-x: auto; }
"""


def page(title: str, about: str, body: Sequence[str], *, style: str = "", script: str = "") -> str:
    """A whole HTML document; `title` and `about` are texts, `body` is HTML, `style` and `script` are added to it."""
    return "\n".join(
        (
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title><style>{_STYLE}{style}</style></head><body>",
            f'<h1>{escape(title)}</h1><p class="about">{escape(about)}</p>',
            *body,
            f"<script>{script}</script>" if script else "",
            "</body></html>",
            "",
        )
    )


def heading(text: str, note: str = "", *, anchor: str = "") -> str:
    """A section's heading, and a sentence below it; links lead to its `anchor`."""
    place = f' id="{escape(anchor)}"' if anchor else ""
    return f"<h2{place}>{escape(text)}</h2>" + (f'<p class="soft">{escape(note)}</p>' if note else "")


def figure(source: str, caption: str = "", *, kind: str = "picture") -> str:
    """A picture by its `data:` address; `kind` is 'picture' or 'plot'."""
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f'<figure><img class="{kind}" src="{source}" alt="{escape(caption)}">{below}</figure>'


def row(figures: Sequence[str]) -> str:
    """Figures side by side, as many as there is room for."""
    return f'<div class="row">{"".join(figures)}</div>'


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, bars: Collection[int] = ()) -> str:
    """Texts and numbers; the first column is to the left. Columns of `bars` are percentages, with a bar behind them."""

    def cells(tag: str, values: Sequence[object]) -> str:
        return "<tr>" + "".join(cell(tag, place, _text(value)) for place, value in enumerate(values)) + "</tr>"

    def cell(tag: str, place: int, text: str) -> str:
        share = text if tag == "td" and place in bars and text.replace(".", "", 1).isdigit() else ""
        behind = f' class="share" style="--share:{share}%"' if share else ""
        return f"<{tag}{behind}>{escape(text)}</{tag}>"

    lines = "".join(cells("td", values) for values in rows)
    return f'<div class="scroll"><table><thead>{cells("th", columns)}</thead><tbody>{lines}</tbody></table></div>'


def _text(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def jpeg(picture: Image.Image, *, quality: int = 90) -> bytes:
    """An RGB picture as a file."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality, subsampling=0)
    return buffer.getvalue()


def jpeg_address(picture: Image.Image, *, quality: int = 90) -> str:
    """An RGB picture as a `data:` address."""
    return _address("image/jpeg", jpeg(picture, quality=quality))


def svg_address(drawing: bytes) -> str:
    """An SVG document as a `data:` address."""
    return _address("image/svg+xml", drawing)


def _address(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def writable(file: Path, option: str) -> Path:
    """A file that is yet to be written: refused now rather than after the work.

    Raises:
        ValueError: it is a folder, or its own folder does not exist.
    """
    if file.is_dir() or not file.absolute().parent.is_dir():
        raise ValueError(f"{option} {file}: no file can be written there")
    return file
