"""What is said of regions besides their boxes, trained in the boxes that the box head predicts."""

from collections.abc import Callable

import pytest
import torch
from pydantic import ValidationError
from small_detectors import NUM_CLASSES, SMALL
from torch import nn

from detcore.models import build_model
from detcore.structures.batch import Batch

LOSS = {
    "mask_rcnn": "loss_mask",
    "keypoint_rcnn": "loss_keypoint",
    "panoptic_fpn": "loss_mask",
    "point_rend": "loss_mask_point",
}


def built(name: str, *, predicted: bool) -> nn.Module:
    torch.manual_seed(0)
    config = SMALL[name].model_copy(update={"train_on_predicted_boxes": predicted})
    return build_model(config, num_classes=config.num_classes or NUM_CLASSES)


@pytest.mark.parametrize("name", LOSS)
def test_heads_train_in_the_boxes_that_are_predicted(name: str, make_batch: Callable[..., Batch]) -> None:
    model, proposals = (built(name, predicted=predicted) for predicted in (True, False))
    nn.init.normal_(model.box_head.box_offsets.bias, std=1.0)
    proposals.load_state_dict(model.state_dict())
    ours, theirs = model.losses(make_batch()), proposals.losses(make_batch())
    torch.testing.assert_close(ours["loss_box_reg"], theirs["loss_box_reg"])
    assert ours[LOSS[name]] != theirs[LOSS[name]]
    # A box head that moves nothing predicts the proposals.
    for made in (model, proposals):
        nn.init.zeros_(made.box_head.box_offsets.weight)
        nn.init.zeros_(made.box_head.box_offsets.bias)
    ours, theirs = model.losses(make_batch()), proposals.losses(make_batch())
    for loss, value in theirs.items():
        # Up to rounding, by which a keypoint on an edge may fall into the pixel beside.
        torch.testing.assert_close(ours[loss], value, atol=1e-4, rtol=0.05 if loss == "loss_keypoint" else 1e-3)


def test_a_cascade_has_no_such_boxes() -> None:
    section = SMALL["cascade_mask_rcnn"].model_dump() | {"train_on_predicted_boxes": True}
    with pytest.raises(ValidationError, match=r"train_on_predicted_boxes has no effect with box_head\.type=cascade"):
        type(SMALL["cascade_mask_rcnn"]).model_validate(section)
