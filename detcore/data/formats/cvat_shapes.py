"""The shapes of CVAT's XML: read, interpolated between frames, and added as objects."""

from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np
from numpy.typing import NDArray

from detcore.data.annotation_building import AnnotationBuilder
from detcore.data.annotations import PIXEL_CENTRE
from detcore.data.formats.fields import LARGEST_SIDE
from detcore.data.formats.regions import regions
from detcore.data.formats.xml_document import attribute, decimal, whole_number
from detcore.data.outlines import decode_mask, ring_area
from detcore.data.rotated import upright, without_heading

_CORNERS, _ELLIPSE = ("xtl", "ytl", "xbr", "ybr"), ("cx", "cy", "rx", "ry")
_PLACE = ("left", "top", "width", "height")
NO_TARGETS = ("polyline", "cuboid", "tag")
"""Kinds that no object of detection can say."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """One annotation of an image.

    Attributes:
        kind: its element's name.
        label: its label's name.
        numbers: box: x0, y0, x1, y1; ellipse: cx, cy, rx, ry; polygon, points: x, y of each; mask: left, top, width,
            height. In pixels, a pixel's centre at .5.
        rotation_deg: of a box or an ellipse about its centre, clockwise as one sees it.
        runs: of a mask: run lengths along its rows, beginning with background.
        elements: of a skeleton: x, y and visibility (0 outside, 1 occluded, 2 visible) by the element's label.
        occluded, outside: as annotated; what is outside has left the image.
    """

    kind: str
    label: str
    numbers: tuple[float, ...] = ()
    rotation_deg: float = 0.0
    runs: tuple[int, ...] = ()
    elements: Mapping[str, tuple[float, float, int]] = field(default_factory=dict)
    occluded: bool = False
    outside: bool = False


def read_shape(element: Element, label: str) -> Shape:
    """What an element says.

    Raises:
        ValueError: an unknown kind, or one without or with other numbers than it must have.
    """
    kind = element.tag
    shape = Shape(kind=kind, label=label, occluded=_yes(element, "occluded"), outside=_yes(element, "outside"))
    match kind:
        case "box" | "ellipse":
            sides = _CORNERS if kind == "box" else _ELLIPSE
            numbers = tuple(decimal(attribute(element, name), name) for name in sides)
            return replace(shape, numbers=numbers, rotation_deg=decimal(element.get("rotation") or "0", "rotation"))
        case "polygon" | "points":
            return replace(shape, numbers=_points(element))
        case "mask":
            place = tuple(whole_number(attribute(element, name), name, most=LARGEST_SIDE) for name in _PLACE)
            runs = attribute(element, "rle").split(",")
            return replace(shape, numbers=place, runs=tuple(whole_number(run, "rle", most=2**62) for run in runs))
        case "skeleton":
            return _skeleton(element, shape)
        case "polyline" | "cuboid" | "tag":
            return shape
    raise ValueError(f"unknown kind of annotation <{kind[:40]}>")


def _yes(element: Element, name: str) -> bool:
    value = element.get(name) or "0"
    if value not in ("0", "1"):
        raise ValueError(f"{name} {value[:40]!r} is neither 0 nor 1")
    return value == "1"


def _points(element: Element) -> tuple[float, ...]:
    pairs = [pair.split(",") for pair in attribute(element, "points").split(";")]
    if any(len(pair) != 2 for pair in pairs):
        raise ValueError(f"points {attribute(element, 'points')[:60]!r} are not x,y;x,y;...")
    if element.tag == "polygon" and len(pairs) < 3:
        raise ValueError(f"a polygon of {len(pairs)} points")
    return tuple(decimal(number, "points") for pair in pairs for number in pair)


def _skeleton(element: Element, shape: Shape) -> Shape:
    elements: dict[str, tuple[float, float, int]] = {}
    for child in element.iterfind("points"):
        name, place = attribute(child, "label"), _points(child)
        if name in elements or len(place) != 2:
            raise ValueError(f"skeleton: {name[:40]!r} {'twice' if name in elements else 'is not one point'}")
        elements[name] = (*place, 0 if _yes(child, "outside") else 1 if _yes(child, "occluded") else 2)
    if not elements:
        raise ValueError("a skeleton without points")
    gone = all(visibility == 0 for _, _, visibility in elements.values())
    return replace(shape, elements=elements, outside=shape.outside or gone)


def over_frames(keyframes: Mapping[int, Shape], frames: list[int]) -> dict[int, Shape]:
    """A track's shape in each of these rising frames where it is inside, for frames between those that the file has.

    What has as many points before as after moves in a straight line from one to the other; what has not, masks among
    it, stays as it was before. Before a frame in which it is outside, a shape stays too. A track ends with its last
    shape.
    """
    found = dict(keyframes)
    for first, last in pairwise(sorted(keyframes)):
        before, after = keyframes[first], keyframes[last]
        for frame in frames[bisect_right(frames, first) : bisect_left(frames, last)]:
            found[frame] = _between(before, after, (frame - first) / (last - first))
    return {frame: shape for frame, shape in found.items() if not shape.outside}


def _between(a: Shape, b: Shape, share: float) -> Shape:
    alike = a.kind == b.kind != "mask" and len(a.numbers) == len(b.numbers) and a.elements.keys() == b.elements.keys()
    if a.outside or b.outside or not alike:
        return a
    turn = (b.rotation_deg - a.rotation_deg + 180.0) % 360.0 - 180.0
    return replace(
        a,
        numbers=tuple(x + (y - x) * share for x, y in zip(a.numbers, b.numbers, strict=True)),
        rotation_deg=a.rotation_deg + turn * share,
        elements={
            name: (x + (b.elements[name][0] - x) * share, y + (b.elements[name][1] - y) * share, visibility)
            for name, (x, y, visibility) in a.elements.items()
        },
    )


def add_shape(
    builder: AnnotationBuilder,
    shape: Shape,
    *,
    sample: int,
    label: int,
    size: tuple[int, int],
    keypoints: tuple[str, ...],
    rotated: bool,
) -> None:
    """Appends a shape as an object.

    Args:
        builder: of the split.
        shape: of a kind that is no `NO_TARGETS`.
        sample, label: the image's row and the class.
        size: height and width of the image.
        keypoints: names of the keypoints that skeletons and points have.
        rotated: give boxes their rotated box.

    Raises:
        ValueError: a mask that leaves its image or whose runs are not its size; other keypoints than those.
    """
    ring: NDArray[np.float64] | None = None
    values: dict[str, Any] = {}
    x0, y0, x1, y1 = 0.0, 0.0, 0.0, 0.0
    with np.errstate(invalid="ignore", over="ignore"):  # prepare drops what is not finite
        if shape.kind == "mask":
            values = _mask(shape, size)
        elif shape.kind in ("skeleton", "points"):
            values = _keypoints(shape, keypoints)
        elif shape.kind == "box":
            x0, y0, x1, y1 = shape.numbers
            box = _turned((x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0, shape.rotation_deg)
            if shape.rotation_deg:
                x0, y0, x1, y1 = upright(box)[0].tolist()
            values = {"bbox_xywh": (x0, y0, x1 - x0, y1 - y0), "area": float(box[0, 2] * box[0, 3])}
            if rotated:
                values["bbox_rotated"] = box[0].tolist()
        elif shape.kind == "ellipse":
            ring = _ellipse(shape)
        else:
            ring = np.array(shape.numbers).reshape(-1, 2)
        if ring is not None:
            (x0, y0), (x1, y1) = ring.min(axis=0).tolist(), ring.max(axis=0).tolist()
            values = {"bbox_xywh": (x0, y0, x1 - x0, y1 - y0), "area": ring_area(ring)}
            values["segmentation"] = [ring.reshape(-1).tolist()]
    builder.add(sample=sample, annotation_id=len(builder) + 1, label=label, **values)


def _turned(cx: float, cy: float, width: float, height: float, clockwise_deg: float) -> NDArray[np.float64]:
    box = np.array([[cx, cy, width, height, -clockwise_deg]])
    box[:, 4] = without_heading(box[:, 4])
    return box


def _ellipse(shape: Shape) -> NDArray[np.float64]:
    """A ring of 72 points: with them an ellipse of radius 100 pixels is nowhere off by more than 0.1."""
    cx, cy, rx, ry = shape.numbers
    at, turn = np.linspace(0.0, 2 * np.pi, 72, endpoint=False), np.radians(shape.rotation_deg)
    x, y = rx * np.cos(at), ry * np.sin(at)
    return np.stack([cx + x * np.cos(turn) - y * np.sin(turn), cy + x * np.sin(turn) + y * np.cos(turn)], axis=1)


def _mask(shape: Shape, size: tuple[int, int]) -> dict[str, Any]:
    left, top, width, height = (int(number) for number in shape.numbers)
    if left + width > size[1] or top + height > size[0]:
        raise ValueError(f"a mask of {width} x {height} at {left}, {top} leaves its image of {size[1]} x {size[0]}")
    canvas = np.zeros(size, np.uint8)
    # Down the columns of the transposed: along the rows.
    canvas[top : top + height, left : left + width] = decode_mask(
        np.array(shape.runs, np.int64), height=width, width=height
    ).T
    region = regions(canvas).get(1)
    if region is None:
        return {"bbox_xywh": (left, top, 0, 0), "area": 0.0}
    return {"bbox_xywh": region.bbox_xywh, "area": region.area, "segmentation": region.segmentation}


def _keypoints(shape: Shape, names: tuple[str, ...]) -> dict[str, Any]:
    """COCO's keypoints count pixels, from their centres; the box is that around those in the image."""
    elements = dict(shape.elements)
    if shape.kind == "points":
        pairs = zip(names, shape.numbers[::2], shape.numbers[1::2], strict=True)
        elements = {name: (x, y, 1 if shape.occluded else 2) for name, x, y in pairs}
    if other := sorted(elements.keys() - set(names)):
        raise ValueError(f"skeleton: {other[0][:40]!r} is not among the points of its label")
    found = [elements.get(name, (0.0, 0.0, 0)) for name in names]
    seen = np.array([(x, y) for x, y, visibility in found if visibility])
    (x0, y0), (x1, y1) = seen.min(axis=0).tolist(), seen.max(axis=0).tolist()
    values = [(x - PIXEL_CENTRE, y - PIXEL_CENTRE, v) if v else (0.0, 0.0, 0) for x, y, v in found]
    return {
        "bbox_xywh": (x0, y0, x1 - x0, y1 - y0),
        "area": (x1 - x0) * (y1 - y0),
        "keypoints": [number for point in values for number in point],
    }
