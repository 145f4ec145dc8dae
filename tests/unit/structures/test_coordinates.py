import math

import pytest
import torch

from detcore.structures.batch import Batch
from detcore.structures.coordinates import boxes_to_original, points_to_original, rotated_to_original


def batch_of(geometry: list[list[float]], size: tuple[int, int], real: bool = True) -> Batch:
    return Batch(
        images=torch.zeros(1, 3, 32, 32),
        image_sizes=torch.tensor([[32, 32]]),
        sample_ids=torch.tensor([0 if real else -1]),
        real=torch.tensor([real]),
        original_sizes=torch.tensor([size]),
        geometry=torch.tensor([geometry]),
        rng_key=torch.zeros(2, dtype=torch.int64),
    )


def test_scale_and_shift_are_undone_and_the_image_clips() -> None:
    batch = batch_of([[2.0, 0.0, 5.0], [0.0, 4.0, -8.0], [0.0, 0.0, 1.0]], (12, 10))
    boxes = torch.tensor([[[7.0, 0.0, 15.0, 12.0], [-9.0, -9.0, 99.0, 99.0], [40.0, 0.0, 50.0, 4.0]]])
    expected = [[[1, 2, 5, 5], [0, 0, 10, 12], [10, 2, 10, 3]]]  # by hand: (x - 5) / 2, (y + 8) / 4
    found = boxes_to_original(boxes, batch)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_a_rotated_box_becomes_the_envelope_of_its_corners() -> None:
    half = math.sqrt(0.5)  # a turn by 45 degrees about (10, 10)
    geometry = [[half, -half, 10.0], [half, half, 10.0 - 20 * half], [0.0, 0.0, 1.0]]
    found = boxes_to_original(torch.tensor([[[9.0, 9.0, 11.0, 11.0]]]), batch_of(geometry, (40, 40)))
    # A square of side 2 on its corner is 2 sqrt 2 wide and high.
    width, height = (found[0, 0, 2:] - found[0, 0, :2]).tolist()
    assert (width, height) == pytest.approx((2 * math.sqrt(2), 2 * math.sqrt(2)), abs=1e-5)
    assert ((found[0, 0, :2] + found[0, 0, 2:]) / 2).tolist() == pytest.approx([10, 10], abs=1e-5)


def test_points_are_not_clipped() -> None:
    batch = batch_of([[2.0, 0.0, 5.0], [0.0, 4.0, -8.0], [0.0, 0.0, 1.0]], (12, 10))
    found = points_to_original(torch.tensor([[[7.0, 0.0], [-5.0, 92.0]]]), batch)
    torch.testing.assert_close(found, torch.tensor([[[1.0, 2.0], [-5.0, 25.0]]], dtype=torch.float64))


def corners(box: list[float]) -> torch.Tensor:
    """Of a rotated box, from the definition: the width along (cos, -sin), the height along (sin, cos)."""
    x, y, width, height, angle = box
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    signs = [(-1, -1), (1, -1), (1, 1), (-1, 1)]
    return torch.tensor(
        [
            [x + (a * width * cos + b * height * sin) / 2, y + (-a * width * sin + b * height * cos) / 2]
            for a, b in signs
        ],
        dtype=torch.float64,
    )


@pytest.mark.parametrize(
    ("linear", "mirrored"),
    [([[2.0, 0.0], [0.0, 2.0]], False), ([[-0.5, 0.0], [0.0, 0.5]], True), ([[0.6, -0.8], [0.8, 0.6]], False)],
    ids=["scaled", "mirrored", "turned"],
)
@pytest.mark.parametrize("angle", [0.0, 30.0, -70.0, 90.0, 160.0])
def test_a_rotated_box_comes_back_exactly(linear: list[list[float]], mirrored: bool, angle: float) -> None:
    (a, b), (c, d) = linear
    geometry = torch.tensor([[a, b, 11.0], [c, d, -7.0], [0, 0, 1]], dtype=torch.float64)
    box = [20.0, 12.0, 9.0, 4.0, angle]
    found = rotated_to_original(torch.tensor([[box]]), batch_of(geometry.tolist(), (50, 50)))[0, 0].tolist()
    forward = corners(found) @ geometry[:2, :2].T + geometry[:2, 2]
    order = [1, 0, 3, 2] if mirrored else [0, 1, 2, 3]  # in a mirror left and right change places
    torch.testing.assert_close(forward[order], corners(box), atol=1e-4, rtol=0)


def test_under_unequal_scales_the_nearest_box_is_found() -> None:
    geometry = [[2.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    box = [20.0, 12.0, 9.0, 4.0, 33.0]
    found = rotated_to_original(torch.tensor([[box]]), batch_of(geometry, (50, 50)))[0, 0].tolist()
    wanted = corners(box) / torch.tensor([2.0, 1.0])

    def error(candidate: list[float]) -> float:
        return float((corners(candidate) - wanted).square().sum())

    for place in range(5):
        for step in (-0.01, 0.01):
            moved = list(found)
            moved[place] += step
            assert error(moved) > error(found)
    # Upright boxes stay upright, whatever the scales.
    found = rotated_to_original(torch.tensor([[[20.0, 12.0, 9.0, 4.0, 0.0]]]), batch_of(geometry, (50, 50)))
    assert found[0, 0].tolist() == pytest.approx([10, 12, 4.5, 4, 0])


def test_an_empty_row_with_no_geometry_is_harmless() -> None:
    found = boxes_to_original(torch.ones(1, 2, 4), batch_of([[0.0] * 3] * 3, (0, 0), real=False))
    assert torch.isfinite(found).all()
