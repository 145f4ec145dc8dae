"""Agreement of predicted and true classes of pixels."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import max_pool2d

from detcore.evaluation.boundary import reach_of
from detcore.evaluation.images import BatchInImages
from detcore.evaluation.metrics import Outcome
from detcore.evaluation.truth import SemanticMap

UNLABELLED = 255


class SemanticMaps:
    """Counts pixels by true and predicted class, on the device, and makes the usual figures of them.

    The IoU of a class is over the pixels that are of it or taken for it; `miou` is its mean over the classes that are
    there, `fwiou` its mean weighted by their true pixels, `macc` the mean share of a class's pixels that are right,
    `pacc` that of all pixels. Where the truth is 255 nothing counts.

    Args:
        truth: the true map of a sample.
        classes: names.
        boundary: also give `boundary_iou`: IoU within the boundaries of true and predicted regions alone (Cheng et al.,
            "Boundary IoU", arXiv:2103.16562), summed over the images.
    """

    prefix = "semantic"

    def __init__(self, *, truth: Callable[[int], SemanticMap], classes: Sequence[str], boundary: bool = False) -> None:
        self._truth = truth
        self._classes = classes
        self._boundary = boundary
        # Rows are true classes, the last row what does not count. Of the boundaries: shared, true, predicted.
        self._counts: Tensor | None = None
        self._edges: Tensor | None = None

    def add(self, found: BatchInImages) -> None:
        """Takes a batch; the host waits for nothing that the device computes.

        Raises:
            ValueError: if the maps have other classes than the truth, or the truth is of another size than its image.
        """
        logits = found.required("semantic")
        count = len(self._classes)
        if logits.shape[1] != count:
            raise ValueError(f"the model tells {logits.shape[1]} semantic classes apart, the ground truth has {count}")
        if self._counts is None or self._edges is None:
            self._counts = torch.zeros((count + 1) * count, dtype=torch.int64, device=logits.device)
            self._edges = torch.zeros(3 * (count + 1), dtype=torch.int64, device=logits.device)
        for row in found.rows:
            predicted = found.semantic(row).long()
            truth = self._true_map(found, row).to(logits.device, non_blocking=True).long()
            truth = torch.where(truth == UNLABELLED, count, truth)
            _count(self._counts, truth * count + predicted)
            if self._boundary:
                self._count_edges(truth, predicted)

    def _count_edges(self, truth: Tensor, predicted: Tensor) -> None:
        assert self._edges is not None
        nothing = len(self._classes)  # the place of what does not count
        true_edge = torch.where(near_edge(truth), truth, nothing)
        own_edge = torch.where(near_edge(predicted) & (truth != nothing), predicted, nothing)
        shared = torch.where(true_edge == own_edge, own_edge, nothing)
        for place, classes in enumerate((shared, true_edge, own_edge)):
            _count(self._edges, place * (nothing + 1) + classes)

    def _true_map(self, found: BatchInImages, row: int) -> Tensor:
        sample = found.samples[row]
        values = self._truth(sample)
        image = found.images[row]
        if values.shape != found.sizes[row]:
            raise ValueError(f"image {image['id']}: its semantic map is {values.shape}, it is {found.sizes[row]}")
        stray = values[(values >= len(self._classes)) & (values != UNLABELLED)]
        if stray.size:
            raise ValueError(
                f"image {image['id']}: its semantic map has class {stray.flat[0]}, there are {len(self._classes)}"
            )
        tensor = torch.from_numpy(np.ascontiguousarray(values))
        return tensor.pin_memory() if found.batch.images.is_cuda else tensor

    def state(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The counts: (classes + 1, classes) true by predicted, the last row uncounted; (3, classes) of boundaries."""
        count = len(self._classes)
        if self._counts is None or self._edges is None:
            return np.zeros((count + 1, count), np.int64), np.zeros((3, count), np.int64)
        counts = self._counts.cpu().numpy().reshape(count + 1, count)
        return counts, self._edges.cpu().numpy().reshape(3, count + 1)[:, :count]

    def merge(self, states: Iterable[tuple[NDArray[np.int64], NDArray[np.int64]]]) -> None:
        """Holds the sum of the states."""
        counts, edges = (np.sum(parts, axis=0) for parts in zip(*states, strict=True))
        self._counts = torch.from_numpy(counts.ravel())
        self._edges = torch.from_numpy(np.pad(edges, ((0, 0), (0, 1))).ravel())

    def compute(self) -> dict[str, Outcome]:
        counts, edges = self.state()
        table = counts[:-1].astype(np.float64)
        right, true, predicted = table.diagonal(), table.sum(axis=1), table.sum(axis=0)
        there = true > 0
        if not there.any():
            return {self.prefix: Outcome(metrics={}, per_class={})}
        iou, accuracy = _share(right, true + predicted - right), _share(right, true)
        by_class = {"iou": iou, "acc": accuracy}
        metrics = {
            "miou": iou[there].mean(),
            "fwiou": (iou * true).sum() / true.sum(),
            "macc": accuracy[there].mean(),
            "pacc": right.sum() / true.sum(),
        }
        if self._boundary:
            shared, true_edges, own_edges = edges.astype(np.float64)
            by_class["boundary_iou"] = _share(shared, true_edges + own_edges - shared)
            metrics["boundary_iou"] = by_class["boundary_iou"][there].mean()
        per_class = {
            name: {key: 100.0 * float(values[index]) for key, values in by_class.items()}
            for index, name in enumerate(self._classes)
            if there[index]
        }
        outcome = Outcome(
            {name: 100.0 * float(value) for name, value in metrics.items()}, per_class, confusion=counts[:-1]
        )
        return {self.prefix: outcome}


def near_edge(classes: Tensor) -> Tensor:
    """(h, w) classes -> (h, w) bool: pixels in whose reach another class or the image's border lies.

    The reach is 2 % of the diagonal, at least 1, in rows and in columns. Within each class these are its region less
    the region eroded so often by a 3 x 3 square, what is outside of the image taken for another class.
    """
    height, width = classes.shape
    reach = reach_of(height, width)
    values = torch.nn.functional.pad(classes.float(), [reach] * 4, value=-1.0)[None, None]

    def highest(of: Tensor) -> Tensor:  # rows, then columns
        size = 2 * reach + 1
        return max_pool2d(max_pool2d(of, (size, 1), stride=1), (1, size), stride=1)

    return (highest(values) != -highest(-values))[0, 0]


def _count(counts: Tensor, places: Tensor) -> None:
    places = places.flatten()
    counts.scatter_add_(0, places, torch.ones_like(places))


def _share(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    return part / np.maximum(whole, 1.0)
