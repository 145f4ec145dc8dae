"""Frozen norms against torch's batch norm, and the folding of a norm into its convolution against doing both."""

import pytest
import torch
from torch import nn

from detcore.models.norm import ConvNorm, FrozenBatchNorm, freeze, make_norm, replace_batch_norm


def used_batch_norm(channels: int = 6) -> nn.BatchNorm2d:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(channels, eps=1e-3)
    for tensor in (norm.weight.data, norm.bias.data, norm.running_mean):
        tensor.normal_()
    norm.running_var.uniform_(0.5, 2)
    return norm.eval()


def test_frozen_norm_is_batch_norm_in_evaluation() -> None:
    norm, x = used_batch_norm(), torch.randn(2, 6, 5, 5)
    frozen = FrozenBatchNorm.of(norm).train()
    torch.testing.assert_close(frozen(x), norm(x), atol=1e-5, rtol=1e-5)
    assert not list(frozen.parameters())


def test_frozen_norm_keeps_the_dtype_of_its_input() -> None:
    assert FrozenBatchNorm.of(used_batch_norm())(torch.randn(1, 6, 2, 2).bfloat16()).dtype == torch.bfloat16


def test_folded_convolution_equals_convolution_then_norm() -> None:
    conv = ConvNorm(in_channels=4, out_channels=6, kernel_size=3, stride=2, norm="frozen_bn", relu=True)
    conv.norm = FrozenBatchNorm.of(used_batch_norm())
    x = torch.randn(2, 4, 9, 9)
    expected = conv.norm(nn.functional.conv2d(x, conv.weight, stride=2, padding=1)).relu()
    torch.testing.assert_close(conv(x), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("norm", "has_bias"), [("none", True), ("frozen_bn", False), ("bn", False), ("gn", False)])
def test_a_convolution_has_a_bias_only_without_norm(norm: str, has_bias: bool) -> None:
    conv = ConvNorm(in_channels=4, out_channels=8, kernel_size=1, norm=norm)
    assert (conv.bias is not None) == has_bias
    assert conv(torch.randn(2, 4, 3, 3)).shape == (2, 8, 3, 3)


def test_unknown_norm_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"unknown norm 'syncbn'.*frozen_bn"):
        make_norm("syncbn", 8)


@pytest.mark.parametrize(("channels", "groups"), [(256, 32), (64, 32), (40, 8), (112, 16), (7, 1)])
def test_group_norm_takes_the_most_groups_that_divide(channels: int, groups: int) -> None:
    norm = make_norm("gn", channels)
    assert isinstance(norm, nn.GroupNorm) and norm.num_groups == groups


def test_replacing_reaches_all_depths_and_freezing_fixes_all() -> None:
    body = nn.Sequential(nn.Conv2d(3, 6, 1), nn.Sequential(used_batch_norm(), nn.ReLU()))
    replace_batch_norm(body, FrozenBatchNorm.of)
    assert isinstance(body[1][0], FrozenBatchNorm)
    frozen = freeze(nn.Sequential(nn.Conv2d(3, 6, 1), used_batch_norm()))
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    assert isinstance(frozen[1], FrozenBatchNorm)
