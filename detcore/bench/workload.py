"""Synthetic training batches of the shapes and counts that photographs such as COCO's give."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detcore.data.buckets import Shape, assign_buckets, choose_buckets
from detcore.structures.batch import Batch, Polygons, Targets
from detcore.structures.rotated_boxes import upright_around

SHORT_SIDES = (640, 672, 704, 736, 768, 800)
LONGEST = 1333
ASPECTS = (4 / 3, 4 / 3, 4 / 3, 3 / 2, 1.0, 640 / 427)
"""Of the images that are drawn: landscapes."""
COCO_SIZES = {
    (480, 640): 30, (427, 640): 20, (426, 640): 6, (425, 640): 4, (428, 640): 4, (640, 480): 8, (640, 427): 6,
    (640, 426): 2, (640, 640): 3, (612, 612): 2, (375, 500): 5, (500, 375): 2, (333, 500): 2, (360, 640): 3,
    (640, 621): 1, (522, 640): 1,
}  # fmt: skip
"""Heights and widths of COCO's photographs, roughly as often in a hundred: what the buckets are chosen for."""
MEAN_OBJECTS = 7.3
ROOM = 96
"""Objects that a batch has room for in an image; COCO's fullest has 93."""
VERTICES = 12
NUM_CLASSES = 80
NUM_KEYPOINTS = 17


@dataclass(frozen=True)
class Workload:
    """Batches that take turns as a sampler's would: a bucket comes as often as images fall into it.

    Attributes:
        batches: of every bucket the same number, by bucket.
        order: the bucket of each step of a round.
        padding: padded over real pixels, - 1, of a round.
    """

    batches: dict[Shape, tuple[Batch, ...]]
    order: tuple[Shape, ...]
    padding: float

    def round(self) -> Iterator[Batch]:
        """The batches of a round."""
        taken: Counter[Shape] = Counter()
        for shape in self.order:
            own = self.batches[shape]
            yield own[taken[shape] % len(own)]
            taken[shape] += 1


def coco_buckets(max_buckets: int, divisor: int) -> tuple[Shape, ...]:
    """For COCO's photographs at all short sides."""
    sizes = [
        (round(height * factor), round(width * factor))
        for (height, width), count in COCO_SIZES.items()
        for short in SHORT_SIDES
        for factor in [min(short / min(height, width), LONGEST / max(height, width))] * count
    ]
    return choose_buckets(np.array(sizes), max_buckets=max_buckets, divisor=divisor)


def drawn_sizes(seed: int, count: int) -> list[Shape]:
    """Heights and widths of `count` landscapes."""
    random = np.random.RandomState(seed)
    sizes = []
    for _ in range(count):
        short, aspect = random.choice(SHORT_SIDES), random.choice(ASPECTS)
        random.rand()
        sizes.append((int(short), min(int(short * aspect), LONGEST)))
    return sizes


def make_workload(
    *,
    batch_size: int,
    device: torch.device,
    dtype: torch.dtype,
    divisor: int = 32,
    max_buckets: int = 10,
    steps: int = 32,
    batches_each: int = 2,
    sides: Sequence[Shape] | None = None,
    num_classes: int = NUM_CLASSES,
    predicts: Sequence[str] = ("boxes", "masks"),
    num_keypoints: int = NUM_KEYPOINTS,
    semantic_classes: int = NUM_CLASSES,
) -> Workload:
    """512 images, multi-scale as above, in batches of one bucket each.

    Args:
        batch_size, device, dtype: of the batches.
        divisor: of the buckets' sides.
        max_buckets: at most so many, chosen for COCO's photographs, not for these.
        steps: of a round.
        batches_each: different batches of a bucket.
        sides: sizes of the images instead of those drawn.
        num_classes: of the objects.
        predicts: what the model does: keypoints, rotated boxes and semantic maps are there where it trains on them.
        num_keypoints, semantic_classes: of these.
    """
    sizes = np.array(sides or [size for seed in range(32) for size in drawn_sizes(seed, 16)], np.int64)
    buckets = (
        coco_buckets(max_buckets, divisor)
        if sides is None
        else choose_buckets(sizes, max_buckets=max_buckets, divisor=divisor)
    )
    places = assign_buckets(sizes, buckets)
    order = _spread(np.bincount(places, minlength=len(buckets)), steps)
    used = sorted(set(order))
    batches = {}
    for place in used:
        own = np.resize(sizes[places == place], (batches_each, batch_size, 2))
        images = _noise(batch_size, buckets[place], device, dtype)
        drawn = []
        for i in range(batches_each):
            random = np.random.RandomState(1000 * place + i)
            batch = _batch(random, own[i], num_classes, first_id=(place * batches_each + i) * batch_size)
            assert batch.targets is not None
            targets = batch.targets
            if "keypoints" in predicts:
                targets = replace(targets, keypoints=_keypoints(random, targets.boxes_xyxy, num_keypoints))
            if "rotated" in predicts:
                targets = _turned(random, targets)
            if "semantic" in predicts:
                targets = replace(targets, semantic=_semantic(random, batch_size, buckets[place], semantic_classes))
            drawn.append(replace(replace(batch, targets=targets).to(device), images=images))
        batches[buckets[place]] = tuple(drawn)
    padded = sum(float(np.prod(buckets[place])) for place in order)
    real = sum(float(sizes[places == place].prod(axis=1).mean()) for place in order)
    return Workload(batches, tuple(buckets[place] for place in order), padded / real - 1)


def _spread(counts: NDArray[np.int64], steps: int) -> list[int]:
    """`steps` places, each as often as its share of the counts, evenly mixed."""
    shares = counts / counts.sum() * steps
    owed = np.zeros(len(counts))
    order = []
    for _ in range(steps):
        owed += shares / steps
        order.append(int(owed.argmax()))
        owed[order[-1]] -= 1
    return order


def _noise(rows: int, shape: Shape, device: torch.device, dtype: torch.dtype) -> Tensor:
    images = torch.randn((rows, 3, *shape), device=device, dtype=torch.float32)
    return images.to(dtype=dtype, memory_format=torch.channels_last)


def _batch(random: np.random.RandomState, sizes: NDArray[np.int64], num_classes: int, *, first_id: int) -> Batch:
    """Objects for images of `sizes` (B, 2): star-shaped polygons, sides log-uniform from 3 to 80 % of the image's."""
    rows = len(sizes)
    boxes = np.zeros((rows, ROOM, 4), np.float32)
    labels = np.zeros((rows, ROOM), np.int64)
    valid = np.zeros((rows, ROOM), bool)
    vertices = np.zeros((rows, ROOM * VERTICES, 2), np.float32)
    counts = np.zeros((rows, ROOM), np.int64)
    for row, (height, width) in enumerate(sizes.tolist()):
        number = min(max(1, random.poisson(MEAN_OBJECTS)), ROOM)
        scale = np.exp(random.uniform(np.log(0.03), np.log(0.8), (number, 1)))
        sides = np.maximum(8, scale * [width, height] * random.uniform(0.5, 1, (number, 2)))
        centres = random.uniform(sides / 2, np.array([width, height]) - sides / 2)
        angles = np.sort(random.uniform(0, 2 * np.pi, (number, VERTICES)))
        radius = 0.6 + 0.4 * random.rand(number, VERTICES, 1)
        rays = np.stack((np.cos(angles), np.sin(angles)), axis=-1) * radius
        outline = centres[:, None] + rays * sides[:, None] / 2
        boxes[row, :number] = np.concatenate((outline.min(axis=1), outline.max(axis=1)), axis=1)
        labels[row, :number] = random.randint(0, num_classes, number)
        valid[row, :number] = True
        vertices[row, : number * VERTICES] = outline.reshape(-1, 2)
        counts[row, :number] = VERTICES
    index = np.tile(np.arange(ROOM), (rows, 1))
    image_sizes = torch.from_numpy(sizes)
    return Batch(
        images=torch.empty(rows, 3, 0, 0),
        image_sizes=image_sizes,
        sample_ids=torch.arange(rows) + first_id,
        real=torch.ones(rows, dtype=torch.bool),
        original_sizes=image_sizes,
        geometry=torch.eye(3).repeat(rows, 1, 1),
        rng_key=torch.tensor([0, first_id]),
        targets=Targets(
            torch.from_numpy(boxes),
            torch.from_numpy(labels),
            torch.from_numpy(valid),
            Polygons(
                torch.from_numpy(vertices),
                torch.from_numpy(index * VERTICES),
                torch.from_numpy(counts),
                torch.from_numpy(index),
            ),
        ),
    )


def _keypoints(random: np.random.RandomState, boxes_xyxy: Tensor, count: int) -> Tensor:
    """(B, M, 4) -> (B, M, K, 3): visible ones, anywhere in the boxes."""
    places = torch.from_numpy(random.rand(*boxes_xyxy.shape[:2], count, 2).astype(np.float32))
    low, high = boxes_xyxy[:, :, None, :2], boxes_xyxy[:, :, None, 2:]
    return torch.cat((low + places * (high - low), torch.full((*places.shape[:-1], 1), 2.0)), dim=-1)


def _turned(random: np.random.RandomState, targets: Targets) -> Targets:
    """The boxes' sides halved and turned by any angle, which leaves them within the images."""
    low, high = targets.boxes_xyxy[..., :2], targets.boxes_xyxy[..., 2:]
    angles = torch.from_numpy(random.uniform(-90, 90, (*low.shape[:2], 1)).astype(np.float32))
    rotated = torch.cat(((low + high) / 2, (high - low) / 2, angles), dim=-1)
    return replace(targets, boxes_xywha=rotated, boxes_xyxy=upright_around(rotated))


def _semantic(random: np.random.RandomState, rows: int, shape: Shape, num_classes: int) -> Tensor:
    """(B, H, W) uint8: squares of 32 pixels of one class each."""
    height, width = shape
    squares = random.randint(0, num_classes, (rows, -(-height // 32), -(-width // 32))).astype(np.uint8)
    return torch.from_numpy(squares.repeat(32, axis=1).repeat(32, axis=2)[:, :height, :width].copy())
