"""Statistics for people: tables on a terminal, and a page with plots."""

from collections.abc import Iterator

from rich.console import Group
from rich.table import Table

from detcore.data.html_page import figure, heading, page, row, svg_address, table
from detcore.data.statistics.columns import DatasetColumns
from detcore.data.statistics.comparing import Difference
from detcore.data.statistics.describing import SplitStatistics, Statistics
from detcore.data.statistics.plots import plots

_MOST_CLASSES = 30
"""Rows of the terminal's table of classes; the page has all."""


def terminal_tables(statistics: Statistics) -> Group:
    """What `rich` prints: the splits, their classes, the differences, the buckets."""
    parts: list[Table | str] = [_rich(f"{statistics.name}; a · b · c: 5 %, median, 95 %", *_splits(statistics))]
    columns, rows = _classes(statistics)
    if rows:
        shown = rows[:_MOST_CLASSES]
        rest = f" (the {len(shown)} most frequent of {len(rows)})" if len(shown) < len(rows) else ""
        parts.append(_rich(f"objects / images by class{rest}", columns, shown))
    for name, difference in statistics.differences.items():
        parts.append(f"{name} against train: {_difference_line(name, difference)}")
    if any(split.pixels_by_class for split in statistics.splits.values()):
        parts.append(_rich("share of the labelled pixels", *_pixels(statistics)))
    parts += [_padding_line(statistics), _rich("", *_buckets(statistics))]
    return Group(*parts)


def statistics_page(statistics: Statistics, data: DatasetColumns) -> str:
    """A self-contained HTML document."""
    of = "prepared" if data.prepared else "raw"
    body = [
        heading("Splits", "Three numbers are the 5th percentile, the median and the 95th."),
        table(*_splits(statistics)),
    ]
    drawings = plots(statistics, data)
    names = list(drawings)
    wide = {"Share of the objects, by class", "Training images with both classes"}
    body.append(
        heading("Distributions", "Shares of each split, so that splits of any sizes compare. No crowd regions.")
    )
    body.append(row([_plot(name, drawings[name]) for name in names if name not in wide]))
    for name, difference in statistics.differences.items():
        body.append(heading(f"{name} against train", _difference_line(name, difference)))
        differing = [
            (label, f"{100 * a:.2f} %", f"{100 * b:.2f} %") for label, (a, b) in difference.most_different.items()
        ]
        if differing:
            body.append(table(("class", "of train's objects", f"of {name}'s objects"), differing))
    body.append(heading("Batches", _padding_line(statistics)))
    body.append(table(*_buckets(statistics)))
    columns, rows = _classes(statistics)
    if rows:
        body += [heading("Classes"), row([_plot(name, drawings[name]) for name in names if name in wide])]
        body.append(table(columns, rows))
    if any(split.pixels_by_class for split in statistics.splits.values()):
        body += [heading("Maps", "Share of the labelled pixels, of at most 300 maps."), table(*_pixels(statistics))]
    return page(statistics.name, f"Statistics of the {of} data", body)


def _plot(name: str, drawing: bytes) -> str:
    return figure(svg_address(drawing), name, kind="plot")


def _rich(title: str, columns: list[str], rows: list[list[object]]) -> Table:
    shown = Table(title=title or None, title_justify="left")
    for place, column in enumerate(columns):
        shown.add_column(column, justify="right" if place else "left")
    for values in rows:
        shown.add_row(*(f"{value:,}" if isinstance(value, int) else str(value) for value in values))
    return shown


def _splits(statistics: Statistics) -> tuple[list[str], list[list[object]]]:
    splits = list(statistics.splits.values())
    rows: list[list[object]] = [["images", *(split.images for split in splits)]]
    spreads = [("image height", "image_height", 0), ("image width", "image_width", 0)]
    if splits[0].objects_by_class:  # else there are maps alone
        rows += [
            ["without objects", *(split.images_without_objects for split in splits)],
            ["objects", *(split.objects for split in splits)],
            ["crowd, ignored", *(split.crowd for split in splits)],
        ]
        for area, bound in (("small", "< 32²"), ("medium", "32² to 96²"), ("large", "> 96²")):
            rows.append([f"{area} ({bound})", *(_with_share(split, area) for split in splits)])
        spreads = [
            ("objects in an image", "objects_per_image", 0),
            ("box size, pixels", "box_size", 0),
            ("box size / image size", "relative_box_size", 3),
            ("box width / height", "aspect_ratio", 2),
            *spreads,
        ]
    for name, key, digits in spreads:
        rows.append([name, *(_spread(getattr(split, key), digits) for split in splits)])
    return ["", *statistics.splits], rows


def _with_share(split: SplitStatistics, area: str) -> str:
    return f"{split.areas[area]:,} ({100 * split.areas[area] / max(split.objects, 1):.0f} %)"


def _spread(found: dict[str, float], digits: int) -> str:
    return " · ".join(f"{found[key]:,.{digits}f}" for key in ("p05", "median", "p95")) if found else "–"


def _classes(statistics: Statistics) -> tuple[list[str], list[list[object]]]:
    """By falling number of training objects."""
    splits = statistics.splits
    names = sorted(splits["train"].objects_by_class, key=lambda name: -splits["train"].objects_by_class[name])
    rows: list[list[object]] = [[name, *_of_class(statistics, name)] for name in names]
    return ["class", *(f"{name} {what}" for name in splits for what in ("objects", "images"))], rows


def _of_class(statistics: Statistics, name: str) -> Iterator[int]:
    for split in statistics.splits.values():
        yield split.objects_by_class[name]
        yield split.images_by_class[name]


def _buckets(statistics: Statistics) -> tuple[list[str], list[list[object]]]:
    rows: list[list[object]] = [
        [f"{bucket.width} x {bucket.height}", bucket.images, bucket.batches, f"{100 * bucket.waste:.1f} %"]
        for bucket in statistics.padding.buckets
    ]
    return ["batch, width x height", "images", "batches", "padding"], rows


def _padding_line(statistics: Statistics) -> str:
    found = statistics.padding
    return (
        f"training's first epoch in batches of {found.batch_size}: {100 * found.waste:.1f} % padded beside the images, "
        f"{100 * found.waste_with_empty_rows:.1f} % with the empty rows of batches that are not full"
    )


def _pixels(statistics: Statistics) -> tuple[list[str], list[list[object]]]:
    splits = {name: split.pixels_by_class for name, split in statistics.splits.items() if split.pixels_by_class}
    first = next(iter(splits.values()))
    names = sorted(first, key=lambda name: -first[name])
    return ["class", *splits], [[name, *(f"{100 * of[name]:.2f} %" for of in splits.values())] for name in names]


def _difference_line(name: str, difference: Difference) -> str:
    verdict = "more than" if difference.classes > difference.classes_by_chance else "within what"
    line = (
        f"classes differ by {difference.classes:.3f} of 1, {verdict} splits at random do "
        f"(95 %: {difference.classes_by_chance:.3f}); box sizes by {difference.sizes:.3f} of 1"
    )
    for names, where in ((difference.only_here, f"only in {name}"), (difference.only_in_train, f"not in {name}")):
        if names:
            line += f"; {where}: {', '.join(names[:8])}" + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    return line
