"""Detectron2's numbers (fixtures of the reference data, see there) beside our model with its weights."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from detcore.convert import model_config, rules, to_ours
from detcore.convert.names import load
from detcore.models import build_model
from detcore.structures.batch import Batch, Polygons, Targets
from detcore.structures.boxes import iou

DETECTIONS = 20
"""Of an image, as the fixtures were made."""


@dataclass(frozen=True)
class Reference:
    """What Detectron2 gives (`tensors`, `losses`), and our model on the same input."""

    tensors: dict[str, Tensor]
    losses: dict[str, float]
    model: nn.Module
    batch: Batch


def read_reference(shared: Path, name: str) -> Reference:
    file = shared / "fixtures" / "detectron2" / name
    tensors = load_file(file.with_suffix(".safetensors"))
    stated = json.loads(file.with_suffix(".json").read_text())
    published = {**stated["model"], "TEST": {"DETECTIONS_PER_IMAGE": DETECTIONS}}
    # The samplers were opened so wide for the losses.
    for sampler in ("RPN", "ROI_HEADS"):
        published[sampler] = {**published[sampler], "BATCH_SIZE_PER_IMAGE": 1_000_000, "POSITIVE_FRACTION": 0.5}
    config = model_config(published, name="parity")
    model = build_model(config, num_classes=config.num_classes, load_weights=False)
    state, unknown = to_ours({key[2:]: t for key, t in tensors.items() if key.startswith("w.")}, rules(config))
    assert not unknown
    load(model, state, source=name)
    return Reference(tensors, stated["losses"], model.eval(), as_batch(tensors, model))


def as_batch(tensors: dict[str, Tensor], model: nn.Module) -> Batch:
    rgb = tensors["in.image_bgr"].flip(0).float()
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (model.image_mean, model.image_std))
    height, width = rgb.shape[1:]
    divisor = model.size_divisor
    images = torch.zeros(1, 3, -(-height // divisor) * divisor, -(-width // divisor) * divisor)
    images[0, :, :height, :width] = (rgb - mean) / std
    size = torch.tensor([[height, width]])
    count = len(tensors["gt.boxes"])
    targets = Targets(tensors["gt.boxes"][None], tensors["gt.classes"][None], torch.ones(1, count, dtype=torch.bool))
    if "gt.polygons" in tensors:
        vertices = tensors["gt.polygons"].view(count, -1, 2).float()
        per_ring = vertices.shape[1]
        polygons = Polygons(
            vertices.reshape(1, -1, 2),
            torch.arange(count)[None] * per_ring,
            torch.full((1, count), per_ring),
            torch.arange(count)[None],
        )
        targets = replace(targets, polygons=polygons)
    identity = torch.eye(3)[None]
    return Batch(images, size, torch.tensor([0]), torch.tensor([True]), size, identity, torch.tensor([0, 0]), targets)


def assert_boxes_equal_up_to_ties(ours: Tensor, scores: Tensor, theirs: Tensor, their_scores: Tensor) -> Tensor:
    """Boxes pair off one to one within 0.01 px and 1e-4 of score; returns the index of each one's partner."""
    partner = iou(ours, theirs).argmax(dim=1)
    assert len(partner.unique()) == len(theirs)
    torch.testing.assert_close(ours, theirs[partner], atol=1e-2, rtol=0)
    torch.testing.assert_close(scores, their_scores[partner], atol=1e-4, rtol=0)
    return partner
