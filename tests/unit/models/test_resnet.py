"""Our ResNet against torchvision's, with the same weights, and its freezing."""

import re

import pytest
import torch
import torchvision

from detcore.models.backbones.resnet import ResNet
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
