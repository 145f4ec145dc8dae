"""RetinaNet with Detectron2's weights against Detectron2's numbers; names of both one-stage detectors' tensors."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2_reference import Reference, assert_boxes_equal_up_to_ties, read_reference
from small_detectors import SMALL

from detcore.convert import from_ours, model_config, rules, to_ours
from detcore.models import build_model


@pytest.fixture(scope="module")
def reference(shared: Path) -> Reference:
    return read_reference(shared, "retinanet_fpn")


@pytest.fixture
def published(shared: Path) -> dict[str, Any]:
    """The MODEL node of the reference's configuration."""
    file = shared / "fixtures" / "detectron2" / "retinanet_fpn.json"
    return dict(json.loads(file.read_text())["model"])


def test_detections(reference: Reference) -> None:
    ours = reference.model.detect(reference.batch)
    boxes, scores = reference.tensors["det.boxes"], reference.tensors["det.scores"]
    assert ours.valid[0].sum() == len(boxes)
    partner = assert_boxes_equal_up_to_ties(ours.boxes_xyxy[0], ours.scores[0], boxes, scores)
    assert torch.equal(ours.labels[0], reference.tensors["det.classes"][partner])


@pytest.mark.parametrize("norm", ["none", "gn", "bn"])
@pytest.mark.parametrize("name", ["retinanet", "fcos"])
def test_names_of_a_head_with_norms(name: str, norm: str) -> None:
    config = SMALL[name].model_copy(update={"head": SMALL[name].head.model_copy(update={"norm": norm, "num_convs": 2})})
    state = build_model(config, num_classes=3).state_dict()
    theirs, unknown = from_ours(state, rules(config))
    again, unknown_again = to_ours(theirs, rules(config))
    assert not unknown and not unknown_again
    assert again.keys() == state.keys()
    assert all(torch.equal(again[key], state[key]) for key in state)
    # Of each tower two convolutions, each followed by its norm (one for each of five levels) and a ReLU.
    found = {key.removeprefix("head.bbox_subnet.") for key in theirs if key.startswith("head.bbox_subnet.")}
    step = 2 if norm == "none" else 3
    expected = {f"{conv * step}.{part}" for conv in range(2) for part in ("weight", "bias")}
    if norm != "none":
        expected |= {f"{conv * step + 1}.{part}" for conv in range(2) for part in ("weight", "bias")}
    if norm == "bn":
        statistics = ("running_mean", "running_var", "num_batches_tracked")
        expected |= {f"{3 * conv + 1}.{k}.{part}" for conv in range(2) for k in range(5) for part in statistics}
    assert found == expected
    assert ("head.ctrness.weight" in theirs) == (name == "fcos")


def test_settings(published: dict[str, Any]) -> None:
    retinanet = {
        **published["RETINANET"],
        "NUM_CONVS": 3,
        "NORM": "SyncBN",
        "BBOX_REG_LOSS_TYPE": "giou",
        "IOU_THRESHOLDS": [0.3, 0.6],
        "SMOOTH_L1_LOSS_BETA": 0.1,
        "TOPK_CANDIDATES_TEST": 77,
    }
    anchors = {**published["ANCHOR_GENERATOR"], "SIZES": [[16.0, 24.0]]}
    config = model_config({**published, "RETINANET": retinanet, "ANCHOR_GENERATOR": anchors}, name="x")
    assert (config.head.num_convs, config.head.norm, config.box_loss) == (3, "bn", "giou")
    assert (config.negative_iou, config.positive_iou, config.smooth_l1_beta) == (0.3, 0.6, 0.1)
    assert config.selection.candidates_per_level == 77
    assert config.anchors.sizes == ((16.0, 24.0),) * 5
    assert config.neck.top == "p6p7_from_backbone"


def test_what_has_no_counterpart_is_refused(published: dict[str, Any]) -> None:
    fewer = {**published["RETINANET"], "IN_FEATURES": ["p3", "p4"]}
    with pytest.raises(ValueError, match=r"RETINANET\.IN_FEATURES has 2 levels, the pyramid 5"):
        model_config({**published, "RETINANET": fewer}, name="x")
    with pytest.raises(ValueError, match=r"BACKBONE\.NAME is 'build_other'"):
        model_config({**published, "BACKBONE": {**published["BACKBONE"], "NAME": "build_other"}}, name="x")
