"""Overlaps of boxes in numpy, where there are few and none is on a device."""

import numpy as np
from numpy.typing import NDArray


def intersections(a_xyxy: NDArray[np.float64], b_xyxy: NDArray[np.float64]) -> NDArray[np.float64]:
    """(..., 4), (..., 4) to (..., 4), broadcast: what is in both; sides below 0 where nothing is."""
    low = np.maximum(a_xyxy[..., :2], b_xyxy[..., :2])
    high = np.minimum(a_xyxy[..., 2:], b_xyxy[..., 2:])
    return np.concatenate([low, high], axis=-1)


def areas(boxes_xyxy: NDArray[np.float64]) -> NDArray[np.float64]:
    """(..., 4) to (...,); boxes turned inside out have none."""
    found: NDArray[np.float64] = (boxes_xyxy[..., 2:] - boxes_xyxy[..., :2]).clip(0.0).prod(axis=-1)
    return found


def pairwise_iou(a_xyxy: NDArray[np.float64], b_xyxy: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, 4), (m, 4) to (n, m): intersection over union."""
    common = areas(intersections(a_xyxy[:, None], b_xyxy[None]))
    union = areas(a_xyxy)[:, None] + areas(b_xyxy)[None] - common
    return common / np.maximum(union, np.finfo(np.float64).tiny)
