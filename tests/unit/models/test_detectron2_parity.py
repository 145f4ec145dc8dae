"""Our detectors with Detectron2's weights against Detectron2's numbers (fixtures of the reference data, see there)."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from detcore.config.model import FasterRCNN, MaskRCNN
from detcore.models.build import build_model
from detcore.ops import paste_masks
from detcore.structures.batch import Batch, Polygons, Targets
from detcore.structures.boxes import iou

RENAMED = (
    (r"^backbone\.bottom_up\.", "backbone."),
    (r"^backbone\.fpn_(lateral|output)(\d)\.", lambda m: f"fpn.{m[1]}.{int(m[2]) - 2}."),
    (r"^proposal_generator\.rpn_head\.objectness_logits\.", "rpn.objectness."),
    (r"^proposal_generator\.rpn_head\.anchor_deltas\.", "rpn.box_offsets."),
    (r"^proposal_generator\.rpn_head\.", "rpn."),
    (r"^roi_heads\.box_head\.fc(\d)\.", lambda m: f"box_head.fcs.{int(m[1]) - 1}."),
    (r"^roi_heads\.box_predictor\.cls_score\.", "box_head.class_logits."),
    (r"^roi_heads\.box_predictor\.bbox_pred\.", "box_head.box_offsets."),
    (r"^roi_heads\.mask_head\.mask_fcn(\d)\.", lambda m: f"mask_head.convs.{int(m[1]) - 1}."),
    (r"^roi_heads\.mask_head\.deconv\.", "mask_head.upsample."),
    (r"^roi_heads\.mask_head\.", "mask_head."),
)


@dataclass(frozen=True)
class Reference:
    tensors: dict[str, Tensor]
    losses: dict[str, float]
    model: nn.Module
    batch: Batch


def our_name(name: str) -> str:
    for pattern, replacement in RENAMED:
        renamed, count = re.subn(pattern, replacement, name)
        if count:
            return renamed
    raise AssertionError(f"no name for {name}")


def load_weights(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    state = {our_name(name[2:]): tensor for name, tensor in tensors.items() if name.startswith("w.")}
    stem = "backbone.stem.conv1.weight"
    state[stem] = state[stem].flip(1)  # theirs reads blue first
    predictor = "mask_head.predictor.weight"
    if predictor in state:
        state[predictor] = state[predictor].flatten(1)  # theirs is a 1x1 convolution
    model.load_state_dict(state)


def narrowed_config(published: dict) -> dict:
    """Our section for a reference, with the samplers opened as wide as they were for its losses."""
    resnet, fpn = published["RESNETS"], published["FPN"]
    opened = {"samples_per_image": 1_000_000, "positive_fraction": 0.5}
    config = {
        "name": "parity",
        "backbone": {
            "type": "resnet",
            "weights": "the reference's",  # frozen as they are
            "depth": resnet["DEPTH"],
            "stem_channels": resnet["STEM_OUT_CHANNELS"],
            "res2_channels": resnet["RES2_OUT_CHANNELS"],
            "width_per_group": resnet["WIDTH_PER_GROUP"],
            "image_mean": tuple(published["PIXEL_MEAN"][::-1]),
            "image_std": tuple(published["PIXEL_STD"]),
        },
        "fpn": {"channels": fpn["OUT_CHANNELS"]},
        "rpn": opened,
        "roi_sampling": opened,
        "box_head": {"fc_channels": published["ROI_BOX_HEAD"]["FC_DIM"]},
        "selection": {"max_detections": 20},
    }
    if published["MASK_ON"]:
        config["mask_head"] = {"conv_channels": published["ROI_MASK_HEAD"]["CONV_DIM"]}
    return config


def as_batch(tensors: dict[str, Tensor], model: nn.Module) -> Batch:
    rgb = tensors["in.image_bgr"].flip(0).float()
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (model.image_mean, model.image_std))
    height, width = rgb.shape[1:]
    images = torch.zeros(1, 3, -(-height // 32) * 32, -(-width // 32) * 32)
    images[0, :, :height, :width] = (rgb - mean) / std
    size = torch.tensor([[height, width]])
    count = len(tensors["gt.boxes"])
    polygons = None
    if "gt.polygons" in tensors:
        vertices = tensors["gt.polygons"].view(count, -1, 2).float()
        per_ring = vertices.shape[1]
        polygons = Polygons(
            vertices.reshape(1, -1, 2),
            torch.arange(count)[None] * per_ring,
            torch.full((1, count), per_ring),
            torch.arange(count)[None],
        )
    targets = Targets(
        tensors["gt.boxes"][None], tensors["gt.classes"][None], torch.ones(1, count, dtype=torch.bool), polygons
    )
    identity = torch.eye(3)[None]
    return Batch(images, size, torch.tensor([0]), torch.tensor([True]), size, identity, torch.tensor([0, 0]), targets)


@pytest.fixture(scope="module", params=["faster_rcnn_fpn", "mask_rcnn_fpn"])
def reference(request: pytest.FixtureRequest, shared: Path) -> Reference:
    file = shared / "fixtures" / "detectron2" / request.param
    tensors = load_file(file.with_suffix(".safetensors"))
    stated = json.loads(file.with_suffix(".json").read_text())
    section = MaskRCNN if stated["model"]["MASK_ON"] else FasterRCNN
    config = section.model_validate(narrowed_config(stated["model"]))
    model = build_model(config, num_classes=stated["model"]["ROI_HEADS"]["NUM_CLASSES"], load_weights=False)
    load_weights(model, tensors)
    return Reference(tensors, stated["losses"], model.eval(), as_batch(tensors, model))


@torch.inference_mode()
def test_features(reference: Reference) -> None:
    features = reference.model.features(reference.batch.images)
    for level, feature in enumerate(features, start=2):
        theirs = reference.tensors[f"feat.p{level}"]
        assert (feature - theirs).abs().max() <= 1e-4 * theirs.abs().max(), f"p{level}"


@torch.inference_mode()
def test_proposals(reference: Reference) -> None:
    rpn = reference.model.rpn
    predictions = rpn(reference.model.features(reference.batch.images))
    ours = rpn.propose(predictions, reference.batch.image_sizes, rpn.test_limits)
    boxes, logits = reference.tensors["proposals.boxes"], reference.tensors["proposals.logits"]
    assert ours.valid[0].sum() == len(boxes)
    torch.testing.assert_close(ours.logits[0], logits, atol=1e-4, rtol=0)
    assert_boxes_equal_up_to_ties(ours.boxes_xyxy[0], ours.logits[0], boxes, logits)


@torch.inference_mode()
def test_detections(reference: Reference) -> None:
    ours = reference.model.detect(reference.batch)
    boxes, scores = reference.tensors["det.boxes"], reference.tensors["det.scores"]
    assert ours.valid[0].sum() == len(boxes)
    torch.testing.assert_close(ours.scores[0], scores, atol=1e-4, rtol=0)
    partner = assert_boxes_equal_up_to_ties(ours.boxes_xyxy[0], ours.scores[0], boxes, scores)
    assert torch.equal(ours.labels[0], reference.tensors["det.classes"][partner])
    if "det.masks" in reference.tensors:
        size = tuple(reference.batch.image_sizes[0].tolist())
        pasted = paste_masks(ours.masks[0], ours.boxes_xyxy[0], size, 0.5)
        differing = pasted != reference.tensors["det.masks"][partner].bool()
        assert differing.sum() <= 1e-4 * pasted.sum()


def assert_boxes_equal_up_to_ties(ours: Tensor, scores: Tensor, theirs: Tensor, their_scores: Tensor) -> Tensor:
    """Boxes pair off one to one within 0.01 px and 1e-4 of score; returns the index of each one's partner."""
    partner = iou(ours, theirs).argmax(dim=1)
    assert len(partner.unique()) == len(theirs)
    torch.testing.assert_close(ours, theirs[partner], atol=1e-2, rtol=0)
    torch.testing.assert_close(scores, their_scores[partner], atol=1e-4, rtol=0)
    return partner


def test_losses(reference: Reference) -> None:
    reference.model.train()
    ours = reference.model.losses(reference.batch)
    reference.model.eval()
    assert ours.keys() == reference.losses.keys()
    for name, value in reference.losses.items():
        assert ours[name].item() == pytest.approx(value, rel=1e-4), name
