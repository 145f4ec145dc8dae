"""Detectron2's names and settings of cascades, box losses and LVIS's class loss; numbers are in test_rcnn_parity."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from detcore.config.model import CascadeHead, Federated
from detcore.convert import from_ours, model_config, rules, to_ours
from detcore.models import build_model

NAME = "cascade_mask_rcnn_fpn"


@pytest.fixture
def settings(shared: Path) -> dict[str, Any]:
    stated: dict[str, Any] = json.loads((shared / "fixtures" / "detectron2" / f"{NAME}.json").read_text())["model"]
    return stated


def test_stages_of_another_number_and_kind(settings: dict[str, Any]) -> None:
    settings["ROI_BOX_CASCADE_HEAD"] = {"IOUS": [0.5, 0.65], "BBOX_REG_WEIGHTS": [[10, 10, 5, 5], [25, 25, 12, 12]]}
    settings["ROI_BOX_HEAD"] |= {"NUM_CONV": 2, "CONV_DIM": 32, "NUM_FC": 1, "NORM": "GN"}
    config = model_config(settings, name="x")
    head = config.box_head
    assert isinstance(head, CascadeHead) and head.ious == (0.5, 0.65) and head.box_weights[1] == (25, 25, 12, 12)
    ours = build_model(config, num_classes=5, load_weights=False).state_dict()
    theirs, unknown = from_ours(ours, rules(config))
    assert not unknown
    for stage in (0, 1):
        for name in ("box_head.{}.conv2.norm.weight", "box_head.{}.fc1.bias", "box_predictor.{}.bbox_pred.weight"):
            assert f"roi_heads.{name.format(stage)}" in theirs
    assert all(torch.equal(tensor, ours[name]) for name, tensor in to_ours(theirs, rules(config))[0].items())


def test_losses_are_those_that_are_set(settings: dict[str, Any]) -> None:
    settings["RPN"] |= {"BBOX_REG_LOSS_TYPE": "giou", "BBOX_REG_LOSS_WEIGHT": 2.0}
    settings["ROI_BOX_HEAD"] |= {"BBOX_REG_LOSS_TYPE": "ciou", "BBOX_REG_LOSS_WEIGHT": 10.0}
    settings["ROI_BOX_HEAD"] |= {"USE_SIGMOID_CE": True, "USE_FED_LOSS": True, "FED_LOSS_NUM_CLASSES": 7}
    config = model_config(settings, name="x")
    assert (config.rpn.box_loss, config.rpn.box_loss_weight) == ("giou", 2.0)
    assert (config.box_head.box_loss, config.box_head.box_loss_weight) == ("ciou", 10.0)
    assert config.box_head.class_loss == "sigmoid"
    assert config.box_head.federated == Federated(num_classes_per_image=7, frequency_power=0.5)


def test_a_cascade_of_class_specific_boxes_is_refused(settings: dict[str, Any]) -> None:
    settings["ROI_BOX_HEAD"]["CLS_AGNOSTIC_BBOX_REG"] = False
    with pytest.raises(ValueError, match="CLS_AGNOSTIC_BBOX_REG"):
        model_config(settings, name="x")
