"""Proposals from predictions that are set by hand."""

import math
from dataclasses import replace

import pytest
import torch

from detcore.models.proposals.anchors import AnchorGenerator
from detcore.models.proposals.rpn import RPN, AnchorPredictions, ProposalLimits
from detcore.structures.batch import Batch, Targets

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


LIMITS = ProposalLimits(per_level=5, total=8)
SETTINGS = {
    "channels": 4,
    "anchors": AnchorGenerator(sizes=[[8.0], [16.0]], aspect_ratios=[1.0], strides=(4, 8), offset=0.0),
    "positive_iou": 0.7,
    "negative_iou": 0.3,
    "samples_per_image": 8,
    "positive_fraction": 0.5,
    "train_limits": LIMITS,
    "test_limits": LIMITS,
    "nms_threshold": 0.7,
    "min_box_size": 0.0,
    "smooth_l1_beta": 0.0,
    "loss_weight": 1.0,
}


@pytest.fixture
def rpn() -> RPN:
    return RPN(**SETTINGS)


@pytest.fixture
def predictions() -> AnchorPredictions:
    return AnchorPredictions(LOGITS, torch.zeros(1, 7, 4), ANCHORS, (5, 2))


def test_levels_do_not_suppress_each_other_and_boxes_are_clipped(rpn: RPN, predictions: AnchorPredictions) -> None:
    found = rpn.propose(predictions, SIZES, rpn.test_limits)
    assert found.valid.tolist() == [[True] * 5 + [False] * 2]  # of seven candidates one is suppressed, one outside
    assert found.logits[0, :5].tolist() == [3.0, 2.5, 1.0, 0.5, -1.0]
    expected = [ANCHORS[0], ANCHORS[5], ANCHORS[2], torch.tensor([40.0, 40.0, 50.0, 50.0]), ANCHORS[6]]
    torch.testing.assert_close(found.boxes[0, :5], torch.stack(expected))
    assert not found.boxes[0, 5:].any() and not found.logits[0, 5:].any()


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
    assert kept.boxes.isfinite().all()


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


def test_convolutions_may_change_the_width() -> None:
    rpn = RPN(**SETTINGS, conv_channels=(6, None))
    assert [(conv.in_channels, conv.out_channels) for conv in rpn.convs] == [(4, 6), (6, 6)]
    features = [torch.randn(1, 4, 3, 5), torch.randn(1, 4, 2, 3)]
    x = features[1]
    for conv in rpn.convs:
        x = torch.nn.functional.conv2d(x, conv.weight, conv.bias, padding=1).relu()
    torch.testing.assert_close(rpn(features).logits[0, 15:], rpn.objectness(x).flatten())
    assert rpn.objectness.in_channels == rpn.box_offsets.in_channels == 6


def test_anchors_beyond_the_boundary_are_not_trained_on(predictions: AnchorPredictions) -> None:
    """As many zero logits count, each -log(1/2), as there are anchors inside; all of them without a threshold."""
    targets = Targets(torch.zeros(1, 1, 4), torch.zeros(1, 1, dtype=torch.int64), torch.tensor([[False]]))
    row, one = torch.tensor([0]), torch.tensor([True])
    batch = Batch(torch.zeros(1), SIZES, row, one, SIZES, torch.eye(3)[None], torch.tensor([0, 0]), targets)
    level = replace(predictions, logits=torch.zeros(1, 7))
    # Of the seven, one lies outside the content of 50 x 50 and one reaches 10 pixels out of it.
    for threshold, inside in ((None, 7), (0.0, 5), (10.0, 5), (10.5, 6), (31.0, 7)):
        rpn = RPN(**SETTINGS, boundary_threshold=threshold)
        loss = rpn.losses(level, batch, targets)["loss_rpn_cls"]
        assert loss.item() == pytest.approx(inside * math.log(2) / 8), threshold
