"""Huge images: looked at tile by tile, and what the tiles saw made one."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from detcore.inference.overlaps import areas, intersections
from detcore.inference.prediction import Prediction

_LEAST_IOU = 0.5
"""Of two boxes, in the part of the image that both their tiles show, that are one object."""
_LEAST_SHARE = 0.7
"""Of the smaller of two boxes there, if a tile cuts one of them: a sliver may be off by as much as it is wide."""
_AT_EDGE = 0.01
"""Of a tile's side: boxes that end so close to its edge are taken as cut."""


@dataclass(frozen=True)
class Tile:
    """A part of an image: pixels x0..x1, y0..y1; those of its core are in no other tile's core."""

    box_xyxy: tuple[int, int, int, int]
    core_xyxy: tuple[int, int, int, int]


@dataclass(frozen=True)
class Tiling:
    """How images are cut.

    Attributes:
        size: the tiles' sides, in pixels of the image.
        overlap: the least share of a tile that the next one shows too. Objects up to that size are whole in some tile;
            larger ones are put together again.

    Raises:
        ValueError: a size below 1, or an overlap beyond [0, 0.9].
    """

    size: int
    overlap: float = 0.2

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"tile {self.size} is less than 1 pixel")
        if not 0.0 <= self.overlap <= 0.9:
            raise ValueError(f"overlap {self.overlap} is not between 0 and 0.9")

    def tiles(self, height: int, width: int) -> list[Tile]:
        """The tiles of an image, row by row; all of one size where the image is not smaller."""
        return [
            Tile((left, top, right, bottom), (core_left, core_top, core_right, core_bottom))
            for top, bottom, core_top, core_bottom in self._spans(height)
            for left, right, core_left, core_right in self._spans(width)
        ]

    def _spans(self, length: int) -> list[tuple[int, int, int, int]]:
        """Start, stop, start of the core and stop of the core along one side."""
        if length <= self.size:
            return [(0, length, 0, length)]
        step = max(1, int(self.size * (1.0 - self.overlap)))
        number = -(-(length - self.size) // step) + 1
        starts = np.linspace(0, length - self.size, number).round().astype(int).tolist()
        middles = [(following + start + self.size) // 2 for start, following in pairwise(starts)]
        cores = zip([0, *middles], [*middles, length], strict=True)
        return [(start, start + self.size, *core) for start, core in zip(starts, cores, strict=True)]


def merged(parts: Sequence[Prediction], tiles: Sequence[Tile], *, height: int, width: int) -> Prediction:
    """What the tiles of an image saw, as a prediction for the image.

    Two detections of a class are one object if their boxes agree in what both tiles show. Of these, one that lies whole
    in its tile stands for all; where the tiles cut all of them, the object is their union, each keypoint the best.

    Raises:
        ValueError: there are panoptic maps, whose segments cannot be told across tiles.
    """
    first = parts[0]
    if first.panoptic is not None:
        raise ValueError("tile: a panoptic map cannot be put together of tiles; leave --tile out")
    corners = np.array([tile.box_xyxy for tile in tiles], np.float64)
    tile_of = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    row_of = np.concatenate([np.arange(len(part)) for part in parts])
    boxes = np.concatenate([part.boxes_xyxy.reshape(-1, 4) for part in parts]) + corners[tile_of][:, [0, 1, 0, 1]]
    scores = np.concatenate([part.scores for part in parts])
    labels = np.concatenate([part.labels for part in parts])
    cut = _cut(boxes, corners[tile_of], height=height, width=width)
    groups = _groups(boxes, scores, labels, cut, tile_of, corners)
    heads = np.array([group[0] for group in groups], np.int64)
    keypoints, rotated = None, None
    shift = corners[tile_of][:, :2]
    if first.keypoints is not None:
        moved = np.concatenate([part.keypoints for part in parts if part.keypoints is not None])
        moved[..., :2] += shift[:, None]
        keypoints = np.array([_best_points(moved[group]) for group in groups]).reshape(-1, *moved.shape[1:])
    if first.boxes_xywha is not None:
        rotated = np.concatenate([part.boxes_xywha for part in parts if part.boxes_xywha is not None])[heads]
        rotated[:, :2] += shift[heads]
    unions = [np.concatenate([boxes[group, :2].min(axis=0), boxes[group, 2:].max(axis=0)]) for group in groups]
    return replace(
        first,
        height=height,
        width=width,
        boxes_xyxy=np.array(unions).reshape(-1, 4),
        scores=scores[heads],
        labels=labels[heads],
        class_names=tuple(first.categories[label] for label in labels[heads].tolist()),
        masks=_masks(parts, tiles, [[(tile_of[i], row_of[i]) for i in group] for group in groups], (height, width)),
        keypoints=keypoints,
        boxes_xywha=rotated,
        semantic=_semantic(parts, tiles, (height, width)),
    )


def _cut(boxes: NDArray[np.float64], corners: NDArray[np.float64], *, height: int, width: int) -> NDArray[np.bool_]:
    """(n,) whether a box ends at an edge of its tile that is none of the image."""
    near = _AT_EDGE * (corners[:, 2:] - corners[:, :2])
    low = (boxes[:, :2] <= corners[:, :2] + near) & (corners[:, :2] > 0)
    high = (boxes[:, 2:] >= corners[:, 2:] - near) & (corners[:, 2:] < np.array([width, height]))
    return np.asarray((low | high).any(axis=1))


def _groups(
    boxes: NDArray[np.float64],
    scores: NDArray[np.float32],
    labels: NDArray[np.int64],
    cut: NDArray[np.bool_],
    tile_of: NDArray[np.int64],
    corners: NDArray[np.float64],
) -> list[list[int]]:
    """The detections that make up each object, by falling score of the first; whole ones are alone."""
    groups: list[list[int]] = []
    seen_in: list[set[int]] = []  # a tile's own detections are different objects
    grouped, members = np.zeros(0, np.int64), np.zeros(0, np.int64)
    for index in np.lexsort((-scores, cut)).tolist():  # whole ones first
        tile = int(tile_of[index])
        match = _match(index, members, boxes, labels, cut, corners[tile_of])
        allowed = [group for group in grouped[match].tolist() if tile not in seen_in[group]]
        if not allowed:
            allowed = [len(groups)]
            groups.append([])
            seen_in.append(set())
        group = allowed[0]
        seen_in[group].add(tile)
        if not groups[group] or (cut[index] and cut[groups[group][0]]):
            groups[group].append(index)
            grouped, members = np.append(grouped, group), np.append(members, index)
    return sorted(groups, key=lambda group: -float(scores[group[0]]))


def _match(
    index: int,
    members: NDArray[np.int64],
    boxes: NDArray[np.float64],
    labels: NDArray[np.int64],
    cut: NDArray[np.bool_],
    corners: NDArray[np.float64],
) -> NDArray[np.int64]:
    """Places in `members` that are the same object as a detection, most alike first."""
    both = intersections(corners[index], corners[members])
    own, others = intersections(boxes[index], both), intersections(boxes[members], both)
    common, own_area, other_area = areas(intersections(own, others)), areas(own), areas(others)
    tiny = np.finfo(np.float64).tiny
    iou = common / np.maximum(own_area + other_area - common, tiny)
    share = common / np.maximum(np.minimum(own_area, other_area), tiny)
    same = (iou >= _LEAST_IOU) | ((share >= _LEAST_SHARE) & (cut[index] | cut[members]))
    places = np.flatnonzero(same & (labels[members] == labels[index]))
    return places[np.argsort(-iou[places], kind="stable")]


def _best_points(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """(m, K, 3) of one object to (K, 3): each where its score is highest."""
    best: NDArray[np.float64] = points[points[..., 2].argmax(axis=0), np.arange(points.shape[1])]
    return best


def _masks(
    parts: Sequence[Prediction], tiles: Sequence[Tile], groups: list[list[tuple[int, int]]], size: tuple[int, int]
) -> NDArray[np.bool_] | None:
    if parts[0].masks is None:
        return None
    masks = np.zeros((len(groups), *size), np.bool_)
    for mask, group in zip(masks, groups, strict=True):
        for tile, row in group:
            left, top, right, bottom = tiles[tile].box_xyxy
            own = parts[tile].masks
            assert own is not None
            mask[top:bottom, left:right] |= own[row]
    return masks


def _semantic(parts: Sequence[Prediction], tiles: Sequence[Tile], size: tuple[int, int]) -> NDArray[np.integer] | None:
    """Of each tile its core, which is farthest from where it is cut."""
    if parts[0].semantic is None:
        return None
    whole: NDArray[np.integer] = np.zeros(size, parts[0].semantic.dtype)
    for part, tile in zip(parts, tiles, strict=True):
        assert part.semantic is not None
        (x0, y0, _, _), (left, top, right, bottom) = tile.box_xyxy, tile.core_xyxy
        whole[top:bottom, left:right] = part.semantic[top - y0 : bottom - y0, left - x0 : right - x0]
    return whole
