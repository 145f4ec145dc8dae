import math

import pytest
import torch

from detcore.structures.batch import Batch
from detcore.structures.coordinates import boxes_to_original


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


def test_an_empty_row_with_no_geometry_is_harmless() -> None:
    found = boxes_to_original(torch.ones(1, 2, 4), batch_of([[0.0] * 3] * 3, (0, 0), real=False))
    assert torch.isfinite(found).all()
