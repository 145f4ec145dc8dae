"""timm's models as backbones: strides, widths, normalisation, freezing."""

import pytest
import torch
from timm.layers import Conv2dSame
from torch import nn

from detcore.models.backbones.same_padding import EvenlySamePaddedConv
from detcore.models.backbones.timm_backbone import TimmBackbone
from detcore.models.norm import FrozenBatchNorm
from detcore.models.stochastic_depth import DropPath

LITE0 = "tf_efficientnet_lite0"


def backbone(name: str = LITE0, *, norm: str = "frozen_bn", frozen_stages: int = 0) -> TimmBackbone:
    return TimmBackbone(name=name, norm=norm, frozen_stages=frozen_stages, pretrained=False)


@pytest.mark.parametrize(
    ("name", "channels"),
    [  # from timm's feature_info
        (LITE0, (24, 40, 112, 320)),
        ("resnet18", (64, 128, 256, 512)),
        ("convnext_atto", (40, 80, 160, 320)),
    ],
)
def test_features_lie_at_strides_4_to_32(name: str, channels: tuple[int, ...]) -> None:
    model = backbone(name).eval()
    with torch.inference_mode():
        features = model(torch.randn(2, 3, 64, 96))
    assert model.channels == channels
    assert [tuple(x.shape) for x in features] == [
        (2, width, 64 // stride, 96 // stride) for width, stride in zip(channels, (4, 8, 16, 32), strict=True)
    ]


def test_content_does_not_shift_when_its_image_is_padded() -> None:
    """TF's SAME padding depends on the size of its input, which for us includes the padding."""
    model = backbone().eval()
    content = torch.randn(1, 3, 96, 64)
    wide = torch.zeros(1, 3, 96, 160)
    wide[..., :64] = content
    with torch.inference_mode():
        narrow_stem, wide_stem = (model.body.conv_stem(x) for x in (content, wide))
    torch.testing.assert_close(narrow_stem, wide_stem[..., :32], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("kernel_size", "stride", "dilation"), [(3, 2, 1), (5, 2, 1), (7, 4, 1), (1, 2, 1), ((3, 5), 1, 2)]
)
def test_same_padding_is_timms_where_sides_are_multiples_of_the_stride(
    kernel_size: int | tuple[int, int], stride: int, dilation: int
) -> None:
    theirs = Conv2dSame(4, 6, kernel_size, stride=stride, dilation=dilation, groups=2, bias=False)
    x = torch.randn(2, 4, 24, 16)
    assert torch.equal(EvenlySamePaddedConv.of(theirs)(x), theirs(x))


def test_a_backbone_computes_no_padding_from_sizes() -> None:
    assert not any(isinstance(module, Conv2dSame) for module in backbone().modules())


def test_images_are_normalised_as_timm_trained() -> None:
    model = backbone()
    assert model.image_mean == (127.5, 127.5, 127.5) and model.image_std == (127.5, 127.5, 127.5)
    assert backbone("resnet18").image_mean == pytest.approx((123.675, 116.28, 103.53))


def test_frozen_norm_computes_what_batch_norm_does_in_evaluation() -> None:
    torch.manual_seed(0)
    normal = backbone(norm="bn").eval()
    for module in normal.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
    frozen = backbone()
    frozen.load_state_dict(dict(zip(frozen.state_dict(), without_counters(normal), strict=True)))
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        for ours, theirs in zip(frozen(images), normal(images), strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def without_counters(module: nn.Module) -> list[torch.Tensor]:
    return [value for name, value in module.state_dict().items() if "num_batches_tracked" not in name]


@pytest.mark.parametrize(
    ("norm", "expected"), [("frozen_bn", FrozenBatchNorm), ("gn", nn.GroupNorm), ("bn", nn.BatchNorm2d)]
)
def test_norms_are_replaced(norm: str, expected: type[nn.Module]) -> None:
    norms = (FrozenBatchNorm, nn.GroupNorm, nn.BatchNorm2d)
    found = [module for module in backbone(norm=norm).modules() if isinstance(module, norms)]
    assert found and all(isinstance(module, expected) for module in found)


@pytest.mark.parametrize(
    ("name", "last_frozen", "first_trained"),
    [
        (LITE0, "body.blocks.1", "body.blocks.2"),
        ("resnet18", "body.layer1", "body.layer2"),
        ("convnext_atto", "body.stages_0", "body.stages_1"),
    ],
)
def test_one_frozen_stage_reaches_stride_4(name: str, last_frozen: str, first_trained: str) -> None:
    model = backbone(name, norm="bn", frozen_stages=1)
    names = [name for name, _ in model.named_parameters()]
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    assert frozen == names[: len(frozen)] and frozen[-1].startswith(f"{last_frozen}.")
    assert names[len(frozen)].startswith(f"{first_trained}.")
    last = model.get_submodule(last_frozen)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in last.modules())


def test_no_more_stages_freeze_than_there_are() -> None:
    assert not any(parameter.requires_grad for parameter in backbone(frozen_stages=4).parameters())
    with pytest.raises(ValueError, match="frozen_stages is 5"):
        backbone(frozen_stages=5)


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256", "regnetx_002"])
@pytest.mark.parametrize("size", [(64, 96), (384, 384)])
def test_images_may_have_any_size(name: str, size: tuple[int, int]) -> None:
    """At 384 pixels Swin's first map, (B, h, w, C), is as high and wide as it has channels: 96."""
    model = backbone(name, norm="bn").eval()
    with torch.inference_mode():
        features = model(torch.randn(1, 3, *size))
    assert [tuple(feature.shape[1:]) for feature in features] == [
        (width, size[0] // stride, size[1] // stride)
        for width, stride in zip(model.channels, (4, 8, 16, 32), strict=True)
    ]


def test_swin_shifts_windows_at_every_size() -> None:
    """timm leaves the shift out where the image it was built for has one window; detectors' images are larger."""
    blocks = backbone("swin_tiny_patch4_window7_224").body.layers_3.blocks
    assert [block.shift_size for block in blocks] == [(0, 0), (3, 3)]


def test_swin_maps_have_their_channels_in_the_second_dimension() -> None:
    model = backbone("swin_tiny_patch4_window7_224").eval()
    images = torch.randn(1, 3, 384, 384)
    with torch.inference_mode():
        torch.testing.assert_close(model(images)[0], model.body(images)[0].permute(0, 3, 1, 2))


def test_stochastic_depth_is_keyed_by_sample() -> None:
    """timm's own draws from torch's generator, so that two ranks would train on other networks than one."""
    model = TimmBackbone(name="convnext_atto", norm="bn", frozen_stages=0, pretrained=False, drop_path=0.5)
    rates = [module.rate for module in model.modules() if isinstance(module, DropPath)]
    assert rates and max(rates) == pytest.approx(0.5)
    assert not any(type(module).__module__.startswith("timm.layers.drop") for module in model.modules())


def test_a_model_without_a_pyramid_is_refused() -> None:
    with pytest.raises(ValueError, match=r"vit_tiny_patch16_224 has features at strides \[16, 16, 16\]"):
        backbone("vit_tiny_patch16_224")


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ValueError, match="no model 'resnet50000'"):
        backbone("resnet50000")


def test_a_model_that_cannot_be_frozen_by_stage_is_refused() -> None:
    with pytest.raises(ValueError, match=r"hrnet_w18_small has no module 'stage1'"):
        backbone("hrnet_w18_small", frozen_stages=1)


def test_features_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match=r"inception_v3: \(20, 20\) features at stride 4, needs \(24, 24\)"):
        backbone("inception_v3")(torch.zeros(1, 3, 96, 96))
