"""Proposals from predictions that are set by hand."""

from dataclasses import replace

import pytest
import torch

from detcore.models.proposals.anchors import AnchorGenerator
from detcore.models.proposals.rpn import RPN, AnchorPredictions, ProposalLimits

ANCHORS = torch.tensor(
    [
        [0.0, 0.0, 10.0, 10.0],  # level 0
        [0.0, 0.0, 10.0, 9.0],  # overlaps the one above by 0.9
        [20.0, 20.0, 30.0, 30.0],
        [40.0, 40.0, 60.0, 60.0],  # reaches out of the content
        [70.0, 70.0, 80.0, 80.0],  # lies outside of it
        [0.0, 0.0, 10.0, 10.0],  # level 1
        [5.0, 30.0, 25.0, 45.0],
    ]
)
LOGITS = torch.tensor([[3.0, 2.0, 1.0, 0.5, 9.0, 2.5, -1.0]])
SIZES = torch.tensor([[50, 50]])


@pytest.fixture
def rpn() -> RPN:
    limits = ProposalLimits(per_level=5, total=8)
    return RPN(
        channels=4,
        anchors=AnchorGenerator(sizes=[[8.0], [16.0]], aspect_ratios=[1.0], strides=(4, 8), offset=0.0),
        positive_iou=0.7,
        negative_iou=0.3,
        samples_per_image=8,
        positive_fraction=0.5,
        train_limits=limits,
        test_limits=limits,
        nms_threshold=0.7,
        min_box_size=0.0,
        smooth_l1_beta=0.0,
        loss_weight=1.0,
    )


@pytest.fixture
def predictions() -> AnchorPredictions:
    return AnchorPredictions(LOGITS, torch.zeros(1, 7, 4), ANCHORS, (5, 2))


def test_levels_do_not_suppress_each_other_and_boxes_are_clipped(rpn: RPN, predictions: AnchorPredictions) -> None:
    found = rpn.propose(predictions, SIZES, rpn.test_limits)
    assert found.valid.tolist() == [[True] * 5 + [False] * 2]  # of seven candidates one is suppressed, one outside
    assert found.logits[0, :5].tolist() == [3.0, 2.5, 1.0, 0.5, -1.0]
    expected = [ANCHORS[0], ANCHORS[5], ANCHORS[2], torch.tensor([40.0, 40.0, 50.0, 50.0]), ANCHORS[6]]
    torch.testing.assert_close(found.boxes_xyxy[0, :5], torch.stack(expected))
    assert not found.boxes_xyxy[0, 5:].any() and not found.logits[0, 5:].any()


def test_limits_count_per_level_and_in_all(rpn: RPN, predictions: AnchorPredictions) -> None:
    found = rpn.propose(predictions, SIZES, ProposalLimits(per_level=1, total=8))
    assert found.valid.tolist() == [[True, False]] and found.logits[0, 0] == 2.5  # level 0's best lies outside
    found = rpn.propose(predictions, SIZES, ProposalLimits(per_level=5, total=2))
    assert found.logits.tolist() == [[3.0, 2.5]]


def test_small_and_non_finite_boxes_are_dropped(rpn: RPN, predictions: AnchorPredictions) -> None:
    rpn.min_box_size = 10.0
    kept = rpn.propose(predictions, SIZES, rpn.test_limits)
    assert kept.logits[kept.valid].tolist() == [-1.0]  # the only one above 10 x 10 inside the content
    rpn.min_box_size = 0.0
    offsets = predictions.offsets.clone()
    offsets[0, 0, 2] = torch.nan
    logits = LOGITS.clone()
    logits[0, 2] = torch.inf
    kept = rpn.propose(replace(predictions, offsets=offsets, logits=logits), SIZES, rpn.test_limits)
    assert kept.logits[kept.valid].tolist() == [2.5, 2.0, 0.5, -1.0]
    assert kept.boxes_xyxy.isfinite().all()


def test_predictions_line_up_with_anchors(rpn: RPN) -> None:
    """The one place whose feature shouts is the one whose anchor scores."""
    features = [torch.zeros(1, 4, 3, 5), torch.zeros(1, 4, 2, 3)]
    features[0][0, :, 2, 3] = 1.0
    for layer in (*rpn.convs, rpn.objectness, rpn.box_offsets):
        torch.nn.init.zeros_(layer.weight)
    rpn.convs[0].weight.data[:, :, 1, 1] = torch.eye(4)
    rpn.objectness.weight.data.fill_(1.0)
    rpn.box_offsets.weight.data[2] = 1.0  # the width's offset
    predictions = rpn(features)
    assert predictions.level_sizes == (15, 6)
    best = predictions.logits[0].argmax()
    assert predictions.anchors[best].tolist() == [3 * 4 - 4, 2 * 4 - 4, 3 * 4 + 4, 2 * 4 + 4]
    assert predictions.offsets[0, best].tolist() == [0.0, 0.0, 4.0, 0.0]
    assert predictions.offsets.count_nonzero() == 1
