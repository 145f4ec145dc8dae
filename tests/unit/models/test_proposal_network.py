"""The region proposal network as a detector."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from small_detectors import NUM_CLASSES, SMALL

from detcore.models import build_model
from detcore.structures.batch import Batch


def test_detections_are_the_proposals(make_batch: Callable[..., Batch]) -> None:
    torch.manual_seed(0)
    model = build_model(SMALL["rpn"], num_classes=NUM_CLASSES).eval()
    batch = make_batch()
    batch = replace(batch, real=torch.tensor([True, False]))
    with torch.inference_mode():
        found = model.detect(batch)
        proposals = model.rpn.propose(model.dense(batch.images)[1], batch.image_sizes, model.rpn.test_limits)
    assert model.predicts == ("proposals",) and model.num_classes == NUM_CLASSES
    assert found.boxes_xyxy.shape == (2, 40, 4) and found.valid[0].any() and not found.valid[1].any()
    assert torch.equal(found.boxes_xyxy[0], proposals.boxes[0]) and not found.labels.any()
    kept = found.valid[0]
    torch.testing.assert_close(found.scores[0][kept], proposals.logits[0][kept].sigmoid())
    assert not found.scores[0][~kept].any() and not found.boxes_xyxy[1].any()


def test_losses_are_the_rpn_s_and_know_no_classes(make_batch: Callable[..., Batch]) -> None:
    torch.manual_seed(0)
    model, batch = build_model(SMALL["rpn"], num_classes=NUM_CLASSES), make_batch()
    losses = model.losses(batch)
    assert list(losses) == ["loss_rpn_cls", "loss_rpn_loc"]
    relabelled = replace(batch, targets=replace(batch.targets, labels=torch.zeros_like(batch.targets.labels)))
    assert model.losses(relabelled) == losses
    with pytest.raises(ValueError, match="no targets"):
        model.losses(replace(batch, targets=None))
