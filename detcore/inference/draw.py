"""Boxes, masks and captions on an image, legible on a thumbnail as on a photograph."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFilter
from pycocotools import mask as coco_mask

from detcore.data import Objects
from detcore.inference.colours import OPACITY, RGB, class_colour, font_of
from detcore.inference.regions import Regions, name_regions, with_regions

_SMALLEST_CANVAS = 720
"""Smaller images are enlarged until their longer side has so many pixels: captions need room."""
_LARGEST_PANEL = 1000
"""Longer side of an image in a comparison, which is two images wide."""
_FARTHEST = 1e5
"""Pixels; points beyond are moved there: the rasteriser walks every outline step by step."""
Box = tuple[float, float, float, float]


@dataclass(frozen=True, kw_only=True, eq=False)
class Drawing:
    """What goes on an image, in its pixels; the first object is drawn on top.

    Attributes:
        boxes_xyxy: (n, 4).
        labels: (n,) int, 0-based classes.
        captions: n texts; an empty one leaves no tag.
        masks: (n, height, width) bool, or None.
        polygons: the rings, (k, 2) each, of n objects, or None.
        keypoints: (n, K, 3), x, y and visibility or score, or None; drawn where that is above 0.
        skeleton: pairs of keypoints that a line is drawn between.
        boxes_xywha: (n, 5) rotated boxes, drawn for the upright ones, or None.
        regions: drawn below all, or None.
        colours: (n,) int, the number of each object's colour; None takes its class.
    """

    boxes_xyxy: NDArray[np.float64]
    labels: NDArray[np.int64]
    captions: Sequence[str]
    masks: NDArray[np.bool_] | None = None
    polygons: Sequence[Sequence[NDArray[np.float64]]] | None = None
    keypoints: NDArray[np.float64] | None = None
    skeleton: Sequence[tuple[int, int]] = ()
    boxes_xywha: NDArray[np.float64] | None = None
    regions: Regions | None = None
    colours: NDArray[np.int64] | None = None

    def colour(self, index: int) -> RGB:
        """Of an object."""
        return class_colour(int((self.labels if self.colours is None else self.colours)[index]))


def truth_drawing(objects: Objects, categories: Sequence[str]) -> Drawing:
    """Ground truth as a drawing; crowd regions say so."""
    names = [
        categories[label] + (" (crowd)" if crowd else "")
        for label, crowd in zip(objects.labels.tolist(), objects.crowd.tolist(), strict=True)
    ]
    return Drawing(
        boxes_xyxy=objects.boxes_xyxy,
        labels=objects.labels,
        captions=names,
        polygons=objects.polygons,
        keypoints=objects.keypoints,
        boxes_xywha=objects.boxes_xywha,
    )


def draw(image: Image.Image | NDArray[np.uint8], drawing: Drawing, *, max_side: int | None = None) -> Image.Image:
    """The image with a drawing on it, RGB.

    Args:
        image: PIL, or (H, W, 3) uint8 RGB. One whose longer side is below 720 pixels is enlarged to that.
        drawing: in pixels of the image as given.
        max_side: an image with a longer side is shrunk to it first.
    """
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    longest = max(picture.size)
    factor = max(longest, _SMALLEST_CANVAS) / longest
    if max_side is not None:
        factor = min(factor, max_side / longest)
    canvas = picture.convert("RGB")
    if factor != 1.0:
        size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
        canvas = canvas.resize(size, Image.Resampling.BICUBIC)
    line = max(2, round(max(canvas.size) / 400))
    if drawing.regions is not None:
        canvas = with_regions(canvas, drawing.regions)
    order = range(len(drawing.captions) - 1, -1, -1)
    for index in order:
        _draw_mask(canvas, drawing, index, factor, line)
    pen = ImageDraw.Draw(canvas)
    boxes: list[Box] = [tuple(box) for box in (np.asarray(drawing.boxes_xyxy, np.float64) * factor).tolist()]
    for index in order:
        colour = drawing.colour(index)
        # A dark rim keeps the line visible on ground of its own colour.
        if drawing.boxes_xywha is not None:
            corners = _corners(drawing.boxes_xywha[index] * (factor, factor, factor, factor, 1.0))
            pen.line(corners, fill=(0, 0, 0), width=line + 2, joint="curve")
            pen.line(corners, fill=colour, width=line, joint="curve")
        else:
            pen.rectangle(_grown(boxes[index], line // 2 + 1), outline=(0, 0, 0), width=1)
            pen.rectangle(_grown(boxes[index], line // 2), outline=colour, width=line)
        if drawing.keypoints is not None:
            _draw_keypoints(pen, drawing.keypoints[index] * (factor, factor, 1.0), drawing.skeleton, colour, line)
    _draw_captions(canvas, drawing, boxes, line)
    if drawing.regions is not None:
        name_regions(canvas, drawing.regions)
    return canvas


def compare(
    image: Image.Image | NDArray[np.uint8],
    truth: Drawing,
    prediction: Drawing,
    *,
    titles: tuple[str, str] = ("truth", "prediction"),
) -> Image.Image:
    """Truth beside prediction on one picture, each under its title and, where there are objects, their number."""
    panels = [draw(image, drawing, max_side=_LARGEST_PANEL) for drawing in (truth, prediction)]
    width, height = panels[0].size
    gap = max(4, width // 100)
    font = font_of(max(16, width // 32))
    band = round(font.size * 1.7)
    sheet = Image.new("RGB", (2 * width + gap, height + band), (255, 255, 255))
    pen = ImageDraw.Draw(sheet)
    for column, (panel, title, drawing) in enumerate(zip(panels, titles, (truth, prediction), strict=True)):
        left = column * (width + gap)
        if drawing.captions or drawing.regions is None:
            title = f"{title}: {len(drawing.captions)}"
        pen.text((left + gap, band / 2), title, fill=(20, 20, 20), font=font, anchor="lm")
        sheet.paste(panel, (left, band))
    return sheet


def _corners(box_xywha: NDArray[np.float64]) -> list[tuple[float, float]]:
    """The outline of a rotated box, closed."""
    x, y, width, height, angle = box_xywha.tolist()
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    signs = ((-1, -1), (1, -1), (1, 1), (-1, 1), (-1, -1))
    return [
        (x + (a * width * cos + b * height * sin) / 2, y + (-a * width * sin + b * height * cos) / 2) for a, b in signs
    ]


def _draw_keypoints(
    pen: ImageDraw.ImageDraw,
    keypoints: NDArray[np.float64],
    skeleton: Sequence[tuple[int, int]],
    colour: RGB,
    line: int,
) -> None:
    points = [(x, y) if shown > 0 else None for x, y, shown in keypoints.tolist()]
    for first, second in skeleton:
        start, end = points[first], points[second]
        if start is not None and end is not None:
            pen.line([start, end], fill=(0, 0, 0), width=line + 2)
            pen.line([start, end], fill=colour, width=line)
    for point in points:
        if point is not None:
            pen.circle(point, 1.5 * line, fill=(255, 255, 255), outline=colour, width=max(1, line // 2))


def _draw_mask(canvas: Image.Image, drawing: Drawing, index: int, factor: float, line: int) -> None:
    if drawing.masks is not None:
        placed = _bitmap(drawing.masks[index], factor)
    elif drawing.polygons is not None:
        placed = _filled(drawing.polygons[index], factor, canvas.size)
    else:
        placed = None
    if placed is None:
        return
    bitmap, corner = placed
    colour = drawing.colour(index)
    rim = ImageChops.subtract(bitmap, bitmap.filter(ImageFilter.MinFilter(2 * (line // 2) + 1)))
    canvas.paste(colour, corner, bitmap.point(lambda value: value * OPACITY))
    canvas.paste(colour, corner, rim)


def _bitmap(mask: NDArray[np.bool_], factor: float) -> tuple[Image.Image, tuple[int, int]] | None:
    """The part of a mask that is set, enlarged, with a border of one raw pixel: 0 or 255, and where it goes."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return None
    top, left = int(rows[0]) - 1, int(columns[0]) - 1
    part = np.pad(mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], 1).astype(np.uint8) * 255
    size = (round(part.shape[1] * factor), round(part.shape[0] * factor))
    smooth = Image.fromarray(part).resize(size, Image.Resampling.BICUBIC)
    return smooth.point(lambda value: 255 * (value >= 128)), (round(left * factor), round(top * factor))


def _filled(
    rings: Sequence[NDArray[np.float64]], factor: float, size: tuple[int, int]
) -> tuple[Image.Image, tuple[int, int]] | None:
    """The union of filled rings, as `_bitmap`, by the rule that masks for training are drawn by."""
    rings = [ring for ring in rings if len(ring) >= 3]
    if not rings:
        return None
    points = np.concatenate(rings) * factor
    low = np.clip(np.floor(points.min(axis=0)).astype(int) - 1, 0, size)
    high = np.clip(np.ceil(points.max(axis=0)).astype(int) + 2, low + 1, np.maximum(size, low + 1))
    width, height = (high - low).tolist()
    moved = [(ring * factor - low).clip(-_FARTHEST, _FARTHEST).reshape(-1) for ring in rings]
    drawn = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(moved, height, width)))
    return Image.fromarray(255 * drawn), (int(low[0]), int(low[1]))


def _draw_captions(canvas: Image.Image, drawing: Drawing, boxes: Sequence[Box], line: int) -> None:
    """A tag at each box, clear of the tags of better objects where there is a place; else below them."""
    pen = ImageDraw.Draw(canvas)
    font = font_of(max(16, round(max(canvas.size) / 54)))
    pad = max(2, line)
    height = round(font.size * 1.25)
    tags: list[tuple[Box, str, RGB]] = []
    for index, (box, caption) in enumerate(zip(boxes, drawing.captions, strict=True)):
        if caption:
            width = round(pen.textlength(caption, font=font)) + 2 * pad
            places = _tag_places(_grown(box, line // 2), (width, height), canvas.size)
            free = (place for place in places if not any(_overlap(place, tag) for tag, _, _ in tags))
            tags.append((next(free, places[0]), caption, drawing.colour(index)))
    for place, caption, colour in reversed(tags):
        pen.rectangle(place, fill=colour)
        ink = (0, 0, 0) if 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] > 120 else (255, 255, 255)
        pen.text((place[0] + pad, (place[1] + place[3]) / 2), caption, fill=ink, font=font, anchor="lm")


def _tag_places(box: Box, tag: tuple[int, int], canvas: tuple[int, int]) -> list[Box]:
    """Where a tag of a width and height may stand, best first: on top of the box, in it, below, beside."""
    x1, y1, x2, y2 = box
    width, height = tag
    columns, rows = (x1, x2 - width), (y1 - height - 1, y1, y2 + 1, y2 - height)
    corners = [(x, y) for x in columns for y in rows] + [(x2 + 1, y1), (x1 - width - 1, y1)]
    inside = [(x, y) for x, y in corners if 0 <= x <= canvas[0] - width and 0 <= y <= canvas[1] - height]
    # A box in a corner of a small picture: pushed inside.
    pushed = (min(max(x1, 0.0), max(canvas[0] - width, 0.0)), min(max(y1, 0.0), max(canvas[1] - height, 0.0)))
    return [(x, y, x + width, y + height) for x, y in inside or [pushed]]


def _grown(box: Box, by: int) -> Box:
    """Between pixels, as PIL takes it: it cuts fractions off, and counts a rectangle's last pixel in."""
    x1, y1, x2, y2 = (math.floor(side + 0.5) for side in box)
    return x1 - by, y1 - by, max(x2 + by - 1, x1 - by), max(y2 + by - 1, y1 - by)


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
