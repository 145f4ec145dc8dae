"""Keypoints on heatmaps, against resizing each heatmap to its box."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from detcore.models.heads.heatmaps import heatmap_bins, keypoints_of_heatmaps


def resized_one_by_one(heatmaps: Tensor, boxes: Tensor) -> Tensor:
    """The definition: the best pixel of the heatmap, resized to the box's size in whole pixels."""
    found = []
    for maps, box in zip(heatmaps, boxes, strict=True):
        width, height = (box[2:] - box[:2]).clamp(min=1.0).unbind()
        columns, rows = int(width.ceil()), int(height.ceil())
        large = F.interpolate(maps[None], size=(rows, columns), mode="bicubic", align_corners=False)[0]
        best, index = large.flatten(1).max(dim=1)
        x = (index % columns + 0.5) * width / columns + box[0]
        y = (index // columns + 0.5) * height / rows + box[1]
        found.append(torch.stack((x, y, best.exp() / maps.exp().sum(dim=(1, 2))), dim=-1))
    return torch.stack(found)


@pytest.mark.parametrize("sides", [(0.0, 3.0), (5.0, 56.0), (56.0, 224.0), (225.0, 448.0), (449.0, 700.0)])
def test_the_same_pixels_whatever_the_size(sides: tuple[float, float]) -> None:
    generator = torch.Generator().manual_seed(0)
    # Noise, upsampled as the head does: many maxima of about the same height, which is the hard case.
    noise = 4 * torch.randn(6, 3, 14, 14, generator=generator, dtype=torch.float64)
    heatmaps = F.interpolate(noise, scale_factor=2, mode="bilinear")
    size = sides[0] + (sides[1] - sides[0]) * torch.rand(6, 2, generator=generator, dtype=torch.float64)
    corner = 50 * torch.rand(6, 2, generator=generator, dtype=torch.float64)
    boxes = torch.cat((corner, corner + size), dim=1)
    found = keypoints_of_heatmaps(heatmaps, boxes, longest_side=704)
    torch.testing.assert_close(found, resized_one_by_one(heatmaps, boxes), atol=1e-4, rtol=0)


def test_no_regions() -> None:
    found = keypoints_of_heatmaps(torch.zeros(0, 5, 28, 28), torch.zeros(0, 4), longest_side=64)
    assert found.shape == (0, 5, 3)


def test_the_best_pixel_of_nothing_but_noise() -> None:
    generator = torch.Generator().manual_seed(0)
    heatmaps = torch.randn(12, 17, 56, 56, generator=generator, dtype=torch.float64)
    boxes = torch.zeros(12, 4, dtype=torch.float64)
    boxes[:, 2:] = 250 + 550 * torch.rand(12, 2, generator=generator, dtype=torch.float64)
    found = keypoints_of_heatmaps(heatmaps, boxes, longest_side=800)
    torch.testing.assert_close(found, resized_one_by_one(heatmaps, boxes), atol=1e-4, rtol=0)


def test_bins() -> None:
    box = torch.tensor([10.0, 20.0, 50.0, 100.0])
    points = torch.tensor(
        [
            [10.0, 20.0],  # the upper left corner: the first
            [50.0, 100.0],  # the lower right corner: the last
            [19.9, 20.0],  # of 4 x 4 bins, 10 wide and 20 high
            [20.0, 40.0],
            [9.9, 20.0],  # outside
            [30.0, 100.1],
        ]
    )
    bins, inside = heatmap_bins(points, box, 4)
    assert bins.tolist() == [0, 15, 0, 5, 0, 0]
    assert inside.tolist() == [True, True, True, True, False, False]


def test_an_empty_region_holds_nothing_but_its_corner() -> None:
    bins, inside = heatmap_bins(torch.tensor([[1.0, 1.0]]), torch.zeros(4), 4)
    assert not inside.any() and bins.tolist() == [0]
