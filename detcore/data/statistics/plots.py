"""Statistics as plots, each an SVG document."""

import io
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from detcore.data.statistics.columns import DatasetColumns, SplitColumns
from detcore.data.statistics.describing import MEDIUM, SMALL, Statistics, box_measures

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_CLASSES = 60
"""Bars more than this could not be read."""
_BINS = 30
_COLOURS = {"train": "#1f77b4", "val": "#ff7f0e", "test": "#2ca02c"}


def plots(statistics: Statistics, data: DatasetColumns) -> dict[str, bytes]:
    """An SVG document for each title, in order."""
    found = {}
    if data.categories:
        found["Share of the objects, by class"] = _classes(statistics)
        found["Objects in an image"] = _objects_per_image(data.splits)
        measures = {name: box_measures(split) for name, split in data.splits.items()}
        for title, place, label in (
            ("Box size", 0, "root of width x height, pixels; lines: COCO's small, medium, large"),
            ("Box size relative to the image", 1, "root of the share of the image's area"),
            ("Box aspect ratio", 2, "width / height"),
        ):
            marks = (SMALL**0.5, MEDIUM**0.5) if place == 0 else (1.0,) if place == 2 else ()
            found[title] = _histogram({name: of[place] for name, of in measures.items()}, label, marks)
    found["Image sizes"] = _image_sizes(statistics, data.splits)
    if statistics.cooccurrence is not None:
        found["Training images with both classes"] = _cooccurrence(*statistics.cooccurrence)
    return found


def _drawn(size: tuple[float, float], plot: Callable[["Axes"], None]) -> bytes:
    # Here, for all that look at data import this room.
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasSVG(figure)  # type: ignore[no-untyped-call]  # no window system, no global state
    plot(figure.add_subplot())
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def _classes(statistics: Statistics) -> bytes:
    counts = {name: split.objects_by_class for name, split in statistics.splits.items()}
    order = sorted(counts["train"], key=lambda name: -counts["train"][name])[:_MOST_CLASSES]
    height = 0.8 / len(counts)

    def plot(axes: "Axes") -> None:
        for place, (split, of_split) in enumerate(counts.items()):
            total = max(sum(of_split.values()), 1)
            rows = np.arange(len(order)) + (place - (len(counts) - 1) / 2) * height
            axes.barh(
                rows, [100 * of_split[name] / total for name in order], height, color=_COLOURS[split], label=split
            )
        axes.set_yticks(np.arange(len(order)), order)
        axes.set(xlabel="% of the split's objects", ylim=(len(order) - 0.5, -0.5))
        axes.grid(axis="x", alpha=0.3)
        axes.legend(frameon=False, loc="lower right")

    return _drawn((8.0, 1.0 + 0.26 * len(order)), plot)


def _objects_per_image(splits: Mapping[str, SplitColumns]) -> bytes:
    numbers = {
        name: np.bincount(split.samples[~split.crowd], minlength=len(split.sizes)) for name, split in splits.items()
    }
    most = max(int(of.max(initial=0)) for of in numbers.values())
    step = max(1, -(-most // _BINS))
    return _drawn(
        (8.0, 3.6),
        lambda axes: _steps(axes, numbers, np.arange(0, most + 2 * step, step) - 0.5, "objects in an image", "images"),
    )


def _histogram(values: Mapping[str, NDArray[np.float64]], label: str, marks: tuple[float, ...]) -> bytes:
    everything = np.concatenate(list(values.values()))
    low, high = (everything.min(), everything.max()) if len(everything) else (1.0, 1.0)

    from matplotlib.ticker import LogLocator, NullFormatter

    def plot(axes: "Axes") -> None:
        _steps(axes, values, np.geomspace(low * 0.999, high * 1.001, _BINS + 1), label, "objects")
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        for mark in marks:
            axes.axvline(mark, color="0.4", linewidth=0.8, linestyle="--")

    return _drawn((8.0, 3.6), plot)


def _steps(axes: "Axes", values: Mapping[str, NDArray[Any]], edges: NDArray[Any], label: str, what: str) -> None:
    for name, of_split in values.items():
        counts = np.histogram(of_split, edges)[0]
        axes.stairs(100 * counts / max(len(of_split), 1), edges, color=_COLOURS[name], label=name, linewidth=1.5)
    axes.set(xlabel=label, ylabel=f"% of the split's {what}")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)


def _image_sizes(statistics: Statistics, splits: Mapping[str, SplitColumns]) -> bytes:
    def plot(axes: "Axes") -> None:
        for name, split in splits.items():
            sizes, counts = np.unique(split.sizes, axis=0, return_counts=True)
            area = 12 + 300 * counts / counts.max(initial=1)
            axes.scatter(sizes[:, 1], sizes[:, 0], area, color=_COLOURS[name], alpha=0.4, linewidth=0, label=name)
        axes.set(xlabel="width, pixels", ylabel="height, pixels")
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        legend = axes.legend(frameon=False, loc="upper left")
        for handle in legend.legend_handles:
            handle.set_sizes([40])  # type: ignore[union-attr]

    return _drawn((8.0, 3.6), plot)


def _cooccurrence(names: list[str], together: list[list[int]]) -> bytes:
    counts = np.array(together)

    def plot(axes: "Axes") -> None:
        axes.imshow(np.log1p(counts), cmap="Blues")
        axes.set_xticks(range(len(names)), names, rotation=60, ha="right")
        axes.set_yticks(range(len(names)), names)
        for row, column in np.ndindex(counts.shape):
            dark = np.log1p(counts[row, column]) > 0.6 * np.log1p(counts.max())
            axes.text(
                column, row, f"{counts[row, column]:,}", ha="center", va="center",
                fontsize=7, color="white" if dark else "black",
            )  # fmt: skip

    side = 2.5 + 0.42 * len(names)
    return _drawn((side, side), plot)
