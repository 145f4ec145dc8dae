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
    "groups": (lambda: ops.batched_nms(zeros(3, 4), zeros(3), zeros(4), 0.5), "batched_nms: groups"),
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
