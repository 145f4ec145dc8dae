"""Expected values: pycocotools' rasteriser ring by ring; grid_sample on the whole image; masks drawn by hand."""

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from torch import Tensor

from detcore.ops import paste_masks, polygon_roi_masks
from detcore.structures.batch import Polygons


def polygons_of(images: list[list[list[np.ndarray]]]) -> Polygons:
    """images -> objects -> rings (k, 2), padded."""
    num_vertices = max([sum(len(r) for o in image for r in o) for image in images], default=0) + 3
    num_rings = max([sum(len(o) for o in image) for image in images], default=0) + 2
    vertices = np.zeros((len(images), num_vertices, 2), np.float32)
    starts, counts, owners = (np.zeros((len(images), num_rings), np.int64) for _ in range(3))
    for b, image in enumerate(images):
        place = 0
        rings = [(index, ring) for index, own in enumerate(image) for ring in own]
        for r, (index, ring) in enumerate(rings):
            vertices[b, place : place + len(ring)] = ring
            starts[b, r], counts[b, r], owners[b, r] = place, len(ring), index
            place += len(ring)
    return Polygons(*(torch.from_numpy(a) for a in (vertices, starts, counts, owners)))


def expected(rings: list[np.ndarray], box: np.ndarray, size: int) -> np.ndarray:
    x1, y1, x2, y2 = box.astype(np.float64)
    scale = np.array([size / max(x2 - x1, 0.1), size / max(y2 - y1, 0.1)])
    scaled = [((ring.astype(np.float64) - [x1, y1]) * scale).reshape(-1) for ring in rings]
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(scaled, size, size))).astype(bool)


def star(rng: np.random.Generator, centre: np.ndarray, radius: float) -> np.ndarray:
    angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 30)))
    reach = rng.uniform(0.3, 1, len(angles)) * radius
    return (centre + np.stack((np.cos(angles), np.sin(angles)), 1) * reach[:, None]).astype(np.float32)


@pytest.mark.parametrize("size", [28, 14, 1])
def test_equals_pycocotools_bit_for_bit(size: int) -> None:
    rng = np.random.default_rng(size)
    images = [
        [[star(rng, rng.uniform(0, 99, 2), 30) for _ in range(rng.integers(1, 4))] for _ in range(n)] for n in (6, 3)
    ]
    low = rng.uniform(-10, 90, (2, 40, 2))
    boxes = np.concatenate((low, low + rng.uniform(0.05, 60, (2, 40, 2))), axis=2).astype(np.float32)
    objects = rng.integers(0, 3, (2, 40))
    masks = polygon_roi_masks(polygons_of(images), torch.from_numpy(boxes), torch.from_numpy(objects), size)
    assert (masks.dtype, masks.shape) == (torch.bool, (2, 40, size, size))
    for image in range(2):
        for row in range(40):
            want = expected(images[image][objects[image, row]], boxes[image, row], size)
            np.testing.assert_array_equal(masks[image, row].numpy(), want)
    assert masks.any() and not masks.all()


def test_what_has_no_outline_is_empty() -> None:
    square = np.array([[0, 0], [10, 0], [10, 10], [0, 10]], np.float32)
    broken, line = square.copy(), square[:2]
    broken[0, 0] = np.nan
    polygons = polygons_of([[[square], [broken], [line], [], [broken, square]]])
    whole = [0.0, 0, 10, 10]
    rows = [(whole, 0), (whole, 1), (whole, 2), (whole, 3), (whole, 4), (whole, -1), (whole, 7)]
    rows += [([0, 0, 0, 10], 0), ([5, 5, 2, 2], 0), ([torch.nan, 0, 10, 10], 0), ([0, 0, torch.inf, 10], 0)]
    boxes = torch.tensor([[box for box, _ in rows]])
    objects = torch.tensor([[index for _, index in rows]])
    filled = polygon_roi_masks(polygons, boxes, objects, 4)[0].flatten(1)
    assert filled.all(1).tolist() == [True, False, False, False, True] + [False] * 6
    assert filled.any(1).tolist() == filled.all(1).tolist()


def test_a_vertex_far_away_is_survived() -> None:
    ring = np.array([[-1e30, 0], [1e30, 0], [0, 1e30]], np.float32)
    assert polygon_roi_masks(
        polygons_of([[[ring]]]), torch.tensor([[[0.0, 0, 4, 4]]]), torch.zeros(1, 1).long(), 4
    ).any()


def test_polygon_masks_of_nothing() -> None:
    empty = polygons_of([[], []])
    boxes = torch.rand(2, 3, 4)
    assert not polygon_roi_masks(empty, boxes, torch.zeros(2, 3).long(), 4).any()
    assert polygon_roi_masks(empty, boxes[:, :0], torch.zeros(2, 0).long(), 4).shape == (2, 0, 4, 4)
    none = polygons_of([])
    assert polygon_roi_masks(none, boxes[:0], torch.zeros(0, 3).long(), 4).shape == (0, 3, 4, 4)


def whole_image_paste(masks: Tensor, boxes: Tensor, height: int, width: int, threshold: float) -> Tensor:
    x1, y1, x2, y2 = boxes[:, :, None].unbind(1)
    x = (torch.arange(width) + 0.5 - x1) / (x2 - x1) * 2 - 1
    y = (torch.arange(height) + 0.5 - y1) / (y2 - y1) * 2 - 1
    grid = torch.stack((x[:, None].expand(-1, height, -1), y[:, :, None].expand(-1, -1, width)), -1)
    return torch.nn.functional.grid_sample(masks[:, None], grid, align_corners=False)[:, 0] >= threshold


def test_paste_equals_sampling_the_whole_image() -> None:
    generator = torch.Generator().manual_seed(0)
    low = torch.rand((20, 2), generator=generator) * 60 - 20
    boxes = torch.cat((low, low + torch.rand((20, 2), generator=generator) * 60 + 0.3), 1)
    masks = torch.rand((20, 7, 7), generator=generator)
    for threshold in (0.5, 0.05):
        pasted = paste_masks(masks, boxes, (37, 41), threshold)
        torch.testing.assert_close(pasted, whole_image_paste(masks, boxes, 37, 41, threshold))
        assert pasted.any()


def test_paste_of_a_full_mask_fills_its_box() -> None:
    # At the box's edge the sample lies half a mask pixel inside: 0.5 + 0.5 * (distance / mask pixel) of the value 1.
    pasted = paste_masks(torch.ones(1, 28, 28), torch.tensor([[2.0, 3, 6, 5]]), (8, 9), 0.5)
    want = torch.zeros(8, 9, dtype=torch.bool)
    want[3:5, 2:6] = True
    torch.testing.assert_close(pasted[0], want)


def test_paste_of_undefined_boxes_is_empty() -> None:
    boxes = torch.tensor([[torch.nan, 0, 5, 5], [0, 0, torch.inf, 5], [3, 3, 3, 5], [4, 4, 2, 2], [1e30, 0, 2e30, 5]])
    assert not paste_masks(torch.ones(5, 4, 4), boxes, (8, 8), 0.5).any()
    assert paste_masks(torch.ones(0, 4, 4), boxes[:0], (8, 8), 0.5).shape == (0, 8, 8)
    assert paste_masks(torch.ones(1, 4, 4).half(), torch.tensor([[0.0, 0, 8, 8]]), (8, 8), 0.5).all()
    with pytest.raises(ValueError, match="threshold"):
        paste_masks(torch.ones(1, 4, 4), boxes[:1], (8, 8), 0.0)
