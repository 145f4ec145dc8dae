"""Expected values: pycocotools' rasteriser and run lengths, grid_sample, and for CUDA what the CPU gives."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from torch import Tensor

from detcore import ops
from detcore.ops import native
from detcore.ops.mask_rle import paste_masks_rle_reference
from detcore.ops.masks import paste_masks_reference, polygon_roi_masks_reference
from detcore.structures.batch import Polygons

GENERATOR = torch.Generator().manual_seed(3)
NAN, INF = torch.nan, torch.inf


def uniform(*shape: int) -> Tensor:
    return torch.rand(shape, generator=GENERATOR)


def boxes(batch: int, count: int) -> Tensor:
    low = uniform(batch, count, 2) * 110 - 20
    out = torch.cat((low, low + uniform(batch, count, 2) * 60), dim=2)
    for row, column, value in ((1, 0, NAN), (2, 2, INF), (3, 1, -INF), (4, 3, NAN)):
        out[:, row, column] = value
    out[:, 5, 2:] = out[:, 5, :2]
    return out


def outlines() -> Polygons:
    vertices = uniform(2, 200, 2) * 140 - 20
    vertices[0, 7] = NAN
    starts = torch.arange(0, 200, 10).repeat(2, 1)
    counts = torch.randint(0, 11, (2, 20), generator=GENERATOR)
    starts[0, 3], counts[0, 4] = -1, 2**40  # outside the vertices: not drawn
    return Polygons(vertices, starts, counts, torch.randint(0, 6, (2, 20), generator=GENERATOR))


BOXES, POLYGONS = boxes(2, 90), outlines()
OBJECTS = torch.randint(-1, 7, (2, 90), generator=GENERATOR)
MASKS = uniform(90, 28, 28)


def drawable(polygons: Polygons) -> Polygons:
    """What the reference, which trusts the rings' places, can take."""
    inside = (polygons.ring_starts >= 0) & (polygons.ring_starts + polygons.ring_counts <= 200)
    zero = torch.zeros_like(polygons.ring_counts)
    starts, counts = (torch.where(inside, t, zero) for t in (polygons.ring_starts, polygons.ring_counts))
    return Polygons(polygons.vertices, starts, counts, polygons.ring_objects)


def draw(polygons: Polygons, own: Tensor, objects: Tensor, size: int, device: str) -> Tensor:
    return ops.polygon_roi_masks(polygons.to(device), own.to(device), objects.to(device), size).cpu()


@pytest.mark.parametrize("size", [1, 14, 28, 33, 64, 65, 130, 500])
def test_polygon_masks_equal_pycocotools(size: int, device: str) -> None:
    count = 90 if size < 64 else 20  # of 500 pixels a side they do not fit into shared memory
    own, objects = BOXES[:, :count], OBJECTS[:, :count]
    drawn = draw(POLYGONS, own, objects, size, device)
    torch.testing.assert_close(drawn, polygon_roi_masks_reference(drawable(POLYGONS), own, objects, size))
    assert drawn.any() and not drawn.all()


def test_polygon_masks_of_outlines_on_the_rasterisers_grid(device: str) -> None:
    rng = np.random.default_rng(0)
    # Corners on the rasteriser's own grid, with long, steep, flat and degenerate edges: what ties look like.
    vertices = torch.from_numpy(rng.integers(-60, 120, (40, 60, 2)).astype(np.float32)) / 5
    vertices[20:] *= torch.tensor([1000.0, 1.0])
    starts, objects = torch.arange(0, 60, 6).repeat(40, 1), torch.arange(10).repeat(40, 1)
    polygons = Polygons(vertices, starts, torch.full((40, 10), 6), objects)
    own = torch.tensor([0.0, 0, 14, 14]).repeat(40, 10, 1)
    want = polygon_roi_masks_reference(polygons, own, objects, 14)
    torch.testing.assert_close(draw(polygons, own, objects, 14, device), want)


coordinate = st.one_of(st.integers(-40, 90).map(lambda x: x / 5), st.floats(-1e4, 1e4, width=32))


@settings(deadline=None, max_examples=150)
@given(st.lists(st.tuples(coordinate, coordinate), min_size=3, max_size=9), st.integers(1, 40))
def test_polygon_masks_of_any_ring_equal_pycocotools(points: list[tuple[float, float]], size: int) -> None:
    one = torch.ones(1, 1, dtype=torch.int64)
    polygons = Polygons(torch.tensor([points]), one * 0, one * len(points), one * 0)
    own = torch.tensor([[[0.0, 1, 14, 9]]])
    want = polygon_roi_masks_reference(polygons, own, one * 0, size)
    for device in ("cpu", "cuda") if torch.cuda.is_available() and native.serves("cuda") else ("cpu",):
        torch.testing.assert_close(draw(polygons, own, one * 0, size, device), want)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_polygon_masks_of_other_types_and_strides(dtype: torch.dtype, device: str) -> None:
    starts, counts, owners = POLYGONS.ring_starts, POLYGONS.ring_counts, POLYGONS.ring_objects
    polygons = Polygons(POLYGONS.vertices.to(dtype), starts, counts, owners)
    own = BOXES.to(dtype).transpose(0, 1).contiguous().transpose(0, 1)
    want = polygon_roi_masks_reference(drawable(polygons), own, OBJECTS, 14)
    torch.testing.assert_close(draw(polygons, own, OBJECTS, 14, device), want)


def test_polygon_masks_of_many_rings(device: str) -> None:
    # More rings than the threads that look for a box's own, and several of one object.
    vertices = uniform(1, 900, 2) * 60
    starts = torch.arange(0, 900, 3)[None]
    polygons = Polygons(vertices, starts, torch.full_like(starts, 3), (torch.arange(300) % 7)[None])
    own, objects = torch.tensor([[[0.0, 0, 60, 60]]]).repeat(1, 7, 1), torch.arange(7)[None]
    want = polygon_roi_masks_reference(polygons, own, objects, 28)
    torch.testing.assert_close(draw(polygons, own, objects, 28, device), want)


@pytest.mark.parametrize(("batch", "count", "rings", "size"), [(0, 3, 2, 7), (2, 0, 2, 7), (2, 3, 0, 7), (1, 3, 2, 0)])
def test_polygon_masks_of_nothing(batch: int, count: int, rings: int, size: int, device: str) -> None:
    index = torch.zeros(batch, rings, dtype=torch.int64)
    polygons = Polygons(torch.zeros(batch, 4, 2), index, index, index)
    drawn = draw(polygons, torch.rand(batch, count, 4), torch.zeros(batch, count, dtype=torch.int64), size, device)
    assert drawn.shape == (batch, count, size, size) and not drawn.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("image_size", [(97, 131), (64, 160), (3, 5), (200, 1)])
def test_paste_masks_equals_the_reference(dtype: torch.dtype, image_size: tuple[int, int], device: str) -> None:
    masks, accurate = MASKS.to(dtype), torch.promote_types(dtype, torch.float32)
    for own in (BOXES[0], BOXES[1] * 3 - 60):
        pasted = ops.paste_masks(masks.to(device), own.to(device), image_size, 0.5).cpu()
        want = paste_masks_reference(masks.to(accurate), own.to(accurate), image_size, 0.5)
        assert pasted.shape == want.shape and pasted.any()
        assert (pasted != want).sum() <= 1e-5 * want.numel()  # samples within a rounding of the threshold
        torch.testing.assert_close(pasted, ops.paste_masks(masks, own, image_size, 0.5))  # both devices, bit for bit


def test_paste_masks_of_strided_and_strange_inputs(device: str) -> None:
    masks = uniform(7, 14, 14)
    masks[3], masks[4, 5, 5] = NAN, INF
    own = torch.tensor(
        [
            [1e30, 0, 2e30, 9],
            [-1e38, -1e38, 3e38, 3e38],
            [0, 0, 1e-40, 1e-40],
            [2, 2, 9, 9],
            [0, 0, 20, 20],
            [-50, -50, -9, -9],
            [3, 3, 30, 30],
        ]
    )
    turned = masks.transpose(1, 2)
    want = ops.paste_masks(turned.contiguous(), own, (21, 35), 0.5)
    assert not want[[0, 3, 5]].any() and want[6].any()
    pasted = ops.paste_masks(turned.to(device), own.to(device), (21, 35), 0.5)
    torch.testing.assert_close(pasted.cpu(), want)


@pytest.mark.parametrize("image_size", [(3, 70_001), (40, 2_051), (2_101, 3), (33, 32)])
def test_paste_masks_on_long_images(image_size: tuple[int, int], device: str) -> None:
    # Rows longer than what is pasted at once, and masks that do not begin at multiples of 16 bytes.
    scale = torch.tensor([*image_size[::-1], *image_size[::-1]]) / 100
    masks, own = MASKS[:12], BOXES[0, :12] * scale
    own[-1] = torch.tensor([0.0, 0, *image_size[::-1]])
    pasted = ops.paste_masks(masks.to(device), own.to(device), image_size, 0.5).cpu()
    want = paste_masks_reference(masks, own, image_size, 0.5)
    assert pasted.any() and (pasted != want).sum() <= 1e-5 * want.numel()
    torch.testing.assert_close(pasted, ops.paste_masks(masks, own, image_size, 0.5))


def test_paste_masks_of_nothing(device: str) -> None:
    for count, height, width in ((0, 4, 5), (3, 0, 5), (3, 4, 0)):
        pasted = ops.paste_masks(MASKS[:count].to(device), BOXES[0, :count].to(device), (height, width), 0.5)
        assert pasted.shape == (count, height, width)


@pytest.mark.gpu
def test_paste_masks_beyond_32_bits() -> None:
    if not (torch.cuda.is_available() and native.serves("cuda")):
        pytest.skip("needs a CUDA device and its native operators")
    side = 46_400  # its square is above 2^31
    own = torch.tensor([[side - 10.0, side - 10, side, side]], device="cuda").repeat(2, 1)
    pasted = ops.paste_masks(torch.ones(2, 28, 28, device="cuda"), own, (side, side), 0.5)
    assert pasted[:, -10:, -10:].all() and pasted.view(2, -1).count_nonzero(1).tolist() == [100, 100]


@pytest.mark.parametrize("image_size", [(64, 50), (97, 131), (128, 3), (1, 1), (1, 70), (190, 40)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_run_lengths_equal_pycocotools(
    image_size: tuple[int, int], dtype: torch.dtype, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if native.host() is None:
        pytest.skip("the host module is not built")
    scale = torch.tensor([*image_size[::-1], *image_size[::-1]]) / 100
    own, masks = BOXES[0] * scale, MASKS.to(dtype)
    own[6], own[7] = torch.tensor([-500.0, -500, 900, 900]), torch.tensor([0.0, 0, 1, 1])
    masks[6] = 1  # all of the image
    rles = ops.paste_masks_rle(masks.to(device), own.to(device), image_size, 0.5)
    pasted = ops.paste_masks(masks, own, image_size, 0.5).numpy()
    assert pasted[6].all() and not pasted[1].any()
    for rle, mask in zip(rles, pasted, strict=True):
        want = coco_mask.encode(np.asfortranarray(mask.view(np.uint8)))
        assert rle == {"size": list(image_size), "counts": want["counts"]}
    assert rles == ops.paste_masks_rle(masks.to(device), own, image_size, 0.5)  # boxes on the host
    monkeypatch.setattr("detcore.ops.mask_rle._PASTED_PIXELS", 3 * image_size[0] * image_size[1])
    assert rles == paste_masks_rle_reference(masks, own, image_size, 0.5)  # three at a time
    assert ops.paste_masks_rle(masks[:0].to(device), own[:0], image_size, 0.5) == []


def test_run_lengths_refuse_a_threshold_of_zero() -> None:
    with pytest.raises(ValueError, match="threshold"):
        ops.paste_masks_rle(MASKS, BOXES[0], (8, 8), 0.0)


CALLS: dict[str, tuple[Callable[..., Tensor], tuple[object, ...]]] = {
    "polygon_roi_masks": (
        torch.ops.detcore.polygon_roi_masks,
        (POLYGONS.vertices, POLYGONS.ring_starts, POLYGONS.ring_counts, POLYGONS.ring_objects, BOXES, OBJECTS, 14),
    ),
    "paste_masks": (torch.ops.detcore.paste_masks, (MASKS, BOXES[0], 97, 131, 0.5)),
    "pack_masks": (
        torch.ops.detcore.pack_masks,
        (MASKS[:2], BOXES[0, 7:9], torch.tensor([[3, 2, 8, 90], [0, 0, 4, 64]]), torch.tensor([0, 10]), 14, 0.5),
    ),
}


def on(device: str, arguments: tuple[object, ...]) -> list[object]:
    return [a.to(device) if isinstance(a, Tensor) else a for a in arguments]


@pytest.mark.parametrize("name", CALLS)
def test_opcheck(name: str, device: str) -> None:
    operator, arguments = CALLS[name]
    torch.library.opcheck(operator, on(device, arguments))


@pytest.mark.gpu
@pytest.mark.parametrize("name", CALLS)
def test_runs_without_waiting_and_in_a_graph(name: str) -> None:
    if not (torch.cuda.is_available() and native.serves("cuda")):
        pytest.skip("needs a CUDA device and its native operators")
    operator, arguments = CALLS[name]
    moved, want = on("cuda", arguments), operator(*arguments)
    operator(*moved)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        got = operator(*moved)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(got.cpu(), want)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = operator(*moved)
    captured.fill_(0)
    graph.replay()
    torch.testing.assert_close(captured.cpu(), want)
