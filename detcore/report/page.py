"""A report as one HTML file that opens anywhere: no address in it leads out of it."""

from collections.abc import Sequence
from html import escape

from detcore.data.html_page import figure, heading, jpeg_address, page, table
from detcore.report import charts
from detcore.report.parts import Cards, Charts, Heading, Part, Pictures, Points, Section, Table

_QUALITY = 82
_STYLE = (
    """
:root { --accent: #2563eb; --good: #1a7f37; --bad: #cf222e; --warn: #bc6c00; --card: #ffffff; }
@media (prefers-color-scheme: dark) { :root { --accent: #6ea8fe; --good: #3fb950; --bad: #f85149; --warn: #d29922;
  --card: #151b23; } }
html { scroll-behavior: smooth; scroll-padding-top: 3.4rem; }
body { max-width: 76rem; }
h2 { border: 0; margin-top: 2.8rem; font-size: 1.25rem; }
h3 { font-size: 1.05rem; margin: 1.8rem 0 .3rem; }
h2 + p.soft, h3 + p.soft { margin-top: -.3rem; max-width: 60rem; }
nav { position: sticky; top: 0; z-index: 2; background: var(--ground); border-bottom: 1px solid var(--line);
  display: flex; gap: .2rem; overflow-x: auto; padding: .5rem 0; margin: 0 -.4rem; }
nav a { color: var(--soft); text-decoration: none; white-space: nowrap; padding: .15rem .6rem; border-radius: 1rem; }
nav a:hover { background: var(--wash); color: var(--ink); }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(11.5rem, 1fr)); gap: .8rem; margin: 1rem 0; }
.card { border: 1px solid var(--line); border-radius: .7rem; padding: .8rem 1rem; background: var(--card); }
.card b { display: block; font-size: 1.9rem; line-height: 1.25; font-weight: 650; font-variant-numeric: tabular-nums; }
.card span { color: var(--soft); font-size: .85rem; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); gap: 1rem; }
.charts figure { border: 1px solid var(--line); border-radius: .7rem; padding: .8rem; background: var(--card);
  max-width: 44rem; min-width: 0; }
.charts figcaption { margin: .5rem 0 0; }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 32rem), 1fr)); gap: 1rem; }
.pictures.small { grid-template-columns: repeat(auto-fill, minmax(min(100%, 16rem), 1fr)); }
.pictures figure { max-width: none; }
.pictures img { border-radius: .5rem; }
.scroll { max-height: 34rem; overflow: auto; } .scroll th { position: sticky; top: 0; z-index: 1; }
.charts + .scroll, .charts + details { margin-top: 1rem; }
img { cursor: zoom-in; }
img.zoomed { position: fixed; inset: 0; z-index: 3; width: 100vw; height: 100vh; cursor: zoom-out;
  object-fit: contain; background: #000c; border-radius: 0 !important; }
details { margin: .8rem 0; } summary { cursor: pointer; color: var(--soft); }
ul.points { padding-left: 1.2rem; }
th[role=button] { cursor: pointer; }
th[aria-sort]::after { content: " ↓"; } th[aria-sort=ascending]::after { content: " ↑"; }
@media (max-width: 40rem) { body { padding: 0 .8rem; margin-top: 1rem; } .card b { font-size: 1.5rem; }
  .cards { grid-template-columns: repeat(2, 1fr); gap: .5rem; } .card { padding: .6rem .7rem; } }
@media print { nav { display: none; } }
"""
    + charts.STYLE
)
_SCRIPT = """
for (const image of document.images) image.addEventListener("click", () => image.classList.toggle("zoomed"));
document.addEventListener("keydown", event => {
  if (event.key === "Escape") document.querySelector("img.zoomed")?.classList.remove("zoomed");
});
for (const table of document.querySelectorAll("table"))
for (const [place, head] of [...table.tHead.rows[0].cells].entries()) {
  head.setAttribute("role", "button"); head.tabIndex = 0;
  const sort = () => {
    const down = head.getAttribute("aria-sort") !== "descending", body = table.tBodies[0];
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const value = row => row.cells[place].textContent, number = text => parseFloat(text.replace(/,/g, ""));
    const rows = [...body.rows].sort((a, b) => {
      const [x, y] = [number(value(a)), number(value(b))];
      if (isNaN(x) && isNaN(y)) return value(a).localeCompare(value(b)) * (down ? 1 : -1);
      if (isNaN(x) || isNaN(y)) return isNaN(x) - isNaN(y);
      return down ? y - x : x - y;
    });
    body.append(...rows);
  };
  head.addEventListener("click", sort);
  head.addEventListener("keydown", event => { if (event.key === "Enter") sort(); });
}
"""


def html(title: str, about: str, sections: Sequence[Section]) -> str:
    """The whole document."""
    links = "".join(f'<a href="#{section.anchor}">{escape(section.title)}</a>' for section in sections)
    body = [f"<nav>{links}</nav>"]
    for section in sections:
        body.append(heading(section.title, section.note, anchor=section.anchor))
        body += [_part(part) for part in section.parts]
    return page(title, about, body, style=_STYLE, script=_SCRIPT)


def _part(part: Part) -> str:
    match part:
        case Heading(title=title, note=note):
            return f'<h3>{escape(title)}</h3><p class="soft">{escape(note)}</p>'
        case Cards(cards=cards):
            inner = "".join(
                f'<div class="card"><span>{escape(card.label)}</span><b>{escape(card.value)}</b>'
                f"<span>{escape(card.note)}</span></div>"
                for card in cards
            )
            return f'<div class="cards">{inner}</div>'
        case Points(lines=lines):
            return f'<ul class="points">{"".join(f"<li>{escape(line)}</li>" for line in lines)}</ul>' if lines else ""
        case Table(columns=columns, rows=rows, bars=bars, folded=folded):
            shown = table(columns, rows, bars=bars)
            return f"<details><summary>{escape(folded)}</summary>{shown}</details>" if folded else shown
        case Charts(charts=drawn):
            figures = (f"<figure>{one.drawing}{_caption(one.caption)}</figure>" for one in drawn)
            return f'<div class="charts">{"".join(figures)}</div>'
        case Pictures(pictures=pictures, small=small):
            figures = (
                figure(jpeg_address(one.image, quality=_QUALITY), ": ".join(filter(None, (one.file_name, one.caption))))
                for one in pictures
            )
            look = "pictures small" if small else "pictures"
            return f'<div class="{look}">{"".join(figures)}</div>'


def _caption(text: str) -> str:
    return f"<figcaption>{escape(text)}</figcaption>" if text else ""
