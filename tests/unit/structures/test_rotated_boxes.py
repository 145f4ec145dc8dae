"""Rotated boxes against numbers worked out by hand, their upright twins, and formulas written plainly."""

import math

import pytest
import torch
from torch import Tensor

from detcore.structures import boxes, rotated_boxes
from detcore.structures.rotated_boxes import RotatedBoxCoder, corners, upright_around, wrapped


def random_boxes(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    parts = torch.rand(count, 5, generator=generator, dtype=torch.float64)
    low, span = torch.tensor([0.0, 0, 2, 2, -180]).double(), torch.tensor([90.0, 90, 40, 40, 360]).double()
    return low + parts * span


def test_a_positive_angle_turns_counter_clockwise_as_one_sees_it() -> None:
    # y points down, so the right end of a flat box goes up: to a smaller y.
    box = torch.tensor([10.0, 20.0, 8.0, 2.0, 90.0])
    expected = torch.tensor([[9.0, 24.0], [9.0, 16.0], [11.0, 16.0], [11.0, 24.0]])
    torch.testing.assert_close(corners(box), expected)


def test_corners_at_angle_0_run_from_the_top_left_clockwise() -> None:
    expected = [[6.0, 19.0], [14.0, 19.0], [14.0, 21.0], [6.0, 21.0]]
    assert corners(torch.tensor([10.0, 20.0, 8.0, 2.0, 0.0])).tolist() == expected


def test_the_upright_box_holds_the_corners_and_touches_them() -> None:
    rotated = random_boxes(50)
    points = corners(rotated)
    torch.testing.assert_close(upright_around(rotated), torch.cat((points.amin(dim=1), points.amax(dim=1)), dim=1))


@pytest.mark.parametrize(("angle", "expected"), [(180.0, -180.0), (-180.0, -180.0), (190.0, -170.0), (-541.0, 179.0)])
def test_angles_wrap(angle: float, expected: float) -> None:
    assert wrapped(torch.tensor(angle)).item() == expected


def test_area_counts_negative_sides_as_empty() -> None:
    rotated = torch.tensor([[5.0, 5, 4, 3, 30], [5, 5, -4, 3, 30]])
    assert rotated_boxes.area(rotated).tolist() == [12.0, 0.0]


def test_a_box_that_is_nearly_upright_is_clipped_as_upright() -> None:
    rotated = torch.tensor([[[2.0, 5, 10, 4, 0.9]], [[18.0, 9, 6, 8, -1]]])
    sizes = torch.tensor([[10, 20], [12, 20]])  # height, width
    # x from -3..7 to 0..7; x from 15..21 to 15..20, y from 5..13 to 5..12.
    expected = torch.tensor([[[3.5, 5, 7, 4, 0.9]], [[17.5, 8.5, 5, 7, -1]]])
    torch.testing.assert_close(rotated_boxes.clip(rotated, sizes), expected)


def test_other_boxes_are_not_clipped_but_their_angles_wrap() -> None:
    rotated = torch.tensor([[[2.0, 5, 10, 4, 1.1], [2, 5, 10, 4, 361.5]]])
    expected = torch.tensor([[[2.0, 5, 10, 4, 1.1], [2, 5, 10, 4, 1.5]]])
    torch.testing.assert_close(rotated_boxes.clip(rotated, torch.tensor([[10, 20]])), expected)


def test_larger_than_needs_both_sides() -> None:
    rotated = torch.tensor([[0.0, 0, 2, 2, 45], [0, 0, 2, 1, 45]])
    assert rotated_boxes.larger_than(rotated, 1.0).tolist() == [True, False]


def test_encode() -> None:
    anchor = torch.tensor([20.0, 25, 20, 10, 170])
    box = torch.tensor([40.0, 30, 40, 20, -175])  # 15 degrees on, across the border of the angles
    expected = torch.tensor([10 * 1.0, 10 * 0.5, 5 * math.log(2), 5 * math.log(2), 2 * math.radians(15)])
    coder = RotatedBoxCoder(weights=(10.0, 10.0, 5.0, 5.0, 2.0))
    torch.testing.assert_close(coder.encode(anchor, box), expected)


def test_decode_undoes_encode() -> None:
    anchors, targets = random_boxes(100, 1), random_boxes(100, 2)
    coder = RotatedBoxCoder(weights=(10.0, 10.0, 5.0, 5.0, 1.5))
    torch.testing.assert_close(coder.decode(anchors, coder.encode(anchors, targets)), targets, atol=1e-9, rtol=0)


def test_at_angle_0_the_coder_is_the_upright_one() -> None:
    generator = torch.Generator().manual_seed(0)
    low = torch.rand(2, 20, 2, generator=generator).double() * 50
    upright = torch.cat((low, low + 5 + torch.rand(2, 20, 2, generator=generator).double() * 50), dim=-1)
    centre, size = (upright[..., :2] + upright[..., 2:]) / 2, upright[..., 2:] - upright[..., :2]
    rotated = torch.cat((centre, size, torch.zeros_like(size[..., :1])), dim=-1)
    expected = boxes.BoxCoder(weights=(10.0, 10.0, 5.0, 5.0)).encode(*upright)
    found = RotatedBoxCoder(weights=(10.0, 10.0, 5.0, 5.0, 1.0)).encode(*rotated)
    torch.testing.assert_close(found[..., :4], expected)
    assert not found[..., 4].any()


def test_decode_limits_growth_and_padding_encodes_to_finite_numbers() -> None:
    coder = RotatedBoxCoder()
    grown = coder.decode(torch.tensor([0.0, 0, 16, 16, 0]), torch.tensor([0.0, 0, 1e4, 1e4, 0]))
    torch.testing.assert_close(grown, torch.tensor([0.0, 0, 1000, 1000, 0]))  # 16 pixels grow to 1000
    assert coder.encode(torch.zeros(5), torch.zeros(5)).tolist() == [0.0] * 5


def test_half_precision_offsets_decode_in_float32() -> None:
    assert RotatedBoxCoder().decode(torch.ones(1, 5), torch.zeros(1, 5, dtype=torch.bfloat16)).dtype == torch.float32
