"""Anchors against numbers worked out by hand."""

import torch

from detcore.models.proposals.anchors import AnchorGenerator, RotatedAnchorGenerator
from detcore.structures.rotated_boxes import upright_around


def make(**changes: object) -> AnchorGenerator:
    settings = {"sizes": [[4.0], [8.0]], "aspect_ratios": [1.0, 4.0], "strides": (4, 8), "offset": 0.0}
    return AnchorGenerator(**{**settings, **changes})


def anchors_of(generator: AnchorGenerator, shapes: list[tuple[int, int]]) -> torch.Tensor:
    return generator(shapes, dtype=torch.float32, device=torch.device("cpu"))


def test_order_is_level_row_column_ratio() -> None:
    anchors = anchors_of(make(), [(1, 2), (1, 1)])
    expected = [
        [-2.0, -2.0, 2.0, 2.0],
        [-1.0, -4.0, 1.0, 4.0],  # height over width is 4, the area stays 16
        [2.0, -2.0, 6.0, 2.0],
        [3.0, -4.0, 5.0, 4.0],
        [-4.0, -4.0, 4.0, 4.0],
        [-2.0, -8.0, 2.0, 8.0],
    ]
    assert anchors.tolist() == expected


def test_rows_run_down_and_columns_right() -> None:
    centres = (anchors_of(make(), [(2, 3), (1, 1)])[:12:2, :2] + 2).tolist()
    assert centres == [[0.0, 0.0], [4.0, 0.0], [8.0, 0.0], [0.0, 4.0], [4.0, 4.0], [8.0, 4.0]]


def test_offset_is_in_strides() -> None:
    assert anchors_of(make(offset=0.5), [(1, 1), (1, 1)])[0].tolist() == [0.0, 0.0, 4.0, 4.0]


def test_rounded_half_sides_are_whole_pixels() -> None:
    anchors = anchors_of(make(sizes=[[5.0], [9.0]], rounded=True), [(1, 1), (1, 1)])
    # Half sides 2.5, 1.25 and 5; 4.5, 2.25 and 9: a half goes to the even number.
    assert anchors.tolist() == [[-2, -2, 2, 2], [-1, -5, 1, 5], [-4, -4, 4, 4], [-2, -9, 2, 9]]


def test_fitted_steps_are_the_images_side_over_the_maps() -> None:
    anchors = anchors_of(
        make(fitted_steps=True), [(5, 2), (3, 1)]
    )  # 20 x 8 pixels: the second level's rows are 6 apart
    centres = (anchors[10 * 2 :: 2, :2] + 4).tolist()
    assert centres == [[0.0, 0.0], [0.0, 6.0], [0.0, 12.0]]


def test_they_are_made_once_and_serve_in_training_after_prediction() -> None:
    generator = make()
    with torch.inference_mode():
        first = anchors_of(generator, [(1, 2), (1, 1)])
    assert anchors_of(generator, [(1, 2), (1, 1)]) is first
    assert not first.is_inference()


def test_rotated_anchors_have_every_angle_last_in_order() -> None:
    settings = {"sizes": [[4.0], [8.0]], "aspect_ratios": [1.0, 4.0], "strides": (4, 8), "offset": 0.5}
    generator = RotatedAnchorGenerator(**settings, angles_deg=(-60.0, 30.0))
    anchors = anchors_of(generator, [(1, 2), (1, 1)])
    assert generator.num_per_place == 4
    assert anchors[:5].tolist() == [
        [2.0, 2.0, 4.0, 4.0, -60.0],
        [2.0, 2.0, 4.0, 4.0, 30.0],
        [2.0, 2.0, 2.0, 8.0, -60.0],
        [2.0, 2.0, 2.0, 8.0, 30.0],
        [6.0, 2.0, 4.0, 4.0, -60.0],
    ]
    assert anchors[8].tolist() == [4.0, 4.0, 8.0, 8.0, -60.0]


def test_rotated_anchors_at_angle_0_are_the_upright_ones() -> None:
    rotated = RotatedAnchorGenerator(
        sizes=[[4.0], [8.0]], aspect_ratios=[1.0, 4.0], strides=(4, 8), offset=0.0, angles_deg=(0.0,)
    )
    shapes = [(2, 3), (1, 2)]
    assert torch.equal(upright_around(anchors_of(rotated, shapes)), anchors_of(make(), shapes))
