"""Anchor matching and keyed random numbers."""

from collections.abc import Iterator

import torch

from detcore import ops
from detcore.ops.matching import match_anchors_reference
from detcore.ops.random import keyed_uniform_reference
from op_cases.case import Case, boxes


def matching_cases(device: str) -> Iterator[Case]:
    cuda = device == "cuda"
    batch, count = (16, 250_000) if cuda else (2, 100_000)
    anchors, truth = boxes(count, 1000, 300, device)[None], boxes(100, 800, 300, device, batch)
    valid = torch.ones(truth.shape[:2], dtype=torch.bool, device=device)
    yield Case(
        f"match_anchors, {count} anchors x 100 boxes, {batch} images",
        lambda: ops.match_anchors(anchors, truth, valid, (0.3, 0.7), True),
        lambda: match_anchors_reference(anchors, truth, valid, (0.3, 0.7), True),
        1.0 if cuda else 20.0,
    )
    ids, candidates = torch.arange(batch, device=device), torch.arange(count, device=device)
    yield Case(
        f"keyed_uniform, {batch} x {count}",
        lambda: ops.keyed_uniform(1, 2, ids, 3, candidates),
        lambda: keyed_uniform_reference(1, 2, ids, 3, candidates),
        0.1 if cuda else 20.0,
    )
