"""Anchor matching and keyed random numbers."""

from collections.abc import Iterator

import torch

from detcore import ops
from detcore.ops.matching import match_anchors_reference
from detcore.ops.random import keyed_uniform_reference
from op_cases.case import Case, boxes, size_of

OPERATIONS_PER_PAIR = 14
"""Corners of the intersection 4, its sides 3, its area 1, the union 2, what decides whether the pair counts 4."""


def matching_cases(device: str) -> Iterator[Case]:
    cuda = device == "cuda"
    batch, count = (16, 250_000) if cuda else (2, 100_000)
    anchors, truth = boxes(count, 1000, 300, device)[None], boxes(100, 800, 300, device, batch)
    valid = torch.ones(truth.shape[:2], dtype=torch.bool, device=device)
    for low_quality, name in ((True, ""), (False, ", no low quality")):
        yield Case(
            f"match_anchors, {count} anchors x 100 boxes, {batch} images{name}",
            lambda own=low_quality: ops.match_anchors(anchors, truth, valid, (0.3, 0.7), own),
            lambda own=low_quality: match_anchors_reference(anchors, truth, valid, (0.3, 0.7), own),
            1.0 if cuda else 20.0,
            moved=size_of(anchors, truth) + batch * count * 9,
            flops=OPERATIONS_PER_PAIR * batch * count * 100,
        )
    ids, candidates = torch.arange(batch, device=device), torch.arange(count, device=device)
    yield Case(
        f"keyed_uniform, {batch} x {count}",
        lambda: ops.keyed_uniform(1, 2, ids, 3, candidates),
        lambda: keyed_uniform_reference(1, 2, ids, 3, candidates),
        0.1 if cuda else 20.0,
        moved=size_of(candidates) + batch * count * 4,
    )
    own_candidates = candidates.repeat(batch, 1)
    yield Case(
        f"keyed_uniform, {batch} x {count}, candidates of each image",
        lambda: ops.keyed_uniform(1, 2, ids, 3, own_candidates),
        lambda: keyed_uniform_reference(1, 2, ids, 3, own_candidates),
        0.1 if cuda else 20.0,
        moved=size_of(own_candidates) + batch * count * 4,
    )
