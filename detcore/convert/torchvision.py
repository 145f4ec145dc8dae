"""Checkpoints of torchvision's detectors with a ResNet and a feature pyramid into published folders of ours.

Converted: Faster, Mask and Keypoint R-CNN, RetinaNet and FCOS, those called "v2" included. The tensors tell the
architecture; what they do not tell is taken to be as in the published models. What differs after that:

* Batch norms of pyramids and heads (v2) are multiplied into the convolutions before them: the same function, but
  training goes on without them.
* Of COCO's 91 outputs the 80 that are classes stay. A softmax without the 10 unused ones gives scores that are higher
  by what those had, next to nothing once trained.
* Empty detections are dropped here. There RetinaNet and FCOS keep them, the others drop all that are narrower than a
  hundredth of a pixel.
* Images are made smaller with antialiasing here, without it there.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from detcore.config import model as config_of
from detcore.config.transforms import ResizeShortestEdge
from detcore.convert.coco_classes import COCO_CLASSES
from detcore.convert.names import Reshape, Rule, load, to_ours
from detcore.convert.reading import read_checkpoint
from detcore.convert.torchvision_settings import (
    BODY,
    BOX_TOWER,
    CLASS_TOWER,
    Convertible,
    State,
    current_names,
    has_keypoints,
    is_dense,
    model_config,
    number_of_outputs,
)
from detcore.convert.writing import Converted, expect_new, name_of, with_counters, write_published
from detcore.models import build_model
from detcore.models.backbones.resnet import STAGES

COCO_OUTPUTS = 91
"""COCO's highest id and one; 0 is the background's."""
UNUSED_COCO_IDS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
OUR_EPS = 1e-5
"""Of our frozen batch norms."""


def convert_torchvision(file: Path, folder: Path, *, labels: Sequence[str] | None = None) -> Converted:
    """Writes a published model with the weights and the architecture of one of torchvision's detectors.

    Args:
        file: a state_dict, such as `torch.save(model.state_dict(), FILE)` writes and torchvision publishes.
        folder: a new or empty one.
        labels: names of the classes without the background; None takes COCO's where there are 91 outputs (or person,
            with keypoints), else numbers. A RetinaNet or FCOS has no background: with one label fewer than outputs its
            first output, which training never asked for, is dropped.

    Raises:
        ValueError: the file cannot be read, or its architecture has no counterpart here, or tensors do not fit,
            naming them.
    """
    expect_new(folder)
    done = from_torchvision(read_checkpoint(file), name=name_of(file), labels=labels, source=str(file))
    resize = ResizeShortestEdge(sizes=(800,), max_size=1333)
    write_published(folder, done.model, config=done.config, labels=done.labels, resize=resize)
    return Converted(
        folder=folder,
        config=done.config,
        num_tensors=sum(not name.endswith(".num_batches_tracked") for name in done.model.state_dict()),
        num_parameters=sum(parameter.numel() for parameter in done.model.parameters()),
        notes=done.notes,
    )


@dataclass(frozen=True, kw_only=True)
class FromTorchvision:
    """Our model with torchvision's weights, in training mode.

    Attributes:
        model, config: the model and its architecture.
        labels: names of its classes.
        notes: assumptions that were made.
    """

    model: nn.Module
    config: Convertible
    labels: tuple[str, ...]
    notes: tuple[str, ...]


def from_torchvision(
    state: State, *, name: str, labels: Sequence[str] | None = None, source: str = "torchvision's model"
) -> FromTorchvision:
    """`convert_torchvision` without files.

    Args:
        state: the model's `state_dict()`.
        name: the new model's.
        labels: as there.
        source: where the tensors are from, for errors.

    Raises:
        ValueError: as there.
    """
    state = current_names(state, source=source)
    outputs = number_of_outputs(state)
    kept, names, notes = _classes(outputs, labels, dense=is_dense(state), keypoints=has_keypoints(state))
    config = model_config(state, name=name, num_classes=len(kept))
    eps = _frozen_eps(config)
    if eps is not None:
        notes.append(f"the backbone's frozen norms are taken to have eps {eps:g}, as in the published models")
    model = build_model(config, num_classes=len(kept), load_weights=False)
    load(model, with_counters(_our_weights(state, config, kept, frozen_eps=eps), model), source=source)
    return FromTorchvision(model=model, config=config, labels=names, notes=tuple(notes))


def _classes(
    outputs: int, labels: Sequence[str] | None, *, dense: bool, keypoints: bool
) -> tuple[list[int], tuple[str, ...], list[str]]:
    """The outputs that stay, their names, and notes."""
    foreground = list(range(1, outputs))
    is_coco = outputs == COCO_OUTPUTS and (labels is None or len(labels) == len(COCO_CLASSES))
    if is_coco:
        kept = [index for index in foreground if index not in UNUSED_COCO_IDS]
        note = "of the 91 outputs COCO's 80 classes stay, in the order of their ids; --labels FILE names others"
        return kept, tuple(labels or COCO_CLASSES), [note]
    if labels is not None:
        kept = list(range(outputs)) if dense and len(labels) == outputs else foreground
        if len(labels) != len(kept):
            raise ValueError(f"{len(labels)} labels for a model of {len(kept)} classes, the background not counted")
        return kept, tuple(labels), []
    if keypoints and outputs == 2:
        return foreground, COCO_CLASSES[:1], ["the one class is taken to be COCO's person; --labels FILE names another"]
    kept = list(range(outputs)) if dense else foreground
    note = "the classes have their outputs' numbers for names; --labels FILE names them, one a line"
    return kept, tuple(map(str, kept)), [note]


def _our_weights(state: State, config: Convertible, kept: Sequence[int], *, frozen_eps: float | None) -> State:
    """All of our model's tensors but batch norms' counters. ValueError names those that have no counterpart here."""
    state = _without_norms({name: value for name, value in state.items() if not name.endswith(".num_batches_tracked")})
    if frozen_eps is not None:
        state = _with_our_eps(state, theirs=frozen_eps)
    ours, unknown = to_ours(state, _rules(config, kept))
    if unknown:
        raise ValueError(f"{len(unknown)} tensors have no counterpart here: {', '.join(unknown[:8])}")
    if isinstance(config, config_of.Dense):  # no biases before norms there
        for name in [name for name in ours if re.search(r"_tower\.\d+\.conv\.weight$", name)]:
            ours.setdefault(name.removesuffix("weight") + "bias", torch.zeros(len(ours[name])))
    return ours


def _frozen_eps(config: Convertible) -> float | None:
    """Of the published models' frozen batch norms; None where they are not frozen."""
    assert isinstance(config.backbone, config_of.ResNetBackbone)
    if config.backbone.norm != "frozen_bn":
        return None
    return 1e-5 if isinstance(config, config_of.FCOS) else 0.0


def _without_norms(state: State) -> State:
    """With the batch norms outside of the backbone multiplied into the convolutions before them."""
    norms = [
        name[: -len("1.running_var")] for name in state if re.fullmatch(r"(?!backbone\.body).*\.1\.running_var", name)
    ]
    for layer in norms:
        weight, bias, mean, variance = (
            state.pop(f"{layer}1.{part}").double() for part in ("weight", "bias", "running_mean", "running_var")
        )
        scale = weight / (variance + 1e-5).sqrt()
        conv = state[f"{layer}0.weight"]
        state[f"{layer}0.weight"] = (conv.double() * scale.view(-1, 1, 1, 1)).to(conv.dtype)
        state[f"{layer}0.bias"] = (bias + (state.get(f"{layer}0.bias", 0.0) - mean) * scale).to(conv.dtype)
    return state


def _with_our_eps(state: State, *, theirs: float) -> State:
    """The backbone's frozen norms as the same functions with `OUR_EPS`."""
    changed = dict(state)
    for name, variance in state.items():
        if name.startswith(BODY) and name.endswith("running_var") and theirs != OUR_EPS:
            key = name.removesuffix("running_var") + "weight"
            factor = ((variance.double() + OUR_EPS) / (variance.double() + theirs)).sqrt()
            changed[key] = (state[key].double() * factor).to(state[key].dtype)
    return changed


def _rules(config: Convertible, kept: Sequence[int]) -> list[Rule]:
    """From names as `current_names` gives them, one way only: outputs are dropped and put in our order."""
    blocks = [
        rule
        for stage, ours in enumerate(STAGES, start=1)
        for theirs in [f"{BODY}layer{stage}.{{n}}."]
        for rule in (
            *(Rule(f"{theirs}bn{conv}.", f"backbone.{ours}.{{n}}.conv{conv}.norm.") for conv in (1, 2, 3)),
            Rule(f"{theirs}downsample.0.", f"backbone.{ours}.{{n}}.shortcut."),
            Rule(f"{theirs}downsample.1.", f"backbone.{ours}.{{n}}.shortcut.norm."),
            Rule(theirs, f"backbone.{ours}.{{n}}."),
        )
    ]
    return [
        *blocks,
        Rule(f"{BODY}conv1.", "backbone.stem.conv1."),
        Rule(f"{BODY}bn1.", "backbone.stem.conv1.norm."),
        Rule("backbone.fpn.inner_blocks.{n}.0.", "neck.lateral.{n}."),
        Rule("backbone.fpn.layer_blocks.{n}.0.", "neck.output.{n}."),
        Rule("backbone.fpn.extra_blocks.", "neck."),
        *(_dense_rules(config, kept) if isinstance(config, config_of.Dense) else _region_rules(kept)),
    ]


def _region_rules(kept: Sequence[int]) -> list[Rule]:
    return [
        Rule("rpn.head.conv.{n}.0.", "rpn.convs.{n}."),
        Rule("rpn.head.cls_logits.", "rpn.objectness."),
        Rule("rpn.head.bbox_pred.", "rpn.box_offsets."),
        Rule("roi_heads.box_head.fc.{n}.", "box_head.fcs.{n}."),
        Rule("roi_heads.box_head.{n}.0.", "box_head.convs.{n}."),
        # Their background is the first class, ours the last.
        Rule("roi_heads.box_predictor.cls_score.", "box_head.class_logits.", 0, _rows([*kept, 0])),
        Rule("roi_heads.box_predictor.bbox_pred.", "box_head.box_offsets.", 0, _rows(kept, each=4)),
        Rule("roi_heads.mask_head.{n}.0.", "mask_head.convs.{n}."),
        Rule("roi_heads.mask_predictor.conv5_mask.", "mask_head.upsample."),
        Rule(
            "roi_heads.mask_predictor.mask_fcn_logits.weight",
            "mask_head.predictor.weight",
            0,
            lambda weight: weight[list(kept)].flatten(1),
        ),
        Rule("roi_heads.mask_predictor.mask_fcn_logits.", "mask_head.predictor.", 0, _rows(kept)),
        Rule("roi_heads.keypoint_head.{n}.0.", "keypoint_head.convs.{n}."),
        Rule("roi_heads.keypoint_predictor.kps_score_lowres.", "keypoint_head.upsample."),
    ]


def _rows(kept: Sequence[int], each: int = 1) -> Reshape:
    return lambda tensor: tensor.reshape(-1, each, *tensor.shape[1:])[list(kept)].flatten(0, 1)


def _dense_rules(config: config_of.Dense, kept: Sequence[int]) -> list[Rule]:
    anchors = config.anchors if isinstance(config, config_of.RetinaNet) else None
    sizes, ratios = (1, 1) if anchors is None else (len(anchors.sizes[0]), len(anchors.aspect_ratios))

    def by_size_first(values: Sequence[int]) -> Reshape:
        """Their anchors of a place go by ratio and size, ours by size and ratio."""
        return lambda tensor: (
            tensor.reshape(ratios, sizes, -1, *tensor.shape[1:]).transpose(0, 1)[:, :, list(values)].flatten(0, 2)
        )

    return [
        Rule(f"{CLASS_TOWER}conv.{{n}}.0.", "head.class_tower.{n}.conv."),
        Rule(f"{CLASS_TOWER}conv.{{n}}.1.", "head.class_tower.{n}.norm."),
        Rule(f"{BOX_TOWER}conv.{{n}}.0.", "head.box_tower.{n}.conv."),
        Rule(f"{BOX_TOWER}conv.{{n}}.1.", "head.box_tower.{n}.norm."),
        Rule(f"{CLASS_TOWER}cls_logits.", "head.class_logits.", 0, by_size_first(kept)),
        Rule(f"{BOX_TOWER}bbox_reg.", "head.box_offsets.", 0, by_size_first(range(4))),
        Rule(f"{BOX_TOWER}bbox_ctrness.", "head.centreness."),
    ]
