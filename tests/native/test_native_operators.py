"""Expected values: the references in detcore/ops, and for what is undefined, their documented results."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from detcore import ops
from detcore.ops.losses import sigmoid_focal_loss_reference
from detcore.ops.masks import paste_masks_reference, polygon_roi_masks_reference
from detcore.ops.matching import match_anchors_reference
from detcore.ops.nms import nms_padded_reference
from detcore.ops.random import keyed_uniform_reference
from detcore.ops.rotated import box_iou_rotated_reference, nms_rotated_padded_reference
from detcore.ops.warp import warp_normalize_reference
from detcore.structures.batch import Polygons

GENERATOR = torch.Generator().manual_seed(3)
INF, NAN = torch.inf, torch.nan


def uniform(*shape: int) -> Tensor:
    return torch.rand(shape, generator=GENERATOR)


def boxes(batch: int, count: int) -> Tensor:
    low = uniform(batch, count, 2) * 90
    out = torch.cat((low, low + uniform(batch, count, 2) * 60), dim=2)
    for row, column, value in ((1, 0, NAN), (2, 2, INF), (3, 1, -INF), (4, 3, NAN)):
        out[:, row, column] = value
    return out


def outlines() -> Polygons:
    vertices = uniform(2, 200, 2) * 140 - 20
    vertices[0, 7] = NAN
    starts = torch.arange(0, 200, 10).repeat(2, 1)
    counts = torch.randint(0, 11, (2, 20), generator=GENERATOR)
    return Polygons(vertices, starts, counts, torch.randint(0, 6, (2, 20), generator=GENERATOR))


BOXES, SCORES = boxes(2, 90), torch.randint(0, 20, (2, 90), generator=GENERATOR) / 20
GROUPS, VALID = torch.randint(-3, 3, (2, 90), generator=GENERATOR), uniform(2, 90) < 0.8
ANCHORS, TRUTH = boxes(1, 5000), boxes(2, 9)
POLYGONS, OBJECTS = outlines(), torch.randint(-1, 7, (2, 90), generator=GENERATOR)
IMAGES = [(uniform(h, w, 3) * 255).to(torch.uint8) for h, w in ((40, 50), (33, 20))]
GEOMETRY = torch.tensor([[[1.3, 0, 2], [0, 0.8, -3], [0, 0, 1]], [[1.1, 0.3, 0], [-0.3, 1.1, 9], [0, 0, 1]]])
COLOUR = torch.eye(3, 4).repeat(2, 1, 1) + uniform(2, 3, 4) * 0.1
CONTENT, MEAN, STD = torch.tensor([[30, 60], [50, 40]]), [100.0, 110, 120], [50.0, 60, 70]
LOGITS, LABELS = (uniform(700) - 0.5) * 60, (uniform(700) < 0.3).float()

ROTATED = torch.cat((uniform(2, 90, 2) * 90, uniform(2, 90, 2) * 60 - 2, uniform(2, 90, 1) * 720 - 360), dim=2)
ROTATED[:, 5] = ROTATED[:, 4]
for place, value in ((0, NAN), (1, INF), (2, INF), (3, NAN), (4, -INF)):
    ROTATED[:, place, place] = value

OPCHECKED: dict[str, tuple[object, ...]] = {
    "nms_padded": (BOXES, SCORES, GROUPS, VALID, 0.5, 20),
    "nms_rotated_padded": (ROTATED, SCORES, GROUPS, VALID, 0.3, 20),
    "box_iou_rotated": (ROTATED[0], ROTATED[1, :70]),
    "match_anchors": (ANCHORS, TRUTH, VALID[:, :9], 0.3, 0.5, True),
    "keyed_uniform": (torch.tensor(7), torch.tensor(8), torch.arange(5), 9, torch.arange(100)),
    "sigmoid_focal_loss": (LOGITS.clone().requires_grad_(), LABELS, 0.25, 2.0),
    "sigmoid_focal_loss_backward": (LOGITS, LOGITS, LABELS, 0.25, 1.5),
    "polygon_roi_masks": (
        POLYGONS.vertices,
        POLYGONS.ring_starts,
        POLYGONS.ring_counts,
        POLYGONS.ring_objects,
        BOXES,
        OBJECTS,
        14,
    ),
    "paste_masks": (uniform(90, 7, 7), BOXES[0], 100, 120, 0.5),
    "warp_normalize": (IMAGES, GEOMETRY, COLOUR, CONTENT, 60, 64, MEAN, STD, torch.float32, False),
}


@pytest.mark.parametrize("name", OPCHECKED)
def test_opcheck(name: str) -> None:
    torch.library.opcheck(getattr(torch.ops.detcore, name), OPCHECKED[name])


def test_opcheck_of_a_length_that_depends_on_the_data() -> None:
    # Dynamo is not asked: it would have to be told to capture such lengths.
    tests = ("test_schema", "test_faketensor", "test_autograd_registration")
    torch.library.opcheck(torch.ops.detcore.nms, (BOXES[0], SCORES[0], GROUPS[0], 0.5), test_utils=tests)


def flat(result: object) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else list(result)  # type: ignore[call-overload, no-any-return]


@pytest.mark.parametrize("name", OPCHECKED)
def test_the_number_of_threads_does_not_change_a_bit(name: str) -> None:
    threads, results = torch.get_num_threads(), []
    arguments = [a.detach() if isinstance(a, Tensor) else a for a in OPCHECKED[name]]
    if name == "warp_normalize":
        arguments[-1] = True
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            results.append(flat(getattr(torch.ops.detcore, name)(*arguments)))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def assert_equal(one: object, other: object) -> None:
    for a, b in zip(flat(one), flat(other), strict=True):
        assert a.dtype == b.dtype and torch.equal(a, b)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("max_keep", [5, 90])
@pytest.mark.parametrize("groups", [None, GROUPS])
def test_nms_padded_equals_the_reference(groups: Tensor | None, max_keep: int, dtype: torch.dtype) -> None:
    own, scores = BOXES.to(dtype), SCORES.to(dtype)
    accurate = torch.promote_types(dtype, torch.float32)
    assert_equal(
        ops.nms_padded(own, scores, groups, 0.4, max_keep, valid=VALID),
        nms_padded_reference(own.to(accurate), scores.to(accurate), groups, 0.4, max_keep, VALID),
    )


def test_nms_forms_agree_and_take_any_layout() -> None:
    everyone = torch.ones(1, 90, dtype=torch.bool)
    keep, count = nms_padded_reference(BOXES[:1], SCORES[:1], GROUPS[:1], 0.4, 90, everyone)
    wide = torch.empty(4, 90).T.copy_(BOXES[0])
    assert_equal(ops.batched_nms(wide, SCORES[0], GROUPS[0], 0.4), keep[0, : int(count)])
    scores = SCORES[0].clone()
    scores[[5, 9]] = torch.tensor([NAN, -INF])
    assert ops.nms(BOXES[0], scores, 0.4)[0] == 5
    assert ops.nms(BOXES[0, :0], scores[:0], 0.4).shape == (0,)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("low_quality", [False, True])
def test_match_anchors_equals_the_reference(low_quality: bool, dtype: torch.dtype) -> None:
    valid = VALID[:, :9].clone()
    for anchors in (ANCHORS.to(dtype), torch.cat((ANCHORS, ANCHORS + 3)).to(dtype), ANCHORS[:, :0].to(dtype)):
        arguments = (anchors, TRUTH.to(dtype), valid, (0.3, 0.5), low_quality)
        assert_equal(ops.match_anchors(*arguments), match_anchors_reference(*arguments))
    valid[1] = False
    arguments = (ANCHORS.to(dtype), TRUTH.to(dtype), valid, (0.0, 0.5), low_quality)
    assert_equal(ops.match_anchors(*arguments), match_anchors_reference(*arguments))


@pytest.mark.parametrize("seed", [0, -1, 2**63 + 5, torch.tensor(-7)])
def test_keyed_uniform_equals_the_reference(seed: int | Tensor) -> None:
    ids, candidates = torch.tensor([-1, 0, 2**40 + 3]), torch.arange(-5, 20001)
    arguments = (seed, torch.tensor(2**33 + 1), ids, 2**32 + 9, candidates)
    assert_equal(ops.keyed_uniform(*arguments), keyed_uniform_reference(*arguments))


@pytest.mark.parametrize("size", [1, 14, 28])
def test_polygon_masks_equal_pycocotools(size: int) -> None:
    drawn = ops.polygon_roi_masks(POLYGONS, BOXES, OBJECTS, size)
    assert_equal(drawn, polygon_roi_masks_reference(POLYGONS, BOXES, OBJECTS, size))
    assert drawn.any() and not drawn.all()


def test_polygon_masks_of_any_outline_equal_pycocotools() -> None:
    rng = np.random.default_rng(0)
    # Corners on the rasteriser's own grid, with long, steep, flat and degenerate edges: what ties look like.
    vertices = torch.from_numpy(rng.integers(-60, 120, (40, 60, 2)).astype(np.float32)) / 5
    vertices[20:] *= torch.tensor([1000.0, 1.0])
    starts = torch.arange(0, 60, 6).repeat(40, 1)
    polygons = Polygons(vertices, starts, torch.full((40, 10), 6), torch.arange(10).repeat(40, 1))
    own = torch.tensor([0.0, 0, 14, 14]).repeat(40, 10, 1)
    objects = torch.arange(10).repeat(40, 1)
    assert_equal(
        ops.polygon_roi_masks(polygons, own, objects, 14), polygon_roi_masks_reference(polygons, own, objects, 14)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_paste_masks_equals_the_reference(dtype: torch.dtype) -> None:
    masks = uniform(90, 28, 28).to(dtype)
    accurate = torch.promote_types(dtype, torch.float32)
    for own in (BOXES[0], BOXES[1] * 3 - 60):
        pasted = ops.paste_masks(masks, own, (97, 131), 0.5)
        want = paste_masks_reference(masks.to(accurate), own.to(accurate), (97, 131), 0.5)
        assert pasted.shape == want.shape and pasted.any()
        assert (pasted != want).sum() <= 1e-5 * want.numel()  # samples within a rounding of the threshold


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 3.5])
@pytest.mark.parametrize("alpha", [-1.0, 0.25])
def test_focal_loss_equals_the_reference(alpha: float, gamma: float) -> None:
    ours, theirs = LOGITS.clone().requires_grad_(), LOGITS.double().requires_grad_()
    loss = ops.sigmoid_focal_loss(ours, LABELS, alpha=alpha, gamma=gamma)
    want = sigmoid_focal_loss_reference(theirs, LABELS.double(), alpha, gamma)
    torch.testing.assert_close(loss.double(), want, rtol=2e-5, atol=1e-6)
    factor = uniform(700)
    loss.backward(factor)
    want.backward(factor.double())
    torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=2e-5, atol=1e-6)  # type: ignore[union-attr]


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_focal_loss_gradcheck(gamma: float) -> None:
    logits = ((uniform(20) - 0.5) * 8).double().requires_grad_()
    targets = uniform(20).double()
    function: Callable[[Tensor], Tensor] = lambda x: ops.sigmoid_focal_loss(x, targets, gamma=gamma)  # noqa: E731
    assert torch.autograd.gradcheck(function, logits)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_warp_equals_the_reference(dtype: torch.dtype) -> None:
    keywords = {"content_sizes": CONTENT, "mean": MEAN, "std": STD, "dtype": dtype}
    strided = [image.flip(1).flip(1)[:, ::1] for image in IMAGES]
    ours = ops.warp_normalize(strided, GEOMETRY, COLOUR, (60, 64), **keywords)  # type: ignore[arg-type]
    theirs = warp_normalize_reference(IMAGES, GEOMETRY, COLOUR, (60, 64), CONTENT, MEAN, STD, dtype)
    assert ours.shape == theirs.shape and ours.stride() == theirs.stride()
    grey = (ours.float() - theirs.float()).abs() * 50
    tolerance = 0 if dtype == torch.float32 else 1
    assert grey[0].max() <= 1.3 + tolerance and grey[0].mean() <= 0.05
    # White noise, where a 128th of a pixel may be two grey levels. Samples on the very border fall to either side.
    assert (grey[1] > 4).float().mean() <= 2e-3 and grey[1].mean() <= 0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_rotated_boxes_equal_the_reference(dtype: torch.dtype) -> None:
    own = ROTATED.to(dtype)
    overlap = ops.box_iou_rotated(own[0], own[1])
    torch.testing.assert_close(overlap, box_iou_rotated_reference(own[0], own[1]), rtol=1e-6, atol=1e-12)
    assert (overlap > 0).any() and ops.box_iou_rotated(own[0, :0], own[1]).shape == (0, 90)
    for groups, max_keep in ((None, 90), (GROUPS, 90), (GROUPS, 5)):
        assert_equal(
            ops.nms_rotated_padded(own, SCORES, groups, 0.3, max_keep, valid=VALID),
            nms_rotated_padded_reference(own, SCORES, groups, 0.3, max_keep, VALID),
        )


def test_polygon_masks_wider_than_a_word_equal_pycocotools() -> None:
    for size in (64, 65, 130):
        drawn = ops.polygon_roi_masks(POLYGONS, BOXES[:, :20], OBJECTS[:, :20], size)
        assert_equal(drawn, polygon_roi_masks_reference(POLYGONS, BOXES[:, :20], OBJECTS[:, :20], size))
