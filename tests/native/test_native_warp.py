"""Expected values: PIL's bilinear resize, supersampling in float64, and the reference in torch's operators."""

import numpy as np
import PIL
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from detcore.ops import native, warp_normalize
from detcore.ops.warp import warp_normalize_reference

MEAN, STD = (100.0, 110.0, 120.0), (50.0, 60.0, 70.0)
TURN = [[1.1, 0.3, 0], [-0.3, 1.1, 9], [0, 0, 1]]


def noise(height: int, width: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (height, width, 3), generator=generator, dtype=torch.uint8)


def warp(
    images: list[Tensor],
    geometry: Tensor,
    size: tuple[int, int],
    device: str = "cpu",
    colour: Tensor | None = None,
    content: Tensor | None = None,
    mean: tuple[float, ...] = (0.0, 0.0, 0.0),
    std: tuple[float, ...] = (1.0, 1.0, 1.0),
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """The batch; grey levels, if mean and std are not given."""
    out = warp_normalize(
        [image.to(device) for image in images],
        geometry,
        torch.eye(3, 4).repeat(len(images), 1, 1) if colour is None else colour,
        size,
        content_sizes=torch.tensor([size] * len(images)) if content is None else content,
        mean=mean,
        std=std,
        dtype=dtype,
    )
    assert out.device.type == device and out.dtype == dtype and out.is_contiguous(memory_format=torch.channels_last)
    return out.cpu()


def scaling(x: float, y: float, left: float = 0.0, top: float = 0.0) -> list[list[float]]:
    return [[x, 0, left], [0, y, top], [0, 0, 1]]


def turning(angle: float, scale: float, raw: tuple[int, int], out: tuple[int, int]) -> list[list[float]]:
    """About the centres of (height, width) of both."""
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    x, y = (out[1] - cos * raw[1] - sin * raw[0]) / 2, (out[0] + sin * raw[1] - cos * raw[0]) / 2
    return [[cos, sin, x], [-sin, cos, y], [0, 0, 1]]


def mixed_batch() -> tuple[list[Tensor], Tensor, Tensor, Tensor]:
    """Images of many sizes and kinds: images, geometry, content sizes and colours; the batch is 90 x 160."""
    rows = [
        (noise(60, 80, 1), scaling(1.5, 1.5), (90, 120)),  # enlarged
        (noise(240, 300, 2), scaling(-0.375, 0.375, 112.5), (90, 112)),  # reduced and mirrored
        (noise(900, 20, 3), scaling(8, 0.1), (90, 160)),  # the vertical pass comes first
        (noise(3, 6000, 4), scaling(0.004, 11), (33, 24)),  # 500 raw columns a pixel
        (noise(70, 90, 5), scaling(1.3, 1.7, -20.4, 7.7), (80, 99)),  # partly outside
        (noise(50, 60, 6), scaling(1, 1, 500), (40, 50)),  # all outside
        (noise(80, 100, 7), turning(0.3, 1.4, (80, 100), (90, 160)), (90, 160)),
        (noise(200, 300, 8), turning(2.0, 0.45, (200, 300), (90, 160)), (77, 131)),
        (noise(400, 500, 9), turning(0.7, 0.08, (400, 500), (90, 160)), (90, 160)),  # 16 x 16 samples
        (noise(1, 1, 10), scaling(70, 50), (50, 70)),
        (torch.zeros((0, 0, 3), dtype=torch.uint8), scaling(0, 0), (10, 10)),
        (noise(9, 9, 11), scaling(1, 1), (0, 0)),
    ]
    colour = torch.eye(3, 4).repeat(len(rows), 1, 1)
    colour[::3] += torch.rand((len(rows[::3]), 3, 4), generator=torch.Generator().manual_seed(0)) * 0.3 - 0.1
    colour[3, 0, 3] = 40
    images, geometry, content = zip(*rows, strict=True)
    return list(images), torch.tensor(geometry), torch.tensor(content), colour


SUPERSAMPLED = [6, 7, 8]
RESIZED = [i for i in range(12) if i not in SUPERSAMPLED]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_mixed_batch_equals_the_reference(dtype: torch.dtype, device: str) -> None:
    images, geometry, content, colour = mixed_batch()
    ours = warp(images, geometry, (90, 160), device, colour, content, MEAN, STD, dtype)
    theirs = warp_normalize_reference(images, geometry, colour, (90, 160), content, MEAN, STD, dtype)
    assert ours.shape == theirs.shape == (12, 3, 90, 160) and ours.stride() == theirs.stride()
    grey = (ours.float() - theirs.float()).abs() * 50
    # A grey level, times the colour matrix; 16 bits round by up to half a level more.
    tolerance = 1.5 + (dtype != torch.float32)
    assert grey[RESIZED].max() <= tolerance and grey[RESIZED].mean() <= 0.05
    # Samples on the very border fall to either side.
    assert (grey[SUPERSAMPLED] > tolerance).float().mean() <= 2e-3 and grey[SUPERSAMPLED].mean() <= 0.3
    for row, (height, width) in enumerate(content.tolist()):
        assert not ours[row, :, height:].any() and not ours[row, :, :, width:].any()
    assert not ours[5].any() and not ours[10:].any() and all(ours[row].any() for row in (*range(5), *range(6, 10)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("width", [160, 157])  # rows that can and cannot be written 16 bytes at a time
def test_both_devices_give_the_same_grey_levels(dtype: torch.dtype, width: int, device: str) -> None:
    images, geometry, content, colour = mixed_batch()
    content[:, 1].clamp_(max=width)
    colour[SUPERSAMPLED] = torch.eye(3, 4)
    ours, cpu = (warp(images, geometry, (90, width), on, colour, content, dtype=dtype) for on in (device, "cpu"))
    assert torch.equal(ours[RESIZED], cpu[RESIZED])
    difference = (ours[SUPERSAMPLED].float() - cpu[SUPERSAMPLED].float()).abs()
    assert difference.max() <= 1 and (difference > 0).float().mean() <= 0.02


@pytest.mark.parametrize("scale", [(1.7, 1.7), (0.5, 0.4), (3.1, 0.3), (0.02, 0.03), (-1.2, -0.9)])
def test_resize_equals_pil(scale: tuple[float, float], device: str) -> None:
    image = noise(150, 201)
    height, width = (max(1, round(abs(s) * side)) for s, side in zip(scale[::-1], (150, 201), strict=True))
    x, y = np.copysign(width / 201, scale[0]), np.copysign(height / 150, scale[1])
    matrix = scaling(x, y, width if x < 0 else 0, height if y < 0 else 0)
    pil = np.asarray(Image.fromarray(image.numpy()).resize((width, height), Image.Resampling.BILINEAR))
    pil = pil[:: -1 if y < 0 else 1, :: -1 if x < 0 else 1]
    ours = warp([image], torch.tensor([matrix]), (height, width), device)[0].permute(1, 2, 0).numpy()
    difference = np.abs(ours - pil.astype(np.float32))
    # Before version 13 PIL made the horizontal pass first in any case, and rounded it first.
    same_order = int(PIL.__version__.partition(".")[0]) >= 13
    assert difference.max() <= 1 and difference.mean() <= (0.1 if same_order else 0.3)


def supersampled(image: np.ndarray, matrix: np.ndarray, size: tuple[int, int], count: int) -> np.ndarray:
    """Mean of count x count bilinear samples a pixel; NaN where one of them lies outside."""
    inverse, (height, width) = np.linalg.inv(matrix), image.shape[:2]
    y, x = np.meshgrid(*((np.arange(count * side) + 0.5) / count for side in size), indexing="ij")
    u, v = (inverse[r, 0] * x + inverse[r, 1] * y + inverse[r, 2] for r in (0, 1))
    outside = (u < 0) | (v < 0) | (u > width) | (v > height)
    u, v = np.clip(u - 0.5, 0, width - 1), np.clip(v - 0.5, 0, height - 1)
    i, j = np.minimum(v.astype(int), height - 2), np.minimum(u.astype(int), width - 2)
    fv, fu, p = (v - i)[..., None], (u - j)[..., None], image.astype(np.float64)
    top, bottom = (p[i + k, j] * (1 - fu) + p[i + k, j + 1] * fu for k in (0, 1))
    sample = np.where(outside[..., None], np.nan, top * (1 - fv) + bottom * fv)
    return sample.reshape(size[0], count, size[1], count, 3).mean(axis=(1, 3))


@pytest.mark.parametrize(("scale", "count"), [(9.0, 4), (1.6, 4), (1.0, 4), (0.6, 4), (0.3, 4), (0.21, 5), (0.1, 10)])
@pytest.mark.parametrize("angle", [0.01, 0.7, 2.5])
def test_white_noise_is_within_two_grey_levels_of_supersampling(
    scale: float, count: int, angle: float, device: str
) -> None:
    image, size = noise(160, 150), (64, 72)
    matrix = torch.tensor(turning(angle, scale, (160, 150), size))
    ours = warp([image], matrix[None], size, device)[0].permute(1, 2, 0).numpy()
    want = supersampled(image.numpy(), matrix.double().numpy(), size, count)
    seen = np.isfinite(want)
    assert seen.mean() > 0.03
    # Half a level is the rounding.
    assert np.abs(ours - want)[seen].max() <= 1.5 and np.abs(ours - want)[seen].mean() <= 0.27


def test_a_flat_area_stays_flat(device: str) -> None:
    image = torch.full((90, 100, 3), 201, dtype=torch.uint8)
    for scale in (2.3, 0.8, 0.35):
        turned = warp([image], torch.tensor([turning(0.4, scale, (90, 100), (30, 30))]), (30, 30), device)
        assert (turned[:, :, 5:25, 5:25] == 201).all()
        assert (warp([image], torch.tensor([scaling(scale, scale)]), (30, 30), device) == 201).all()


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_geometry_is_defined(data: st.DataObject) -> None:
    # Not by the fixture: hypothesis calls the function many times.
    devices = ["cpu", "cuda"] if torch.cuda.is_available() and native.serves("cuda") else ["cpu"]
    sides = st.integers(1, 90)
    image = noise(data.draw(sides), data.draw(sides), seed=1)
    number = st.one_of(st.floats(-3, 3), st.floats(-1e30, 1e30), st.sampled_from([1e-7, 0.05, 1.0]))
    matrix = torch.tensor([[*(data.draw(number) for _ in range(3))], [*(data.draw(number) for _ in range(3))]]).double()
    matrix = torch.cat((matrix, torch.tensor([[0.0, 0.0, 1.0]]).double()))[None]
    a, b, c, d = matrix[0, :2, :2].flatten().tolist()
    if not 0 < abs(a * d - b * c) < float("inf"):
        return
    size = (data.draw(sides), data.draw(sides))
    results = [warp([image], matrix, size, device) for device in devices]
    assert all(((out >= 0) & (out <= 255)).all() for out in results)
    assert (results[0] - results[-1]).abs().max() <= 1


def test_unusual_images(device: str) -> None:
    matrix, image = torch.tensor([TURN, scaling(1.2, 1.3)]), noise(41, 53)
    want = warp([image, image], matrix, (60, 64))
    # Not contiguous, and not aligned to anything.
    strided = torch.stack((image, image), dim=2).to(device)[:, :, 0]
    shifted = torch.cat((torch.zeros(1, dtype=torch.uint8), image.flatten())).to(device)[1:].view(41, 53, 3)
    for other in (strided, shifted):
        ours = warp([other, other], matrix, (60, 64), device)
        assert torch.equal(ours[1], want[1]) and (ours[0] - want[0]).abs().max() <= 1
    nothing = warp([image], matrix[:1], (0, 7), device, content=torch.tensor([[0, 0]]))
    assert nothing.shape == (1, 3, 0, 7)


def test_more_images_than_a_launch_takes(device: str) -> None:
    images = [noise(5 + i % 7, 6 + i % 5, seed=i) for i in range(70)]
    geometry = torch.tensor([TURN if i % 3 == 0 else scaling(1.5, 2) for i in range(70)])
    together = warp(images, geometry, (16, 16), device)
    for i in (0, 1, 35, 68, 69):
        assert torch.equal(together[i], warp(images[i : i + 1], geometry[i : i + 1], (16, 16), device)[0])


def test_threads_do_not_change_a_bit() -> None:
    images, geometry, content, colour = mixed_batch()
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            results.append(warp(images, geometry, (90, 160), "cpu", colour, content))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*results)


def test_opcheck(device: str) -> None:
    images, geometry, content, colour = mixed_batch()
    arguments = ([image.to(device) for image in images], geometry, colour, content, 90, 160, MEAN, STD)
    torch.library.opcheck(torch.ops.detcore.warp_normalize, (*arguments, torch.bfloat16, False))


def test_opcheck_into_memory() -> None:
    images, geometry, content, colour = mixed_batch()
    out = torch.empty((len(images), 90, 160, 3))
    arguments = (out, images, geometry, colour, content, MEAN, STD, False)
    torch.library.opcheck(torch.ops.detcore.warp_normalize_into, arguments)


@pytest.mark.gpu
def test_nothing_waits_for_the_gpu_and_a_graph_captures_it(device: str) -> None:
    if device != "cuda":
        pytest.skip("of the GPU")
    images, geometry, content, colour = mixed_batch()
    ours = [image.to(device) for image in images]
    keywords = {"content_sizes": content, "mean": MEAN, "std": STD}
    eager = warp_normalize(ours, geometry, colour, (90, 160), **keywords)  # type: ignore[arg-type]
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    torch.cuda.set_sync_debug_mode("error")
    try:
        warp_normalize(ours, geometry, colour, (90, 160), **keywords)  # type: ignore[arg-type]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    with torch.cuda.graph(graph):
        captured = warp_normalize(ours, geometry, colour, (90, 160), **keywords)  # type: ignore[arg-type]
    captured.fill_(7)
    graph.replay()
    assert torch.equal(captured, eager)


@pytest.mark.gpu
def test_matrices_must_be_on_the_cpu_and_one_for_each_image() -> None:
    image, matrix, colour, content = noise(4, 4), torch.eye(3)[None], torch.eye(3, 4)[None], torch.tensor([[4, 4]])
    keywords = {"content_sizes": content, "mean": MEAN, "std": STD}
    with pytest.raises(ValueError, match="1 geometries on cpu for 2 images"):
        warp_normalize([image, image], matrix, colour, (4, 4), **keywords)
    with pytest.raises(ValueError, match="on the CPU"):
        elsewhere = {**keywords, "content_sizes": content.to("meta")}
        warp_normalize([image], matrix.to("meta"), colour.to("meta"), (4, 4), **elsewhere)


@pytest.mark.gpu
def test_batches_of_more_than_2_to_the_31_numbers(device: str) -> None:
    if device != "cuda":
        pytest.skip("of the GPU")
    image, matrix = noise(30, 40), torch.tensor([scaling(700, 700), turning(0.001, 720, (30, 40), (21000, 28000))])
    corner = warp_normalize(
        [image.to(device)] * 2,
        matrix,
        torch.eye(3, 4).repeat(2, 1, 1),
        (21000, 28000),
        content_sizes=torch.tensor([[21000, 28000]] * 2),
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        dtype=torch.bfloat16,
    )[:, :, -300:, -300:].cpu()
    matrix[:, :2, 2] -= torch.tensor([28000.0 - 300, 21000 - 300])
    want = warp([image] * 2, matrix, (300, 300), dtype=torch.bfloat16)
    # The float32 matrices of both round differently, by a few thousandths of an output pixel.
    assert (corner.float() - want.float()).abs().max() <= 1
