"""What a stranger's Detectron2 configuration may say, and what is said to what it may not."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from detcore.cli import main
from detcore.convert import convert_detectron2, from_ours, model_config, rules
from detcore.convert.detectron2_guess import guess_settings
from detcore.convert.detectron2_settings import DEFAULTS, merged, read_settings
from detcore.models import build_model

OCTAVES = "[[x, x * 2**(1.0/3), x * 2**(2.0/3) ] for x in [32, 64, 128, 256, 512 ]]"
"""As Detectron2's published RetinaNets have it."""


def settings_of(shared: Path, name: str, **changed: Any) -> dict[str, Any]:
    """The MODEL node of a fixture, with some keys of its nodes replaced."""
    model = json.loads((shared / "fixtures" / "detectron2" / f"{name}.json").read_text())["model"]
    for node, value in changed.items():
        model[node] = {**model[node], **value} if isinstance(value, dict) else value
    return merged(DEFAULTS["MODEL"], model)


def tensors_of(model: dict[str, Any]) -> dict[str, Tensor]:
    """A model's, under Detectron2's names."""
    config = model_config(model, name="stranger")
    state = build_model(config, num_classes=config.num_classes, load_weights=False).state_dict()
    theirs, unknown = from_ours(
        {k: t for k, t in state.items() if not k.endswith("num_batches_tracked")}, rules(config)
    )
    assert not unknown
    return theirs


@pytest.mark.parametrize(
    ("name", "changed", "said"),
    [
        ("faster_rcnn_fpn", {"META_ARCHITECTURE": "MyRCNN"}, "MODEL.META_ARCHITECTURE is 'MyRCNN'"),
        ("faster_rcnn_fpn", {"BACKBONE": {"NAME": "build_my_backbone"}}, "MODEL.BACKBONE.NAME"),
        ("faster_rcnn_fpn", {"PROPOSAL_GENERATOR": {"NAME": "PrecomputedProposals"}}, "only 'RPN' or 'RRPN'"),
        ("faster_rcnn_fpn", {"RPN": {"HEAD_NAME": "MyHead"}}, "MODEL.RPN.HEAD_NAME"),
        ("faster_rcnn_fpn", {"RPN": {"IN_FEATURES": ["p2", "p3"]}}, r"only \['p2', 'p3', 'p4', 'p5', 'p6'\]"),
        ("faster_rcnn_fpn", {"ROI_HEADS": {"IN_FEATURES": ["p2", "p3"]}}, r"only \['p2', 'p3', 'p4', 'p5'\]"),
        ("faster_rcnn_c4", {"RPN": {"IN_FEATURES": ["res3"]}}, r"only \['res4'\]"),
        ("faster_rcnn_fpn", {"ROI_HEADS": {"NAME": "MyHeads"}}, "MODEL.ROI_HEADS.NAME"),
        ("faster_rcnn_fpn", {"ROI_HEADS": {"IOU_LABELS": [0, -1, 1]}}, "MODEL.ROI_HEADS.IOU_LABELS"),
        ("faster_rcnn_fpn", {"ROI_BOX_HEAD": {"NAME": "MyHead"}}, "MODEL.ROI_BOX_HEAD.NAME"),
        ("mask_rcnn_fpn", {"ROI_MASK_HEAD": {"NAME": "MyHead"}}, "MODEL.ROI_MASK_HEAD.NAME"),
        ("keypoint_rcnn_fpn", {"ROI_KEYPOINT_HEAD": {"NAME": "MyHead"}}, "MODEL.ROI_KEYPOINT_HEAD.NAME"),
        ("faster_rcnn_fpn", {"ANCHOR_GENERATOR": {"ASPECT_RATIOS": [[1.0], [2.0]]}}, "ASPECT_RATIOS"),
        ("faster_rcnn_fpn", {"RESNETS": {"NORM": "naiveSyncBN"}}, "MODEL.RESNETS.NORM is 'naiveSyncBN': there are"),
        ("retinanet_fpn", {"RETINANET": {"IOU_LABELS": [0, 1, 1]}}, "MODEL.RETINANET.IOU_LABELS"),
    ],
)
def test_what_has_no_counterpart_is_not_passed_over(
    shared: Path, name: str, changed: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        model_config(settings_of(shared, name, **changed), name="stranger")


@pytest.mark.parametrize(
    ("name", "on"),
    [("mask_rcnn_fpn", True), ("keypoint_rcnn_fpn", True), ("panoptic_fpn", True), ("cascade_mask_rcnn_fpn", False)],
)
def test_training_on_predicted_boxes_converts(shared: Path, name: str, on: bool) -> None:
    """Detectron2's cascade does not look at the setting."""
    model = settings_of(shared, name, ROI_BOX_HEAD={"TRAIN_ON_PRED_BOXES": True})
    assert model_config(model, name="stranger").train_on_predicted_boxes == on
    assert not model_config(settings_of(shared, name), name="stranger").train_on_predicted_boxes


def test_synchronised_batch_norm_converts(shared: Path, tmp_path: Path) -> None:
    """Detectron2's mask_rcnn_R_50_FPN_3x_syncbn has it in all parts; those that see regions keep it as it is."""
    norms = {node: {"NORM": "SyncBN"} for node in ("RESNETS", "FPN", "ROI_MASK_HEAD")}
    model = settings_of(shared, "mask_rcnn_fpn", **norms, ROI_BOX_HEAD={"NORM": "SyncBN", "NUM_CONV": 1})
    config = model_config(model, name="stranger")
    assert config.neck.norm == "bn" and (config.box_head.norm, config.mask_head.norm) == ("frozen_bn", "frozen_bn")
    names = {f"{part}.norm.running_var" for part in ("backbone.fpn_lateral2", "roi_heads.box_head.conv1")}
    tensors = tensors_of(model)
    assert names | {"roi_heads.mask_head.mask_fcn1.norm.running_var"} <= tensors.keys()
    torch.save({"model": tensors}, tmp_path / "model.pth")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"MODEL": model}))
    done = convert_detectron2(tmp_path / "model.pth", tmp_path / "ours")
    assert done.config.box_head == config.box_head
    assert "batch norms of heads that see regions keep" in done.notes[0]


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("retinanet_fpn", {"RETINANET": {"NUM_CONVS": 2, "NORM": "GN"}}),
        ("mask_rcnn_fpn", {"RPN": {"CONV_DIMS": [16, -1]}}),
        ("keypoint_rcnn_fpn", {"MASK_ON": True}),
        ("panoptic_fpn", {"RESNETS": {"DEPTH": 101}, "SEM_SEG_HEAD": {"NUM_CLASSES": 7, "CONVS_DIM": 16, "NORM": ""}}),
        ("panoptic_fpn", {"META_ARCHITECTURE": "SemanticSegmentor"}),
    ],
)
def test_tensors_tell_other_widths_and_heads(shared: Path, name: str, changed: dict[str, Any]) -> None:
    model = settings_of(shared, name, **changed)
    guessed = model_config({**guess_settings(tensors_of(model))["MODEL"]}, name="stranger")
    assert guessed == model_config(model, name="stranger")


def test_a_cascade_of_other_length_needs_its_configuration(shared: Path) -> None:
    cascade = {"IOUS": [0.5, 0.7], "BBOX_REG_WEIGHTS": [[10, 10, 5, 5], [20, 20, 10, 10]]}
    model = settings_of(shared, "cascade_mask_rcnn_fpn", ROI_BOX_CASCADE_HEAD=cascade)
    with pytest.raises(ValueError, match=r"a cascade of 2 stages.*--config"):
        guess_settings(tensors_of(model))


def test_texts_of_lists_are_lists(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(
        f"MODEL:\n  ANCHOR_GENERATOR:\n    SIZES: !!python/object/apply:eval ['{OCTAVES}']\n"
        "  ROI_BOX_CASCADE_HEAD:\n    IOUS: (0.5, 0.6)\n  PIXEL_STD: !!python/tuple [1, 2, 3]\n"
        "  RESNETS:\n    NORM:\n"
    )
    model = read_settings(tmp_path / "config.yaml")["MODEL"]
    sizes = model["ANCHOR_GENERATOR"]["SIZES"]
    assert sizes[1] == pytest.approx([64, 64 * 2 ** (1 / 3), 64 * 2 ** (2 / 3)]) and len(sizes) == 5
    assert (model["ROI_BOX_CASCADE_HEAD"]["IOUS"], model["PIXEL_STD"]) == ([0.5, 0.6], [1, 2, 3])
    assert model["RESNETS"]["NORM"] == ""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("!!python/object/apply:eval ['__import__(\"os\").getcwd()']", "is no list of numbers"),
        ("!!python/object/apply:eval ['9**9**9**9']", "is no list of numbers"),
        ("!!python/object/apply:eval ['[[y for y in x] for x in [[1]]]']", "is no list of numbers"),
        ("!!python/object/apply:os.getcwd []", "python/object/apply:os.getcwd"),
        ("&a {b: *a}", "no plain YAML"),
        ("3", "MODEL is 3, not a node of keys"),
        ("{ROI_HEADS: {NUM_CLASSES: many}}", "MODEL.ROI_HEADS.NUM_CLASSES is 'many', not a number"),
        ("{FPN: {IN_FEATURES: res2}}", "MODEL.FPN.IN_FEATURES is 'res2', not a list"),
    ],
)
def test_a_hostile_or_odd_configuration_is_one_line(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "config.yaml").write_text(f"MODEL: {text}\n")
    with pytest.raises(ValueError, match=r"config\.yaml.*" + said.replace("[", r"\[")):
        read_settings(tmp_path / "config.yaml")


def test_values_that_no_model_takes_are_one_line(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = settings_of(shared, "faster_rcnn_fpn")
    torch.save({"model": tensors_of(model)}, tmp_path / "model.pth")
    model["FPN"] = {**model["FPN"], "NORM": "LN", "FUSE_TYPE": "max"}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"MODEL": model}))
    assert main(["convert", "detectron2", str(tmp_path / "model.pth"), "--out", str(tmp_path / "ours")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "neck.fpn.fuse: Input should be 'sum' or 'avg' (got 'max')" in said
    assert "pydantic" not in said
