"""Images of noise with squares on them, and what compares batches of them."""

from dataclasses import fields

import numpy as np
import torch

from detcore.config.data import DataConfig
from detcore.config.transforms import (
    Affine,
    ColorJitter,
    HorizontalFlip,
    ResizeShortestEdge,
    Transform,
)
from detcore.data import Sample
from detcore.structures.batch import Batch, TensorStruct

NUMBER = 23
MEAN, STD = (120.0, 110.0, 100.0), (60.0, 50.0, 40.0)
AUGMENTED: tuple[Transform, ...] = (
    ResizeShortestEdge(sizes=(32, 40, 48), max_size=80),
    HorizontalFlip(),
    Affine(degrees=10.0, scale=(0.9, 1.1)),
    ColorJitter(brightness=0.2, contrast=0.2, saturation=0.2),
)


def samples(number: int, seed: int) -> list[Sample]:
    """Noise of many sizes with one to five squares; the last object of each image is a crowd region."""
    random = np.random.default_rng(seed)
    made = []
    for index in range(number):
        height, width = random.integers(30, 80, 2).tolist()
        count = int(random.integers(1, 6))
        x, y = random.uniform(0, width - 12, count), random.uniform(0, height - 12, count)
        boxes = np.stack([x, y, x + 10, y + 10], axis=1)
        made.append(
            Sample(
                image=random.integers(0, 256, (height, width, 3)).astype(np.uint8),
                boxes_xyxy=boxes,
                labels=random.integers(0, 3, count),
                polygons=[[np.array([[a, b], [c, b], [c, d], [a, d]])] * (1 + index % 2) for a, b, c, d in boxes],
                crowd=np.arange(count) == count - 1,
                image_id=100 + index,
                file_name=f"image-{index}.png",
            )
        )
    return made


def config(**settings) -> DataConfig:
    defaults = {
        "name": "squares",
        "format": "coco",
        "root": "",
        "shards": "",
        "train_transforms": AUGMENTED,
        "test_transforms": (ResizeShortestEdge(sizes=(40,), max_size=70),),
        "num_buckets": 3,
        "size_divisor": 16,
        "threads": 2,
    }
    return DataConfig(**(defaults | settings))


def tensors(struct: TensorStruct) -> dict[str, torch.Tensor]:
    found = {}
    for field in fields(struct):
        value = getattr(struct, field.name)
        if isinstance(value, TensorStruct):
            found |= {f"{field.name}.{name}": tensor for name, tensor in tensors(value).items()}
        elif value is not None:
            found[field.name] = value
    return found


def same_bytes(left: Batch, right: Batch) -> bool:
    pairs = zip(tensors(left).items(), tensors(right).items(), strict=True)
    return all(name == other and torch.equal(a, b) and a.stride() == b.stride() for (name, a), (other, b) in pairs)


def concatenated(batches: tuple[Batch, ...]) -> dict[str, torch.Tensor]:
    parts = [tensors(batch) for batch in batches]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0] if name != "rng_key"}


def equal(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)
