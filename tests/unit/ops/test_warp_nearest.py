import numpy as np
import pytest
import torch
from PIL import Image

from detcore.ops import warp_nearest


def noise(height, width, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 255, (height, width), dtype=np.uint8))


def warp(labels, geometry, size, content=None, **options):
    geometry = torch.as_tensor(np.array(geometry, float), dtype=torch.float32)[None]
    contents = torch.tensor([size if content is None else content])
    return warp_nearest([labels], geometry, size, content_sizes=contents, fill=255, **options)[0]


@pytest.mark.parametrize("size", [(20, 30), (37, 61), (7, 5), (80, 11)])
def test_a_resize_is_pils(size):
    labels = noise(23, 31)
    geometry = np.diag([size[1] / 31, size[0] / 23, 1])
    expected = np.asarray(Image.fromarray(labels.numpy()).resize(size[::-1], Image.Resampling.NEAREST))
    np.testing.assert_array_equal(warp(labels, geometry, size).numpy(), expected)


def test_padding_and_what_the_map_does_not_cover_are_filled():
    labels = noise(4, 6)
    out = warp(labels, [[-1, 0, 6], [0, 1, 1], [0, 0, 1]], (8, 9), content=(4, 5))
    expected = torch.full((8, 9), 255, dtype=torch.uint8)
    expected[1:4, :5] = labels.flip(1)[:3, :5]
    assert torch.equal(out, expected)


@pytest.mark.parametrize("degrees", [10.0, 93.0, 200.0])
def test_turned_pixel_by_pixel(degrees):
    """The definition, in float64: the raw pixel in which a pixel's centre lies. Ties of rounding are few."""
    labels, turn = noise(20, 25), np.radians(degrees)
    geometry = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn) * 1.1, np.cos(turn), 0], [0, 0, 1]])
    geometry[:2, 2] = np.array([15.3, 14.2]) - geometry[:2, :2] @ [12.5, 10]
    found = warp(labels, geometry, (30, 30)).numpy()
    inverse, expected = np.linalg.inv(geometry), np.full((30, 30), 255)
    for i in range(30):
        for j in range(30):
            x, y, _ = np.floor(inverse @ [j + 0.5, i + 0.5, 1]).astype(int)
            if 0 <= x < 25 and 0 <= y < 20:
                expected[i, j] = labels[y, x]
    assert (found != expected).sum() <= 2
    assert (found == 255).sum() > 50 and (found != 255).sum() > 100


def test_empty_rows_and_no_rows():
    geometry, contents = torch.zeros(2, 3, 3), torch.zeros(2, 2, dtype=torch.int64)
    out = warp_nearest([noise(1, 1)] * 2, geometry, (3, 4), content_sizes=contents, fill=7)
    assert torch.equal(out, torch.full((2, 3, 4), 7, dtype=torch.uint8))
    assert warp_nearest([], geometry[:0], (3, 4), content_sizes=contents[:0], fill=7).shape == (0, 3, 4)


@pytest.mark.parametrize(
    ("labels", "geometry", "content", "message"),
    [
        (noise(4, 4).float(), np.eye(3), (4, 4), "needs .h, w. uint8"),
        (noise(4, 4), np.eye(3), (5, 4), "does not fit"),
        (noise(4, 4), np.zeros((3, 3)), (4, 4), "not invertible"),
    ],
)
def test_what_cannot_be_is_named(labels, geometry, content, message):
    with pytest.raises(ValueError, match=f"map 0: .*{message}"):
        warp(labels, geometry, (4, 4), content)


@pytest.mark.gpu
def test_cuda_gives_the_same_without_waiting():
    labels = [noise(40, 50, seed) for seed in range(3)]
    geometry = torch.eye(3).repeat(3, 1, 1)
    geometry[0, 0, 0], geometry[1, 0, 1] = -1.5, 0.25
    geometry[0, 0, 2] = 75.0
    contents = torch.tensor([[40, 75], [40, 50], [0, 0]])
    expected = warp_nearest(labels, geometry, (64, 80), content_sizes=contents, fill=255)
    on_device = [one.cuda() for one in labels]
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = warp_nearest(on_device, geometry, (64, 80), content_sizes=contents, fill=255)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert (found.cpu() != expected).sum() <= 4
