"""Our ResNet against torchvision's, with the same weights, and its freezing."""

import re

import pytest
import torch
import torchvision

from detcore.models.backbones.resnet import ResNet
from detcore.models.backbones.resnet_blocks import DeformConvNorm
from detcore.models.norm import FrozenBatchNorm

PUBLISHED = {
    "depth": 50,
    "norm": "bn",
    "stride_in_1x1": False,
    "stem_channels": 64,
    "res2_channels": 256,
    "groups": 1,
    "width_per_group": 64,
    "frozen_stages": 0,
    "image_mean": (123.675, 116.28, 103.53),
    "image_std": (58.395, 57.12, 57.375),
}
NARROW = {**PUBLISHED, "stem_channels": 8, "res2_channels": 16, "width_per_group": 4}


def our_name(name: str) -> str:
    name = re.sub(r"^(conv1|bn1)", r"stem.\1", name)
    name = re.sub(r"^layer(\d)", lambda match: f"res{int(match[1]) + 1}", name)
    name = name.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")
    return re.sub(r"bn(\d)", r"conv\1.norm", name)


@pytest.mark.parametrize(
    ("name", "depth", "groups", "width"), [("resnet50", 50, 1, 64), ("resnext101_32x8d", 101, 32, 8)]
)
def test_equals_torchvision(name: str, depth: int, groups: int, width: int) -> None:
    torch.manual_seed(0)
    theirs = torchvision.models.get_model(name).eval()
    ours = ResNet(**{**PUBLISHED, "depth": depth, "groups": groups, "width_per_group": width}).eval()
    state = {our_name(key): value for key, value in theirs.state_dict().items() if not key.startswith("fc")}
    ours.load_state_dict(state)
    images = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        x = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(images))))
        for index, feature in enumerate(ours(images), start=1):
            x = getattr(theirs, f"layer{index}")(x)
            torch.testing.assert_close(feature, x, atol=1e-4, rtol=1e-4)


def test_stride_lies_where_it_is_asked_for() -> None:
    for in_1x1 in (True, False):
        block = ResNet(**{**NARROW, "stride_in_1x1": in_1x1}).res3[0]
        assert (block.conv1.stride, block.conv2.stride) == (((2, 2), (1, 1)) if in_1x1 else ((1, 1), (2, 2)))


@pytest.mark.parametrize("frozen", range(6))
def test_frozen_stages(frozen: int) -> None:
    model = ResNet(**{**NARROW, "frozen_stages": frozen})
    for index, stage in enumerate(("stem", "res2", "res3", "res4", "res5")):
        module = getattr(model, stage)
        assert all(parameter.requires_grad == (index >= frozen) for parameter in module.parameters())
        assert any(isinstance(part, FrozenBatchNorm) for part in module.modules()) == (index < frozen)


@pytest.mark.parametrize("depth", [18, 34])
def test_basic_blocks_equal_torchvision_s(depth: int) -> None:
    torch.manual_seed(0)
    theirs = torchvision.models.get_model(f"resnet{depth}").eval()
    ours = ResNet(**{**PUBLISHED, "depth": depth, "res2_channels": 64}).eval()
    ours.load_state_dict({our_name(key): v for key, v in theirs.state_dict().items() if not key.startswith("fc")})
    images = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        x = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(images))))
        for layer in (theirs.layer1, theirs.layer2, theirs.layer3, theirs.layer4):
            x = layer(x)
        torch.testing.assert_close(ours(images)[-1], x, atol=1e-4, rtol=1e-4)
    assert (ours.channels, ours.strides) == ((64, 128, 256, 512), (4, 8, 16, 32))


def test_depth_152_has_as_many_parameters_as_torchvision_s() -> None:
    with torch.device("meta"):
        theirs = torchvision.models.resnet152()
        ours = ResNet(**{**PUBLISHED, "depth": 152})
    head = theirs.fc.weight.numel() + theirs.fc.bias.numel()
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters()) - head


@pytest.mark.parametrize("size", [(64, 96), (50, 66)])
@torch.inference_mode()
def test_dilated_res5_keeps_its_stride(size: tuple[int, int]) -> None:
    """At every second place its later blocks are plain ones on every second place; its first has no stride."""
    torch.manual_seed(0)
    plain, dilated = ResNet(**NARROW).eval(), ResNet(**{**NARROW, "res5_dilation": 2}).eval()
    dilated.load_state_dict(plain.state_dict())
    features = dilated(torch.randn(1, 3, *size))
    assert dilated.strides == (4, 8, 16, 16) and features[3].shape[-2:] == features[2].shape[-2:]
    first = dilated.res5[0].conv2
    assert (first.stride, first.dilation, first.padding) == ((1, 1), (2, 2), (2, 2))
    x = dilated.res5[0](features[2])
    torch.testing.assert_close(dilated.res5[1](x)[..., ::2, ::2], plain.res5[1](x[..., ::2, ::2].contiguous()))


DEFORMED = {"deform_stages": (False, False, True, True), "deform_groups": 2}


@pytest.mark.parametrize("modulated", [False, True])
@pytest.mark.parametrize(("groups", "dilation", "norm"), [(1, 1, "bn"), (2, 2, "frozen_bn")])
def test_without_offsets_a_deformable_network_is_the_plain_one(
    modulated: bool, groups: int, dilation: int, norm: str
) -> None:
    """Offsets start at 0; modulating factors at sigmoid(0) = 1/2, which weights of twice the size make up for."""
    torch.manual_seed(0)
    settings = {**NARROW, "groups": groups, "res5_dilation": dilation, "norm": norm}
    plain = ResNet(**settings).eval().double()
    deformed = ResNet(**settings, **DEFORMED, deform_modulated=modulated).eval().double()
    state = plain.state_dict()
    offsets = {key: value for key, value in deformed.state_dict().items() if ".offset." in key}
    assert not any(value.any() for value in offsets.values()) and not any("res3" in key for key in offsets)
    if modulated:
        halved = {key.replace("offset.bias", "weight") for key in offsets if key.endswith("bias")}
        state = {key: 2 * value if key in halved else value for key, value in state.items()}
    deformed.load_state_dict(state | offsets)
    images = torch.randn(1, 3, 32, 64, dtype=torch.float64)
    with torch.inference_mode():
        for ours, theirs in zip(deformed(images), plain(images), strict=True):
            torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("modulated", [False, True])
def test_offsets_move_the_taps(modulated: bool) -> None:
    """A constant offset of one place down and two to the right shifts what is seen, as does the image moved."""
    torch.manual_seed(0)
    settings = {"in_channels": 4, "out_channels": 4, "kernel_size": 3, "stride": 1, "dilation": 1, "groups": 1}
    conv = DeformConvNorm(**settings, norm="none", relu=False, offset_groups=2, modulated=modulated)
    x = torch.randn(1, 4, 12, 12)
    conv.offset.bias.data[: conv.num_offsets : 2], conv.offset.bias.data[1 : conv.num_offsets : 2] = 1.0, 2.0
    if modulated:
        conv.offset.bias.data[conv.num_offsets :] = 30.0  # sigmoid 1
    with torch.no_grad():
        expected = torch.nn.functional.conv2d(x, conv.weight, conv.bias)  # no padding: place (i, j) is (i + 1, j + 1)
        torch.testing.assert_close(conv(x)[..., :9, :8], expected[..., 0:9, 1:9], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("modulated", [False, True])
def test_gradients_reach_the_offsets(modulated: bool) -> None:
    torch.manual_seed(0)
    model = ResNet(**{**NARROW, "norm": "gn"}, **DEFORMED, deform_modulated=modulated)
    sum(feature.square().mean() for feature in model(torch.randn(1, 3, 64, 64))).backward()
    for key, parameter in model.named_parameters():
        if ".offset." in key:
            assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any(), key
