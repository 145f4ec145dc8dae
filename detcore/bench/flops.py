"""The arithmetic of a call, counted."""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import detcore.ops  # noqa: F401  (declares the operators)


def flops_of(call: Callable[[], object]) -> int:
    """Of matrix products, convolutions and attention, forward and backward, a multiply-add as 2.

    RoIAlign, suppression and pointwise steps are left out.
    """
    # Attention's fused kernels are not all counted; the plain one has the same products.
    counter = FlopCounterMode(display=False, custom_mapping=_own_operators())
    with warnings.catch_warnings(), sdpa_kernel(SDPBackend.MATH), counter:
        warnings.simplefilter("ignore")
        call()
    return int(counter.get_total_flops())


def _own_operators() -> dict[Any, Any]:
    """How FlopCounterMode counts those of our operators that multiply."""

    def multiplied(weight: Any, out_shape: Any) -> int:
        batch, channels, height, width = out_shape
        return int(2 * batch * channels * height * width * weight[1] * weight[2] * weight[3])

    def convolution(_input: Any, weight: Any, *_: Any, out_shape: Any, **__: Any) -> int:
        return multiplied(weight, out_shape)

    def deformable(_input: Any, _offset: Any, weight: Any, *_: Any, out_shape: Any, **__: Any) -> int:
        return multiplied(weight, out_shape)

    def deformable_backward(grad: Any, _input: Any, _offset: Any, weight: Any, *_: Any, **__: Any) -> int:
        return 2 * multiplied(weight, grad)  # of what was read, and of the weight

    own = torch.ops.detcore
    return {
        own.conv2d_act: convolution,
        own.deform_conv2d: deformable,
        own.deform_conv2d_backward: deformable_backward,
    }
