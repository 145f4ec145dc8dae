"""Charts as SVG: they take their colours from the page, light or dark, and need nothing else."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64] | Sequence[float]
_WIDTH, _HEIGHT = 520.0, 320.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 48.0, 12.0, 12.0, 44.0
_PER_LETTER = 6.4
"""Width of a letter of the charts' text."""
_SHOWN_VALUES = 16
"""Classes up to which a heat map has its numbers written into it."""

STYLE = """
svg.chart { width: 100%; height: auto; display: block; font: 12px system-ui, sans-serif; }
svg.chart text { fill: var(--soft); } svg.chart text.strong { fill: var(--ink); }
svg.chart .grid { stroke: var(--line); stroke-width: 1; fill: none; }
svg.chart .faint { stroke: var(--soft); opacity: .28; stroke-width: 1.2; fill: none; }
svg.chart .faint:hover { stroke: var(--accent); opacity: 1; stroke-width: 2.4; }
svg.chart .mean { stroke: var(--accent); stroke-width: 2.6; fill: none; }
svg.chart .second { stroke: var(--good); stroke-width: 2; fill: none; }
svg.chart .third { stroke: var(--warn); stroke-width: 2; fill: none; }
svg.chart .mark { stroke: var(--ink); stroke-width: 1; stroke-dasharray: 3 3; fill: none; }
svg.chart .bar { fill: var(--accent); } svg.chart .bar.good { fill: var(--good); }
svg.chart .bar.bad { fill: var(--bad); } svg.chart .bar.soft { fill: var(--soft); opacity: .35; }
svg.chart .whisker { stroke: var(--ink); stroke-width: 1.4; } svg.chart .dot { fill: var(--ink); }
svg.chart .cell { fill: var(--accent); } svg.chart .cell.wrong { fill: var(--bad); }
svg.chart .frame { fill: none; stroke: var(--line); }
svg.chart .on { fill: #fff; }
svg.chart .strong { paint-order: stroke; stroke: var(--card, transparent); stroke-width: 3px; }
svg.chart .strong.bare { stroke: none; }
"""

_ALONE = """svg { --ink: #1c2128; --soft: #59636e; --line: #d1d9e0; --accent: #2563eb; --good: #1a7f37; --bad: #cf222e;
  --warn: #bc6c00; background: #fff; }
@media (prefers-color-scheme: dark) { svg { --ink: #e6edf3; --soft: #9198a1; --line: #3d444d; --accent: #6ea8fe;
  --good: #3fb950; --bad: #f85149; --warn: #d29922; background: #0d1117; } }"""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of a chart; `look` is a class of `STYLE`: faint, mean, second or third."""

    name: str
    x: Floats
    y: Floats
    look: str = "faint"


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A value with its name, what is written beside it, and, where it is known, its interval."""

    name: str
    value: float
    text: str
    low: float | None = None
    high: float | None = None
    look: str = ""


def svg(body: Iterable[str], *, width: float = _WIDTH, height: float = _HEIGHT, label: str) -> str:
    """A drawing of this size in its own units, as wide as there is room."""
    return (
        f'<svg class="chart" viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(label)}">'
        f"{''.join(body)}</svg>"
    )


def alone(chart: str) -> str:
    """A chart as a document of its own, with its own colours."""
    head, body = chart.split(">", 1)
    return f'{head} xmlns="http://www.w3.org/2000/svg"><style>{_ALONE}{STYLE}</style>{body}'


def lines(drawn: Sequence[Line], *, x_label: str, y_label: str, x_range: tuple[float, float] = (0.0, 1.0),
          mark: tuple[float, float, str] | None = None) -> str:  # fmt: skip
    """Lines over 0 to 1, each with its name where the pointer is; `mark` is a point that is named."""
    low, high = x_range

    def at_x(value: float) -> float:
        return _LEFT + (value - low) / (high - low) * (_WIDTH - _LEFT - _RIGHT)

    ticks = [(at_x(value), f"{value:.2g}") for value in np.linspace(low, high, 6).tolist()]
    body = _axes(ticks, x_label=x_label, y_label=y_label)
    for line in drawn:
        points = " ".join(f"{at_x(x):.1f},{_at_y(y):.1f}" for x, y in _thinned(line.x, line.y))
        body.append(f'<polyline class="{line.look}" points="{points}"><title>{escape(line.name)}</title></polyline>')
    if mark is not None:
        x, y, text = at_x(mark[0]), _at_y(mark[1]), mark[2]
        anchor, shift = ("end", -8) if x > _WIDTH / 2 else ("start", 8)
        body.append(f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{_at_y(0):.1f}" y2="{y:.1f}"/>')
        body.append(f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="4"/>')
        body.append(_text(x + shift, max(y - 8, 12), text, anchor=anchor, strong=True))
    named = [line for line in drawn if line.look != "faint"]
    if len(named) > 1:
        right = _WIDTH - _RIGHT
        for place, line in enumerate(reversed(named)):
            y = _at_y(0) - 10 - 16 * place
            length = _PER_LETTER * len(line.name)
            body.append(f'<line class="{line.look}" x1="{right - length - 30:.1f}" x2="{right - length - 10:.1f}" '
                        f'y1="{y - 4:.1f}" y2="{y - 4:.1f}"/>')  # fmt: skip
            body.append(_text(right - 4, y, line.name, anchor="end", strong=True))
    return svg(body, label=f"{y_label} over {x_label}")


def columns(
    bars: Sequence[Bar], *, x_label: str, y_label: str, whole: float = 1.0, diagonal: bool = False, wide: bool = False
) -> str:
    """Values from 0 to 1 side by side, their names below, what is written about each above it.

    Args:
        whole: what 1 is called on the axis.
        diagonal: draw where value and place are equal.
        wide: columns touch each other, their names stand at their borders.
    """
    slot = (_WIDTH - _LEFT - _RIGHT) / max(len(bars), 1)
    body = _axes([], x_label=x_label, y_label=y_label, whole=whole)
    for place, bar in enumerate(bars):
        left, gap = _LEFT + slot * place, 0.5 if wide else 0.16 * slot
        if np.isfinite(bar.value):
            top = _at_y(bar.value)
            body.append(
                f'<rect class="bar {bar.look}" x="{left + gap:.1f}" y="{top:.1f}" width="{slot - 2 * gap:.1f}" '
                f'height="{_at_y(0) - top:.1f}" rx="2"><title>{escape(bar.name)}: {escape(bar.text)}</title></rect>'
            )
        if not wide:
            height = top - 5 if np.isfinite(bar.value) else _at_y(0) - 5
            body.append(_text(left + slot / 2, height, bar.text, anchor="middle", strong=True))
        at = left if wide else left + slot / 2
        body.append(_text(at, _at_y(0) + 16, bar.name, anchor="middle"))
    if wide:
        body.append(_text(_LEFT + slot * len(bars), _at_y(0) + 16, "1", anchor="middle"))
    if diagonal:
        body.append(f'<line class="mark" x1="{_LEFT}" y1="{_at_y(0)}" x2="{_WIDTH - _RIGHT}" y2="{_at_y(1)}"/>')
    return svg(body, label=f"{y_label} by {x_label}")


def bars(rows: Sequence[Bar], *, label: str, zero: bool = False) -> str:
    """Values below each other, each as a bar from 0; with an interval, as a whisker. `zero`: they may be negative."""
    names = max((_PER_LETTER * len(row.name) for row in rows), default=0.0) + 14
    texts = max((_PER_LETTER * len(row.text) for row in rows), default=0.0) + 14
    values = [value for row in rows for value in (row.value, row.low, row.high, 0.0) if value is not None]
    low, high = (min(values), max(values)) if zero else (0.0, max(values))
    room = max(_WIDTH - names - texts, 120.0)
    scale = room / max(high - low, 1e-9)
    width, height = names + room + texts, 26.0 * len(rows) + 8
    origin = names - low * scale
    body = [f'<line class="grid" x1="{origin:.1f}" x2="{origin:.1f}" y1="0" y2="{height}"/>']
    for place, row in enumerate(rows):
        top = 4 + 26.0 * place
        start, length = origin + min(row.value, 0.0) * scale, abs(row.value) * scale
        body.append(_text(names - 8, top + 15, row.name, anchor="end", strong=True))
        body.append(f'<rect class="bar {row.look}" x="{start:.1f}" y="{top + 3}" width="{length:.1f}" height="16" '
                    f'rx="2"><title>{escape(row.name)}: {escape(row.text)}</title></rect>')  # fmt: skip
        end = max(row.value, 0.0)
        if row.low is not None and row.high is not None:
            left, right = origin + row.low * scale, origin + row.high * scale
            body.append(f'<path class="whisker" d="M{left:.1f} {top + 11}H{right:.1f}M{left:.1f} {top + 7}v8'
                        f'M{right:.1f} {top + 7}v8"/>')  # fmt: skip
            end = max(end, row.high)
        body.append(_text(origin + end * scale + 7, top + 15, row.text))
    return svg(body, width=width, height=height, label=label)


def heat_map(names: Sequence[str], shares: NDArray[np.float64], texts: Callable[[int, int], str]) -> str:
    """Shares from 0 to 1 by row and column; the diagonal in one colour, the rest in another.

    Args:
        names: of rows and columns.
        shares: (n, n).
        texts: what is said of a row and a column where the pointer is.
    """
    count = len(names)
    cell = max(9.0, min(40.0, 640.0 / count))
    label = _PER_LETTER * min(max(map(len, names), default=0), 24) + 12
    side = cell * count
    body = [_text(8, label - 26, "predicted →"), _text(8, label - 10, "true ↓")] if label > 60 else []
    font = f"{min(12.0, 0.8 * cell):g}px"
    for place, name in enumerate(names):
        short = name if len(name) <= 24 else f"{name[:23]}…"
        at = label + cell * (place + 0.5)
        body.append(f'<text x="{label - 6:.1f}" y="{at + 4:.1f}" text-anchor="end" style="font-size:{font}">'
                    f"{escape(short)}</text>")  # fmt: skip
        body.append(f'<text transform="translate({at + 4:.1f} {label - 6:.1f}) rotate(-90)" '
                    f'style="font-size:{font}">{escape(short)}</text>')  # fmt: skip
    body.append(f'<rect class="frame" x="{label:.1f}" y="{label:.1f}" width="{side:.1f}" height="{side:.1f}"/>')
    for row, column in zip(*np.nonzero(shares > 0), strict=True):
        share = float(shares[row, column])
        look = "cell" if row == column else "cell wrong"
        x, y = label + cell * column, label + cell * row
        body.append(
            f'<rect class="{look}" x="{x:.1f}" y="{y:.1f}" width="{cell:.1f}" height="{cell:.1f}" '
            f'fill-opacity="{0.06 + 0.94 * share:.2f}"><title>{escape(texts(int(row), int(column)))}</title></rect>'
        )
        if count <= _SHOWN_VALUES and share >= 0.005:
            ink = "on" if share > 0.5 else "strong bare"
            body.append(f'<text class="{ink}" x="{x + cell / 2:.1f}" y="{y + cell / 2 + 4:.1f}" text-anchor="middle" '
                        f'style="font-size:{0.3 * cell:.1f}px">{100 * share:.0f}</text>')  # fmt: skip
    return svg(body, width=label + side + 6, height=label + side + 6, label="confusion matrix")


def _axes(ticks: Sequence[tuple[float, str]], *, x_label: str, y_label: str, whole: float = 1.0) -> list[str]:
    right, bottom = _WIDTH - _RIGHT, _at_y(0)
    body = []
    for value in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = _at_y(value)
        body.append(f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        body.append(
            _text(_LEFT - 8, y + 4, f"{value * whole:,.3g}" if whole <= 100 else f"{value * whole:,.0f}", anchor="end")
        )
    body += [_text(x, bottom + 16, text, anchor="middle") for x, text in ticks]
    body.append(_text((_LEFT + right) / 2, _HEIGHT - 8, x_label, anchor="middle"))
    middle = (_TOP + bottom) / 2
    body.append(
        f'<text transform="translate(13 {middle:.1f}) rotate(-90)" text-anchor="middle">{escape(y_label)}</text>'
    )
    return body


def _at_y(value: float) -> float:
    return float(_HEIGHT - _BOTTOM - value * (_HEIGHT - _BOTTOM - _TOP))


def _thinned(x: Floats, y: Floats) -> list[tuple[float, float]]:
    """Without the points on a level between two others: curves of many classes are the larger part of a report."""
    points = np.stack((np.asarray(x, np.float64), np.asarray(y, np.float64)), axis=1)
    level = np.abs(np.diff(points[:, 1])) < 1e-4
    kept = np.ones(len(points), np.bool_)
    kept[1:-1] = ~(level[:-1] & level[1:])
    return [(float(a), float(b)) for a, b in points[kept]]


def _text(x: float, y: float, text: str, *, anchor: str = "start", strong: bool = False) -> str:
    look = ' class="strong"' if strong else ""
    return f'<text{look} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
