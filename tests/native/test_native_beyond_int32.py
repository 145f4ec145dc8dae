"""Tensors of more elements than 32 bits count: what stands at their ends is what a small tensor of it alone gives.

On the CPU the operating system gives memory for pages that are written to, so that an input of 0s costs none.
"""

import numpy as np
import pytest
import torch
from torch import Tensor

from detcore import ops

COUNT = 2**31


def zeros(shape: tuple[int, ...], device: str, dtype: type[np.generic] = np.float16) -> Tensor:
    made = np.empty(0, dtype) if device == "cuda" else np.zeros(shape, dtype)
    tensor = torch.from_numpy(made)
    tensor = tensor.new_zeros(shape, device=device) if device == "cuda" else tensor
    assert tensor.numel() > COUNT
    return tensor


def map_of(channels: int, side: int, device: str, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """(1, channels, side, side), channels_last, 0 but for its last 8 x 8 places; and those."""
    large = zeros((1, side, side, channels), device).permute(0, 3, 1, 2)
    corner = torch.randn((1, channels, 8, 8), generator=generator).half().to(device)
    large[:, :, -8:, -8:] = corner
    return large, corner.contiguous(memory_format=torch.channels_last)


@pytest.fixture(autouse=True)
def room(request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("gpu") and torch.cuda.mem_get_info()[0] < 48 * 2**30:
        pytest.skip("needs 48 GiB of free GPU memory")


def test_roi_align(device: str, generator: torch.Generator) -> None:
    side = 16400
    large, corner = map_of(8, side, device, generator)
    box = torch.tensor([[0, 2.0, 3, 6, 7]], device=device)
    moved = box + (side - 8) * torch.tensor([0, 1.0, 1, 1, 1], device=device)
    got = ops.roi_align(large, moved, 2, 1.0, 2)
    assert got.abs().max() > 0
    torch.testing.assert_close(got, ops.roi_align(corner, box, 2, 1.0, 2), atol=2e-3, rtol=0)


def test_roi_align_rotated(device: str, generator: torch.Generator) -> None:
    side = 16400
    large, corner = map_of(8, side, device, generator)
    box = torch.tensor([[0, 4.0, 4, 4, 2, 90]], device=device)
    moved = box + (side - 8) * torch.tensor([0, 1.0, 1, 0, 0, 0], device=device)
    got = ops.roi_align_rotated(large, moved, 2, 1.0, 2)
    assert got.abs().max() > 0
    torch.testing.assert_close(got, ops.roi_align_rotated(corner, box, 2, 1.0, 2), atol=1e-2, rtol=0)


def test_deform_conv2d(device: str, generator: torch.Generator) -> None:
    side = 16400
    large, corner = map_of(8, side, device, generator)
    offset = torch.randn((1, 18, 2, 2), generator=generator).to(device) / 2
    mask = torch.rand((1, 9, 2, 2), generator=generator).half().to(device)
    weight = torch.randn((8, 8, 3, 3), generator=generator).half().to(device)
    got, want = (
        ops.deform_conv2d(map, offset, weight, stride=map.shape[-1] - 3, mask=mask)[..., 1, 1]
        for map in (large, corner)
    )
    assert got.abs().max() > 0
    torch.testing.assert_close(got, want, atol=2e-2, rtol=1e-2)  # positions near 16,400 are known to 2 ** -10


def test_ms_deform_attn(device: str, generator: torch.Generator) -> None:
    side, heads, channels = 4112, 8, 16
    value = zeros((1, side * side, heads, channels), device)
    corner = torch.randn((1, 64, heads, channels), generator=generator).half().to(device)
    value.view(side, side, heads, channels)[-8:, -8:] = corner.view(8, 8, heads, channels)
    places = torch.rand((1, 3, heads, 1, 2, 2), generator=generator, dtype=torch.float64).to(device) * 5 + 2
    weights = torch.rand((1, 3, heads, 1, 2), generator=generator).half().to(device)
    got = ops.ms_deform_attn(value, [(side, side)], ((places + side - 8) / side).float(), weights)
    want = ops.ms_deform_attn(corner, [(8, 8)], (places / 8).float(), weights)
    assert got.abs().max() > 0
    torch.testing.assert_close(got, want, atol=1e-2, rtol=0)


def test_warp_normalize(device: str, generator: torch.Generator) -> None:
    side = 26800
    image = zeros((side, side, 3), device, np.uint8)
    corner = torch.randint(0, 256, (64, 64, 3), generator=generator, dtype=torch.uint8).to(device)
    image[-64:, -64:] = corner
    for scale in (1.0, 0.5, 1.5):  # copied, reduced and enlarged
        size = int(32 * scale)
        got, want = (
            ops.warp_normalize(
                [raw],
                torch.tensor([[[scale, 0, -scale * (len(raw) - 32)], [0, scale, -scale * (len(raw) - 32)], [0, 0, 1]]]),
                torch.eye(3, 4)[None],
                (size, size),
                content_sizes=torch.tensor([[size, size]]),
                mean=(0.0, 0.0, 0.0),
                std=(1.0, 1.0, 1.0),
            )
            for raw in (image, corner)
        )
        assert got.max() > 100
        torch.testing.assert_close(got, want, atol=1, rtol=0)


@pytest.mark.gpu
def test_gradients_of_a_large_map(generator: torch.Generator) -> None:
    side = 16400
    large, corner = map_of(8, side, "cuda", generator)
    box = torch.tensor([[0, 2.0, 3, 6, 7]], device="cuda")
    offset = torch.randn((1, 18, 2, 2), generator=generator).cuda() / 2
    weight = torch.randn((8, 8, 3, 3), generator=generator).half().cuda()
    grads = []
    for map in (large, corner):
        leaf, moved = map.detach().requires_grad_(), box.clone()
        moved[:, 1:] += map.shape[-1] - 8
        conv = ops.deform_conv2d(leaf, offset, weight, stride=map.shape[-1] - 3)[..., 1, 1]
        rotated = ops.roi_align_rotated(
            leaf,
            torch.tensor([[0, 4.0, 4, 4, 2, 90]], device="cuda")
            + (map.shape[-1] - 8) * torch.tensor([0, 1.0, 1, 0, 0, 0], device="cuda"),
            2,
            1.0,
            2,
        )
        for out in (ops.roi_align(leaf, moved, 2, 1.0, 2), rotated, conv):
            (grad,) = torch.autograd.grad(out.float().sum(), leaf)
            grads.append(grad[..., -8:, -8:].clone())
            del grad
    for got, want in zip(grads[:3], grads[3:], strict=True):
        assert got.abs().max() > 0
        torch.testing.assert_close(got, want, atol=3e-2, rtol=1e-2)


@pytest.mark.gpu
def test_group_norm_of_a_large_map(generator: torch.Generator) -> None:
    large = torch.zeros((2, 4112, 4112, 64), dtype=torch.half, device="cuda").permute(0, 3, 1, 2)
    assert large.numel() > COUNT
    own = torch.randn((64, 4112, 4112), device="cuda", dtype=torch.half)
    large[1] = own
    weight, bias = torch.rand((2, 64), generator=generator).cuda()
    got = ops.group_norm_act(large, weight, bias, num_groups=8, relu=True)[1, :, -9:, -9:]
    want = ops.group_norm_act(own[None], weight, bias, num_groups=8, relu=True)[0, :, -9:, -9:]
    torch.testing.assert_close(got, want, atol=2e-3, rtol=2e-3)


@pytest.mark.gpu
def test_large_outputs(generator: torch.Generator) -> None:
    boxes = torch.rand((170_000, 4), generator=generator).cuda() * 20
    rois = torch.cat((torch.zeros(170_000, 1, device="cuda"), boxes.sort(dim=1).values), dim=1)
    features = torch.randn((1, 264, 20, 20), generator=generator).half().cuda()
    pooled = ops.roi_align(features, rois, 7, 1.0, 2)
    assert pooled.numel() > COUNT
    torch.testing.assert_close(pooled[-5:], ops.roi_align(features, rois[-5:], 7, 1.0, 2))
    del pooled

    samples, candidates = torch.arange(8193, device="cuda"), torch.arange(2**18, device="cuda").expand(8193, -1)
    drawn = ops.keyed_uniform(1, 2, samples, 3, candidates)
    assert drawn.numel() > COUNT
    assert torch.equal(drawn[-1:, -7:], ops.keyed_uniform(1, 2, samples[-1:], 3, candidates[-1:, -7:]))
    del drawn

    rotated = torch.rand((46_400, 5), generator=generator).cuda() * 50
    iou = ops.box_iou_rotated(rotated, rotated)
    assert iou.numel() > COUNT
    torch.testing.assert_close(iou[-4:, -4:], ops.box_iou_rotated(rotated[-4:], rotated[-4:]))
    del iou

    masks, edges = torch.rand((2200, 28, 28), generator=generator).cuda(), torch.rand((2200, 4), generator=generator)
    placed = edges.cuda().sort(dim=1).values * 1000
    pasted = ops.paste_masks(masks, placed, (1000, 1000), 0.5)
    assert pasted.numel() > COUNT
    assert torch.equal(pasted[-2:], ops.paste_masks(masks[-2:], placed[-2:], (1000, 1000), 0.5))


@pytest.mark.gpu
def test_large_sums_of_pairs(generator: torch.Generator) -> None:
    """Of boxes with boxes, none of which stands in memory as a pair."""
    side = 70_000
    corners = torch.arange(side, device="cuda").float()[:, None] * 3
    apart = torch.cat((corners, corners * 0, corners + 2, corners * 0 + 2), dim=1)[None]
    keep, count = ops.nms_padded(apart, -corners.T, None, 0.5, side)
    assert count.item() == side and torch.equal(keep[0], torch.arange(side, device="cuda"))

    anchors = torch.rand((25_000_000, 4), generator=generator).cuda().sort(dim=1).values * 500
    truth = torch.rand((1, 100, 4), generator=generator).cuda().sort(dim=2).values * 500
    valid = torch.ones((1, 100), dtype=torch.bool, device="cuda")
    matched, status = ops.match_anchors(anchors, truth, valid, (0.3, 0.7), False)
    few = ops.match_anchors(anchors[-1000:], truth, valid, (0.3, 0.7), False)
    assert torch.equal(matched[:, -1000:], few[0]) and torch.equal(status[:, -1000:], few[1])
    del matched, status

    pairs = COUNT // 4 + 3
    first = torch.zeros((pairs, 4), device="cuda")
    first[-1000:], second = anchors[:1000], anchors[-1000:]
    del anchors
    other = torch.zeros_like(first)
    other[-1000:] = second
    torch.testing.assert_close(ops.giou_loss(first, other)[-1000:], ops.giou_loss(first[-1000:], second))
