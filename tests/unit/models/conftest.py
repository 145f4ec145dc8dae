"""Small detectors and batches of shapes that are easy to see."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from small_detectors import MASK_HEAD, NUM_CLASSES, SMALL_RCNN
from torch import Tensor, nn

from detcore.config.model import FasterRCNN, MaskRCNN
from detcore.models import build_model
from detcore.structures.batch import Batch, Polygons, Targets


@pytest.fixture
def make_model() -> Callable[..., nn.Module]:
    """Builds a small Mask R-CNN (or, with masks=False, Faster R-CNN) from seed 0; sections can be replaced by name."""

    def make(*, masks: bool = True, **sections: object) -> nn.Module:
        torch.manual_seed(0)
        settings = {**SMALL_RCNN, **sections}
        section = MaskRCNN(**settings, mask_head=MASK_HEAD) if masks else FasterRCNN(**settings)
        return build_model(section, num_classes=NUM_CLASSES)

    return make


@pytest.fixture
def make_batch() -> Callable[..., Batch]:
    """Builds a batch of filled ellipses on noise, each class of a colour and each object in a quadrant of its own.

    Targets are of every kind: keypoints are the centre and the four ends, the semantic class is an object's + 1.
    """

    def make(*, images: int = 2, size: int = 64, objects: int = 3, capacity: int = 4, seed: int = 0) -> Batch:
        generator = torch.Generator().manual_seed(seed)
        side = 14 + torch.rand(images, capacity, 2, generator=generator) * 14
        quadrant = torch.tensor([[0, 0], [1, 0], [0, 1], [1, 1]])[torch.arange(capacity) % 4] * size / 2
        corner = quadrant + torch.rand(images, capacity, 2, generator=generator) * (size / 2 - side)
        labels = torch.randint(NUM_CLASSES, (images, capacity), generator=generator)
        valid = (torch.arange(capacity) < objects).expand(images, -1)
        angle = torch.linspace(0, 2 * math.pi, 17)[:-1]
        circle = torch.stack((angle.cos(), angle.sin()), dim=-1)
        centre = corner + side / 2
        vertices = centre[:, :, None] + circle * side[:, :, None] / 2
        pixels = 0.1 * torch.randn(images, 3, size, size, generator=generator)
        semantic = paint(pixels, centre[:, :objects], side, labels)
        polygons = Polygons(
            vertices=vertices.flatten(1, 2),
            ring_starts=(torch.arange(capacity) * 16).repeat(images, 1),
            ring_counts=torch.where(valid, 16, 0),
            ring_objects=torch.arange(capacity).repeat(images, 1),
        )
        boxes = torch.cat((corner, corner + side), dim=-1)
        tilt = 180 * torch.rand(images, capacity, 1, generator=generator) - 90
        rotated = torch.cat((centre, side, tilt), dim=-1)
        ends = torch.tensor([[0.0, 0.0], [1, 0], [-1, 0], [0, 1], [0, -1]]) / 2
        points = centre[:, :, None] + ends * side[:, :, None]
        keypoints = torch.cat((points, torch.full_like(points[..., :1], 2.0)), dim=-1)
        sizes = torch.full((images, 2), size)

        def masked(values: Tensor) -> Tensor:
            return torch.where(valid.view(images, capacity, *[1] * (values.dim() - 2)), values, 0)

        return Batch(
            images=pixels.contiguous(memory_format=torch.channels_last),
            image_sizes=sizes,
            sample_ids=torch.arange(images) + 10,
            real=torch.ones(images, dtype=torch.bool),
            original_sizes=sizes,
            geometry=torch.eye(3).repeat(images, 1, 1),
            rng_key=torch.tensor([7, 3]),
            targets=Targets(
                masked(boxes),
                masked(labels),
                valid,
                polygons,
                boxes_xywha=masked(rotated),
                keypoints=masked(keypoints),
                semantic=semantic,
            ),
        )

    return make


def paint(pixels: Tensor, centres: Tensor, sides: Tensor, labels: Tensor) -> Tensor:
    """Ellipses at centres (B, M, 2) into pixels (B, 3, S, S), each of its class's colour -> (B, S, S) classes + 1."""
    size = pixels.shape[-1]
    semantic = torch.zeros(len(pixels), size, size, dtype=torch.uint8)
    place = torch.stack(torch.meshgrid(*2 * [torch.arange(size) + 0.5], indexing="xy"), dim=-1)
    for image, own in enumerate(centres):
        for item, centre in enumerate(own):
            inside = ((place - centre) / sides[image, item] * 2).square().sum(-1) < 1
            pixels[image, :, inside] = torch.eye(3)[labels[image, item]][:, None] * 2
            semantic[image, inside] = (labels[image, item] + 1).to(torch.uint8)
    return semantic


@pytest.fixture
def rows_of() -> Callable[[Batch, list[int]], Batch]:
    """A batch of chosen images of another."""

    def rows(batch: Batch, index: list[int]) -> Batch:
        taken = batch.map(lambda tensor: tensor[index] if tensor.dim() and len(tensor) == len(batch) else tensor)
        return replace(taken, rng_key=batch.rng_key)

    return rows
