"""Every operator of a training step or a prediction goes through torch.compile and torch.export whole."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from detcore import ops
from detcore.structures.batch import Polygons

Case = tuple[Callable[..., Any], tuple[Tensor, ...]]
TRIANGLE = torch.tensor([[[1.0, 1], [9, 2], [4, 8]]])


def drawn(vertices: Tensor, starts: Tensor, counts: Tensor, owners: Tensor, boxes: Tensor, objects: Tensor) -> Tensor:
    return ops.polygon_roi_masks(Polygons(vertices, starts, counts, owners), boxes, objects, 14)


def cases() -> dict[str, Case]:
    noise = partial(torch.rand, generator=torch.Generator().manual_seed(0))
    boxes, scores = noise(2, 9, 4).sort(dim=-1).values * 20, noise(2, 9)
    rotated = noise(2, 9, 5) * 20 + 1
    groups = torch.arange(9).expand(2, 9) % 3
    maps = [noise(2, 8, 16, 20), noise(2, 8, 8, 10)]
    first = torch.zeros(9, 1)
    offset, mask, weight = noise(2, 18, 16, 20), noise(2, 9, 16, 20), noise(4, 8, 3, 3)
    valid = torch.ones(2, 9, dtype=torch.bool)
    zero = torch.zeros(1, 1, dtype=torch.int64)
    value, places, shares = noise(2, 24, 2, 8), noise(2, 5, 2, 2, 3, 2), noise(2, 5, 2, 2, 3)
    return {
        "nms_padded": (lambda b, s, g: ops.nms_padded(b, s, g, 0.5, 6), (boxes, scores, groups)),
        "nms_rotated_padded": (lambda b, s, g: ops.nms_rotated_padded(b, s, g, 0.5, 6), (rotated, scores, groups)),
        "soft_nms_padded": (
            lambda b, s, g: ops.soft_nms_padded(
                b, s, g, method="linear", iou_threshold=0.5, sigma=0.5, min_score=0.01, max_keep=3
            ),
            (boxes, scores, groups),
        ),
        "box_iou_rotated": (ops.box_iou_rotated, (rotated[0], rotated[1])),
        "roi_align": (lambda f, r: ops.roi_align(f, r, 3, 0.5, 2), (maps[0], torch.cat((first, boxes[0]), dim=1))),
        "roi_align_rotated": (
            lambda f, r: ops.roi_align_rotated(f, r, 3, 0.5, 2),
            (maps[0], torch.cat((first, rotated[0]), dim=1)),
        ),
        "multilevel_roi_align": (lambda f, g, b: ops.multilevel_roi_align([f, g], b, (4, 8), 3), (*maps, boxes)),
        "multilevel_roi_align_rotated": (
            lambda f, g, b: ops.multilevel_roi_align_rotated([f, g], b, (4, 8), 3),
            (*maps, rotated),
        ),
        "deform_conv2d": (
            lambda x, o, w, m: ops.deform_conv2d(x, o, w, padding=1, mask=m),
            (maps[0], offset, weight, mask),
        ),
        "ms_deform_attn": (lambda v, p, s: ops.ms_deform_attn(v, [(4, 5), (2, 2)], p, s), (value, places, shares)),
        "conv2d_act": (lambda x, w, b: ops.conv2d_act(x, w, b, padding=1, relu=True), (maps[0], weight, noise(4))),
        "group_norm_act": (
            lambda x, w: ops.group_norm_act(x, w, w, num_groups=4, relu=True),
            (maps[0], noise(8)),
        ),
        "match_anchors": (
            lambda a, b, v: ops.match_anchors(a, b, v, (0.3, 0.7), True),
            (boxes.flatten(0, 1), boxes, valid),
        ),
        "match_anchors_rotated": (
            lambda a, b, v: ops.match_anchors_rotated(a, b, v, (0.3, 0.7), True),
            (rotated.flatten(0, 1), rotated, valid),
        ),
        "keyed_uniform": (lambda s, c: ops.keyed_uniform(1, 2, s, 3, c), (torch.arange(2), torch.arange(7))),
        "polygon_roi_masks": (
            drawn,
            (TRIANGLE, zero, zero + 3, zero, torch.tensor([[[0.0, 0, 10, 10]]]), zero),
        ),
        "paste_masks": (lambda m, b: ops.paste_masks(m, b, (24, 30), 0.5), (noise(9, 7, 7), boxes[0])),
        "sigmoid_focal_loss": (ops.sigmoid_focal_loss, (noise(9, 4), (noise(9, 4) > 0.5).float())),
        "giou_loss": (ops.giou_loss, (boxes[0], boxes[1])),
        "diou_loss": (ops.diou_loss, (boxes[0], boxes[1])),
        "ciou_loss": (ops.ciou_loss, (boxes[0], boxes[1])),
    }


class Called(nn.Module):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *tensors: Tensor) -> Any:
        return self.function(*tensors)


@pytest.mark.parametrize("name", cases())
def test_compiled_and_exported_it_gives_the_same(name: str) -> None:
    function, tensors = cases()[name]
    want = function(*tensors)
    torch.testing.assert_close(torch.compile(function, backend="aot_eager", fullgraph=True)(*tensors), want)
    torch.testing.assert_close(torch.export.export(Called(function), tensors).module()(*tensors), want)


def test_all_are_here() -> None:
    """But those whose result's length depends on the data, and what begins or ends a pipeline."""
    variable = {"nms", "batched_nms", "nms_rotated", "batched_nms_rotated", "paste_masks_rle"}
    outside = {"warp_normalize", "warp_nearest", "semantic_map", "panoptic", "merge_panoptic"}
    functions = {name for name in ops.__all__ if name.islower()}
    assert functions == cases().keys() | variable | outside
