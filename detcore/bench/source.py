"""Where a measured training gets its batches from, and its model with random weights."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from detcore.bench.workload import NUM_CLASSES, NUM_KEYPOINTS, Workload, make_workload
from detcore.config import Config
from detcore.config.model import OF_PIXELS
from detcore.data import ShardedSplit, build_loader
from detcore.data.buckets import Shape
from detcore.engine import Precision, predictions
from detcore.engine.publish import image_statistics
from detcore.models import build_model
from detcore.models.norm import FrozenBatchNorm
from detcore.structures.batch import Batch


class Feed:
    """Endless batches, of which it is counted what they were like.

    Attributes:
        wait_seconds: how long the last one was waited for.
        skipped: samples of the last one that were left out because their bytes are damaged.
        shapes: how many batches there were of each bucket.
    """

    def __init__(self, batches: Iterator[Batch]) -> None:
        self._batches, self.wait_seconds, self.skipped, self.shapes = batches, 0.0, 0, Counter[Shape]()
        self._contents: list[Tensor] = []

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        batch = next(self._batches)
        self.wait_seconds = getattr(self._batches, "wait_seconds", 0.0)
        self.skipped = getattr(self._batches, "skipped", 0)
        height, width = batch.images.shape[-2:]
        self.shapes[height, width] += 1
        self._contents.append(batch.image_sizes)  # looked at later: to compute with them is work for the device
        return batch

    def padding(self) -> float:
        """Pixels of all batches over those of the images in them, - 1."""
        real = sum(int(sizes.prod(dim=1).sum()) for sizes in self._contents)
        padded = sum(height * width * count for (height, width), count in self.shapes.items())
        return padded * len(self._contents[0]) / real - 1


@dataclass(frozen=True, kw_only=True)
class Source:
    """Batches for a training.

    Attributes:
        feed: all of them.
        shapes: of the buckets, by falling area.
        num_bytes: what batches that stay on the device take up there.
        close: ends it.
    """

    feed: Feed
    shapes: tuple[Shape, ...]
    num_bytes: int
    close: Callable[[], None]


def random_model(config: Config, *, num_classes: int, device: torch.device) -> nn.Module:
    """The detector with random weights, of which the activations stay finite where its norms are frozen too.

    Raises:
        ValueError: it is a user's own, or a published one, of which the configuration does not tell the architecture.
    """
    torch.manual_seed(config.seed)
    counts = [1] * num_classes  # for a federated loss: any will do
    model = build_model(config.model, num_classes=num_classes, load_weights=False, class_counts=counts)
    for name, module in model.named_modules():
        # Untrained, each residual block would double the variance.
        if isinstance(module, FrozenBatchNorm) and name.endswith("conv3.norm"):
            module.weight.fill_(0.2)
    return model.to(device).to(memory_format=torch.channels_last)


def classes_of(config: Config, split: ShardedSplit | None) -> int:
    """The number of classes: of the data; without, of the model, or COCO's."""
    if split is None:
        return config.model.num_classes or NUM_CLASSES
    return len(split.semantic_classes if config.model.type in OF_PIXELS else split.categories)


def synthetic_source(
    model: nn.Module, *, config: Config, precision: Precision, sizes: Sequence[Shape] | None, steps: int
) -> Source:
    """Batches of `make_workload` with what the model trains on.

    Args:
        sizes: of the images instead of those drawn.
        steps: of a round.
    """
    head = getattr(config.model, "keypoint_head", None)
    workload = make_workload(
        batch_size=config.engine.batch_size // config.engine.accumulate,
        device=precision.device,
        dtype=precision.image_dtype,
        divisor=math.lcm(config.data.size_divisor, getattr(model, "size_divisor", None) or 1),
        max_buckets=config.data.num_buckets,
        steps=steps,
        sides=sizes,
        num_classes=int(getattr(model, "num_classes", NUM_CLASSES)),
        predicts=predictions(model),
        num_keypoints=NUM_KEYPOINTS if head is None else head.num_keypoints,
        semantic_classes=getattr(config.model, "semantic_classes", None) or classes_of(config, None),
    )
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for batches in workload.batches.values()
        for batch in batches
        for tensor in batch.tensors()
    }
    return Source(
        feed=Feed(_endless(workload)),
        shapes=_by_area(workload.batches),
        num_bytes=sum(storages.values()),
        close=lambda: None,
    )


def loaded_source(model: nn.Module, *, config: Config, precision: Precision, split: ShardedSplit) -> Source:
    """The training's own loader on prepared data."""
    image_mean, image_std = image_statistics(model)
    loader = build_loader(
        split,
        config.data,
        train=True,
        batch_size=config.engine.batch_size // config.engine.accumulate,
        seed=config.seed,
        image_mean=image_mean,
        image_std=image_std,
        device=precision.device,
        dtype=precision.image_dtype,
        size_divisor=getattr(model, "size_divisor", None),
    )
    return Source(feed=Feed(loader), shapes=_by_area(loader.buckets), num_bytes=0, close=loader.close)


def _endless(workload: Workload) -> Iterator[Batch]:
    while True:
        yield from workload.round()


def _by_area(shapes: Iterable[Shape]) -> tuple[Shape, ...]:
    return tuple(sorted(shapes, key=lambda shape: -shape[0] * shape[1]))
