"""Non-maximum suppression and the IoU of rotated boxes."""

from collections.abc import Iterator

import torch
import torchvision
from torch import Tensor

from detcore import ops
from detcore.ops.nms import nms_padded_reference
from detcore.ops.rotated import box_iou_rotated_reference, nms_rotated_padded_reference
from op_cases.case import Case, boxes, size_of


def nms_cases(device: str) -> Iterator[Case]:
    cuda = device == "cuda"
    for count, bar in ((1000, 0.07), (5000, 0.3), (20000, 1.7)):
        own, scores = boxes(count, 4000, 30, device), torch.rand(count, device=device)
        yield Case(
            f"nms, {count} boxes, fp32",
            lambda b=own, s=scores: ops.nms(b, s, 0.5),
            lambda b=own, s=scores: torchvision.ops.nms(b, s, 0.5),
            bar if cuda else 1.0,
            moved=size_of(own, scores) + 8 * count,
            waits=True,
        )
    groups = torch.randint(0, 80, (20000,), device=device)
    yield Case(
        "batched_nms, 20000 boxes, 80 classes, fp32",
        lambda: ops.batched_nms(own, scores, groups, 0.5),
        lambda: torchvision.ops.batched_nms(own, scores, groups, 0.5),
        0.5 if cuda else 1.0,
        moved=size_of(own, scores, groups) + 8 * len(own),
        waits=True,
    )
    crowded, confidence = boxes(1000, 500, 200, device, 2), torch.rand((2, 1000), device=device)
    valid = torch.ones_like(confidence, dtype=torch.bool)
    yield Case(
        "nms_padded, 2 x 1000 boxes, fp32",
        lambda: ops.nms_padded(crowded, confidence, None, 0.7, 300),
        lambda: nms_padded_reference(crowded, confidence, None, 0.7, 300, valid),
        0.2 if cuda else 20.0,
        moved=size_of(crowded, confidence) + 8 * 2 * 300,
    )


def rotated_cases(device: str) -> Iterator[Case]:
    cuda = device == "cuda"

    def rotated(count: int, extent: float) -> Tensor:
        sides = torch.rand((count, 2), device=device) * 30 + 2
        return torch.cat((torch.rand((count, 2), device=device) * extent, sides, sides[:, :1] * 12), dim=1)

    a, b = rotated(2000, 1000), rotated(2000, 1000)
    yield Case(
        "box_iou_rotated, 2000 x 2000, fp32",
        lambda: ops.box_iou_rotated(a, b),
        lambda: box_iou_rotated_reference(a, b),
        0.15 if cuda else 20.0,
        moved=size_of(a, b) + 4 * len(a) * len(b),
    )
    # The extent grows with the number, so that as many survive. The reference would need minutes for more on a CPU.
    for count, bar in ((1000, 0.1), (5000, 0.5), (20000, 6.0)) if cuda else ((1000, 20.0),):
        own, scores = rotated(count, 1000 * (count / 1000) ** 0.5), torch.rand(count, device=device)
        batch = own[None], scores[None]
        valid = torch.ones_like(batch[1], dtype=torch.bool)
        yield Case(
            f"nms_rotated, {count} boxes, fp32",
            lambda b=own, s=scores: ops.nms_rotated(b, s, 0.5),
            lambda b=batch, v=valid, n=count: nms_rotated_padded_reference(*b, None, 0.5, n, v),
            bar,
            moved=size_of(own, scores) + 8 * count,
            waits=True,
        )
