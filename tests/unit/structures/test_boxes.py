"""Box geometry against numbers worked out by hand, and the coder against arXiv:1311.2524, appendix C."""

import math

import pytest
import torch

from detcore.structures.boxes import BoxCoder, area, at_least_float32, clip, iou, larger_than


def test_area_counts_inverted_boxes_as_empty() -> None:
    boxes = torch.tensor([[1.0, 2.0, 4.0, 4.0], [4.0, 2.0, 1.0, 4.0], [3.0, 3.0, 3.0, 9.0]])
    assert area(boxes).tolist() == [6.0, 0.0, 0.0]


def test_iou() -> None:
    square = torch.tensor([[0.0, 0.0, 2.0, 2.0]])
    others = torch.tensor([[0.0, 0.0, 2.0, 2.0], [1.0, 0.0, 3.0, 2.0], [1.0, 1.0, 3.0, 3.0], [2.0, 0.0, 4.0, 2.0]])
    torch.testing.assert_close(iou(square, others), torch.tensor([[1.0, 2 / 6, 1 / 7, 0.0]]))
    nothing = torch.zeros(1, 4)
    assert iou(nothing, nothing).item() == 0.0


def test_clip_uses_each_image_s_own_size() -> None:
    boxes = torch.tensor([[[-5.0, -1.0, 30.0, 40.0]], [[2.0, 3.0, 30.0, 40.0]]])
    sizes = torch.tensor([[10, 20], [25, 6]])  # height, width
    assert clip(boxes, sizes).tolist() == [[[0.0, 0.0, 20.0, 10.0]], [[2.0, 3.0, 6.0, 25.0]]]


def test_larger_than_needs_both_sides() -> None:
    boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 2.0, 1.0], [5.0, 5.0, 5.0, 9.0]])
    assert larger_than(boxes, 1.0).tolist() == [True, False, False]
    assert larger_than(boxes, 0.0).tolist() == [True, True, False]


def test_encode() -> None:
    anchor = torch.tensor([[10.0, 20.0, 30.0, 30.0]])  # centre (20, 25), 20 wide, 10 high
    box = torch.tensor([[20.0, 20.0, 60.0, 40.0]])  # centre (40, 30), 40 wide, 20 high
    expected = torch.tensor([[10 * 20 / 20, 10 * 5 / 10, 5 * math.log(2), 5 * math.log(2)]])
    torch.testing.assert_close(BoxCoder(weights=(10.0, 10.0, 5.0, 5.0)).encode(anchor, box), expected)


def test_decode_undoes_encode() -> None:
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(2, 50, 2, generator=generator, dtype=torch.float64) * 100
    boxes = torch.cat((corner, corner + 1 + torch.rand(2, 50, 2, generator=generator, dtype=torch.float64) * 50), -1)
    coder = BoxCoder(weights=(10.0, 10.0, 5.0, 5.0))
    decoded = coder.decode(boxes[0], coder.encode(boxes[0], boxes[1]))
    torch.testing.assert_close(decoded, boxes[1], atol=1e-10, rtol=0)


def test_decode_limits_growth() -> None:
    box = BoxCoder().decode(torch.tensor([[0.0, 0.0, 16.0, 16.0]]), torch.tensor([[0.0, 0.0, 1e4, 1e4]]))
    torch.testing.assert_close(box, torch.tensor([[-492.0, -492.0, 508.0, 508.0]]))  # 16 pixels grow to 1000


def test_padding_encodes_to_finite_numbers() -> None:
    assert BoxCoder().encode(torch.zeros(1, 4), torch.zeros(1, 4)).tolist() == [[0.0] * 4]


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [(torch.bfloat16, torch.float32), (torch.float32, torch.float32), (torch.float64, torch.float64)],
)
def test_precision_is_never_lost(dtype: torch.dtype, expected: torch.dtype) -> None:
    assert at_least_float32(torch.zeros(1, dtype=dtype)).dtype == expected
    assert BoxCoder().decode(torch.ones(1, 4, dtype=torch.float32), torch.zeros(1, 4, dtype=dtype)).dtype == expected
