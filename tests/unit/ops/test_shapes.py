"""Sizes that do not fit are told in one line, and never reach a kernel."""

from collections.abc import Callable

import pytest
import torch
from torch import zeros

from detcore import ops
from detcore.structures.batch import Polygons

LONG = torch.int64
NO_POLYGONS = Polygons(zeros(2, 9, 2), *(zeros(2, 1, dtype=LONG) for _ in range(3)))

WRONG: dict[str, tuple[Callable[[], object], str]] = {
    "nms": (lambda: ops.nms(zeros(3, 5), zeros(3), 0.5), r"nms: boxes_xyxy is \(3, 5\), must be \(N, 4\)"),
    "scores": (lambda: ops.nms(zeros(3, 4), zeros(2), 0.5), r"scores is \(2,\), must be \(N\) with N = 3 as in boxes"),
    "groups": (lambda: ops.batched_nms(zeros(3, 4), zeros(3), zeros(4, dtype=LONG), 0.5), "batched_nms: groups is"),
    "padded": (lambda: ops.nms_padded(zeros(2, 3, 4), zeros(2, 3), None, 0.5, 3, valid=zeros(1, 3) > 0), "valid"),
    "rotated": (lambda: ops.nms_rotated(zeros(3, 4), zeros(3), 0.5), "nms_rotated: boxes"),
    "iou": (lambda: ops.box_iou_rotated(zeros(3, 5), zeros(5)), r"box_iou_rotated: b is \(5,\), must be \(M, 5\)"),
    "matching": (lambda: ops.match_anchors(zeros(3, 3, 4), zeros(2, 1, 4), zeros(2, 1) > 0, (0, 1), True), "anchors"),
    "random": (lambda: ops.keyed_uniform(1, 2, zeros(3, dtype=LONG), 4, zeros(2, 5, dtype=LONG)), "candidate_ids"),
    "polygons": (
        lambda: ops.polygon_roi_masks(NO_POLYGONS, zeros(2, 3, 4), zeros(2, 4, dtype=LONG), 28),
        r"objects is \(2, 4\), must be \(B, R\) with R = 3 as in boxes",
    ),
    "pasting": (lambda: ops.paste_masks(zeros(3, 28, 27), zeros(3, 4), (9, 9), 0.5), "masks"),
    "run lengths": (lambda: ops.paste_masks_rle(zeros(3, 28, 28), zeros(2, 4), (9, 9), 0.5), "boxes"),
    "box loss": (lambda: ops.giou_loss(zeros(3, 5), zeros(3, 5)), r"giou_loss: boxes are \(3, 5\), must be \(..., 4\)"),
    "roi_align": (lambda: ops.roi_align(zeros(1, 2, 5, 5), zeros(3, 4), 7, 1.0, 2), "roi_align: rois"),
    "levels": (
        lambda: ops.multilevel_roi_align([zeros(2, 3, 8, 8), zeros(2, 4, 4, 4)], zeros(2, 5, 4), (4, 8), 7),
        "features",
    ),
    "negative levels": (
        lambda: ops.ms_deform_attn(
            zeros(1, 1000, 1, 8), [(2000, 2000), (-3999, 1000)], zeros(1, 1, 1, 2, 1, 2), zeros(1, 1, 1, 2, 1)
        ),
        "ms_deform_attn: levels",
    ),
    "canonical size": (
        lambda: ops.multilevel_roi_align([zeros(1, 1, 8, 8)], zeros(1, 1, 4), (4,), 7, canonical_size=0.0),
        "canonical_size 0.0 must be above 0",
    ),
    "samples": (lambda: ops.roi_align(zeros(1, 1, 8, 8), zeros(1, 5), 7, 1.0, 2**30), "sampling_ratio 1073741824"),
    "negative output": (lambda: ops.roi_align_rotated(zeros(1, 1, 8, 8), zeros(1, 6), -1, 1.0, 2), "output_size"),
    "no seed": (
        lambda: ops.keyed_uniform(zeros(0, dtype=LONG), 2, zeros(3, dtype=LONG), 4, zeros(5, dtype=LONG)),
        "seed",
    ),
    "two means": (
        lambda: ops.warp_normalize(
            [],
            zeros(0, 3, 3),
            zeros(0, 3, 4),
            (4, 4),
            content_sizes=zeros(0, 2, dtype=LONG),
            mean=(0.0, 0.0),
            std=(1.0, 1.0, 1.0),
        ),
        "2 means and 3 deviations",
    ),
    "no groups": (lambda: ops.deform_conv2d(zeros(1, 0, 5, 5), zeros(1, 18, 3, 3), zeros(4, 0, 3, 3)), "deform_conv2d"),
    "bias": (
        lambda: ops.deform_conv2d(zeros(1, 2, 5, 5), zeros(1, 18, 3, 3), zeros(4, 2, 3, 3), zeros(1)),
        r"bias is \(1,\), must be \(O\) with O = 4 as in weight",
    ),
    "fractions": (
        lambda: ops.batched_nms(zeros(3, 4), zeros(3), zeros(3), 0.5),
        "groups is torch.float32, must be int",
    ),
    "threshold": (lambda: ops.nms_rotated(zeros(3, 5), zeros(3), -1.0), "iou_threshold -1.0 must not be negative"),
    "max_keep": (lambda: ops.nms_padded(zeros(1, 3, 4), zeros(1, 3), None, 0.5, -1), "max_keep -1"),
    "image size": (lambda: ops.paste_masks_rle(zeros(1, 2, 2), zeros(1, 4), (-1, 3), 0.5), "image_size"),
    "turned": (lambda: ops.roi_align_rotated(zeros(1, 2, 5, 5), zeros(3, 5), 7, 1.0, 2), "roi_align_rotated: rois"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_size_is_one_line(name: str) -> None:
    call, message = WRONG[name]
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_tensors_of_two_devices() -> None:
    with pytest.raises(ValueError, match="nms: scores is on meta, boxes_xyxy on cpu"):
        ops.nms(zeros(3, 4), torch.empty(3, device="meta"), 0.5)


def test_other_operators_of_two_devices() -> None:
    box, mask = zeros(1, 4), zeros(1, 2, 2)
    for call in (
        lambda: ops.giou_loss(box, box.to("meta")),
        lambda: ops.sigmoid_focal_loss(box, box.to("meta")),
        lambda: ops.paste_masks(mask, box.to("meta"), (3, 3), 0.5),
        lambda: ops.deform_conv2d(zeros(1, 2, 5, 5), zeros(1, 18, 3, 3), torch.empty(4, 2, 3, 3, device="meta")),
    ):
        with pytest.raises(ValueError, match="meta"):
            call()


def test_an_image_wider_than_floats_can_count() -> None:
    # As a float, the width is 4 pixels more than it is.
    box, width = torch.tensor([[0.0, 0, 2e7, 1]]), 2**24 + 3
    pasted = ops.paste_masks(torch.ones(1, 2, 2), box, (1, width), 0.5)
    assert pasted.shape == (1, 1, width) and pasted[0, 0, -100:].all()
    assert ops.paste_masks_rle(torch.ones(1, 2, 2), box, (1, width), 0.5)[0]["size"] == [1, width]


def test_scores_are_compared_in_their_own_type() -> None:
    scores = 0.5 + torch.tensor([0.0, 1e-12, 2e-12], dtype=torch.float64)
    far_apart = torch.tensor([[0.0, 0, 1, 1], [5, 5, 6, 6], [9, 9, 10, 10]])
    assert ops.nms(far_apart, scores, 0.5).tolist() == [2, 1, 0]
