"""What the regions of a map of numbers are: run lengths, boxes and areas."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Region:
    """The pixels of one number.

    Attributes:
        runs: run lengths down the columns, beginning with the pixels of other numbers.
        size: height and width of the map.
        bbox_xywh: the box around.
        area: how many they are.
    """

    runs: list[int]
    size: tuple[int, int]
    bbox_xywh: tuple[int, int, int, int]
    area: int

    @property
    def segmentation(self) -> dict[str, Any]:
        """As COCO has it."""
        return {"counts": self.runs, "size": list(self.size)}


def regions(ids: NDArray[np.integer[Any]]) -> dict[int, Region]:
    """The region of each number in a map of (h, w), 0 aside."""
    height, width = ids.shape
    flat = ids.T.reshape(-1)
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    ends = np.append(starts[1:], flat.size)
    values = flat[starts]
    order = np.argsort(values, kind="stable")
    numbers, firsts = np.unique(values[order], return_index=True)
    return {
        int(number): _region(starts[rows], ends[rows], height, width)
        for number, rows in zip(numbers, np.split(order, firsts[1:]), strict=True)
        if number != 0
    }


def _region(starts: NDArray[np.int64], ends: NDArray[np.int64], height: int, width: int) -> Region:
    edges = np.stack([starts, ends], axis=1).reshape(-1)
    if edges[-1] < height * width:
        edges = np.append(edges, height * width)
    x0, x1 = int(starts[0]) // height, (int(ends[-1]) - 1) // height + 1
    low, high = starts % height, (ends - 1) % height
    if (low > high).any() or (ends - starts > height).any():  # a run goes on in the next column
        y0, y1 = 0, height
    else:
        y0, y1 = int(low.min()), int(high.max()) + 1
    runs = np.diff(edges, prepend=0).tolist()
    return Region(runs, (height, width), (x0, y0, x1 - x0, y1 - y0), int((ends - starts).sum()))
