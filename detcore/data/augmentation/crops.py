"""Where a crop lies: anywhere, or where what it holds meets a condition."""

import numpy as np
from numpy.typing import NDArray

from detcore.config.transforms import MinIoUCrop
from detcore.data.augmentation.geometry import Matrix, Size
from detcore.data.augmentation.objects import move_points
from detcore.data.label_maps import UNLABELLED

Window = tuple[int, int, int, int]
"""x0, y0, x1, y1 in pixels."""

_CLASS_TRIES, _CLASS_POINTS = 10, 64
_IOU_TRIES, _MOST_ROUNDS = 50, 20


def anywhere(size: Size, crop: Size, random: np.random.Generator) -> tuple[int, int]:
    """The left and top whole pixel of a crop of an image; 0 along an axis where the image is the smaller one."""
    top, left = (int(random.integers(max(whole - part, 0) + 1)) for whole, part in zip(size, crop, strict=True))
    return left, top


def with_several_classes(
    size: Size,
    crop: Size,
    random: np.random.Generator,
    *,
    semantic: NDArray[np.uint8],
    geometry: Matrix,
    max_share: float,
) -> tuple[int, int]:
    """The first of ten crops in which no class has more than `max_share` of the labelled pixels; else the tenth.

    Args:
        size: of the image.
        crop: of its part.
        random: a stream.
        semantic: (h, w) the raw image's map.
        geometry: from the raw image to the image.
        max_share: below 1.
    """
    inverse = np.linalg.inv(geometry).astype(np.float64)
    steps = (np.arange(_CLASS_POINTS) + 0.5) / _CLASS_POINTS
    grid: Matrix = np.stack(np.meshgrid(steps * crop[1], steps * crop[0]), axis=-1).reshape(-1, 2)
    left = top = 0
    for _ in range(_CLASS_TRIES):
        left, top = anywhere(size, crop, random)
        places = np.floor(move_points(grid + np.array([left, top], np.float64), inverse)).astype(np.int64)
        inside = ((places >= 0) & (places < semantic.shape[::-1])).all(axis=1)
        columns, rows = places[inside].T
        counts = np.bincount(semantic[rows, columns], minlength=256)
        counts[UNLABELLED] = 0
        if 0 < counts.max() <= max_share * counts.sum():
            break
    return left, top


def overlapping(size: Size, transform: MinIoUCrop, boxes_xyxy: Matrix, random: np.random.Generator) -> Window:
    """A window on whole pixels that meets the transform's condition; now and then the whole image.

    Args:
        size: of the image.
        transform: the condition.
        boxes_xyxy: (n, 4) of the objects in the image.
        random: a stream.
    """
    height, width = size
    whole = (0, 0, width, height)
    wanted = (None, 0.0, *transform.min_ious)
    for _ in range(_MOST_ROUNDS):
        min_iou = wanted[int(random.integers(len(wanted)))]
        if min_iou is None:
            return whole
        share = random.uniform(transform.min_size, 1.0, (_IOU_TRIES, 2))
        sides = np.maximum((share * [width, height]).astype(np.int64), 1)
        corner = (random.random((_IOU_TRIES, 2)) * ([width, height] - sides + 1)).astype(np.int64)
        windows = np.concatenate([corner, corner + sides], axis=1)
        aspect = sides[:, 0] / sides[:, 1]
        found = np.flatnonzero((aspect >= 0.5) & (aspect <= 2.0) & _meets(windows, boxes_xyxy, min_iou))
        if len(found):
            x0, y0, x1, y1 = windows[found[0]].tolist()
            return x0, y0, x1, y1
    return whole


def _meets(windows: NDArray[np.int64], boxes_xyxy: Matrix, min_iou: float) -> NDArray[np.bool_]:
    """Which windows (k, 4) overlap each box (n, 4) by `min_iou` and hold the centre of one, if there are any: (k,)."""
    if not len(boxes_xyxy):
        return np.ones(len(windows), np.bool_)
    low = np.maximum(windows[:, None, :2], boxes_xyxy[:, :2])
    high = np.minimum(windows[:, None, 2:], boxes_xyxy[:, 2:])
    shared = (high - low).clip(min=0.0).prod(axis=2)
    own, others = ((boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (windows, boxes_xyxy))
    iou = shared / np.maximum(own[:, None] + others - shared, 1e-12)
    centre = (boxes_xyxy[:, :2] + boxes_xyxy[:, 2:]) / 2
    holds = np.all((centre > windows[:, None, :2]) & (centre < windows[:, None, 2:]), axis=2).any(axis=1)
    met: NDArray[np.bool_] = holds & (iou.min(axis=1) >= min_iou)
    return met
