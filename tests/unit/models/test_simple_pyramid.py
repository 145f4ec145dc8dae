"""The simple feature pyramid and the norm it uses, against their definitions."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detcore.models.backbones.simple_pyramid import SimplePyramid
from detcore.models.norm import ChannelLayerNorm, ConvNorm


def by_definition(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    mean, variance = x.mean(1, keepdim=True), x.var(1, keepdim=True, unbiased=False)
    return (x - mean) / (variance + 1e-6).sqrt() * norm.weight.view(-1, 1, 1) + norm.bias.view(-1, 1, 1)


def pyramid(**arguments: object) -> SimplePyramid:
    torch.manual_seed(0)
    settings = {"in_channels": (16,), "in_strides": (16,), "channels": 8, "norm": "ln", **arguments}
    neck = SimplePyramid(**settings)
    with torch.no_grad():
        for parameter in neck.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return neck


def test_layer_norm_is_over_channels() -> None:
    norm = ChannelLayerNorm(num_channels=6)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = torch.randn(2, 6, 3, 5)
    torch.testing.assert_close(norm(x), by_definition(x, norm))
    channels_last = norm(x.to(memory_format=torch.channels_last))
    assert channels_last.is_contiguous(memory_format=torch.channels_last)


def test_levels() -> None:
    """arXiv:2203.16527, section 3: deconvolutions of stride 2, and 1 x 1 and 3 x 3 convolutions with layer norm."""
    neck, x = pyramid(), torch.randn(2, 16, 4, 6)
    levels = neck([x])
    assert neck.strides == (4, 8, 16, 32, 64) and neck.num_region_levels == 4
    assert [tuple(level.shape[1:]) for level in levels] == [(8, 16, 24), (8, 8, 12), (8, 4, 6), (8, 2, 3), (8, 1, 2)]

    def convolved(x: Tensor, first: ConvNorm, second: ConvNorm) -> Tensor:
        x = by_definition(F.conv2d(x, first.weight), first.norm)
        return by_definition(F.conv2d(x, second.weight, padding=1), second.norm)

    def doubled(x: Tensor, layer: nn.ConvTranspose2d) -> Tensor:
        return F.conv_transpose2d(x, layer.weight, layer.bias, stride=2)

    fourfold, norm, _, last, *convs = neck.levels[0]
    finest = convolved(doubled(F.gelu(by_definition(doubled(x, fourfold), norm)), last), *convs)
    torch.testing.assert_close(levels[0], finest, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(levels[1], convolved(doubled(x, neck.levels[1][0]), *neck.levels[1][1:]))
    torch.testing.assert_close(levels[2], convolved(x, *neck.levels[2]))
    torch.testing.assert_close(levels[3], convolved(F.max_pool2d(x, 2), *neck.levels[3][1:]))
    torch.testing.assert_close(levels[4], levels[3][..., ::2, ::2])


@pytest.mark.parametrize("norm", ["none", "gn"])
def test_other_norms(norm: str) -> None:
    neck = pyramid(norm=norm)
    assert (neck.levels[2][0].bias is not None) == (norm == "none")
    assert len(neck([torch.randn(2, 16, 4, 4)])) == 5


@pytest.mark.parametrize("given", [{"in_channels": (16, 32), "in_strides": (8, 16)}, {"in_strides": (2,)}])
def test_one_map_at_a_multiple_of_four(given: dict[str, tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match="takes one feature map whose stride and width are multiples of 4"):
        pyramid(**given)
