"""TensorFlow's 'same' padding where the sizes of feature maps are known to be multiples of the stride."""

from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn
from torch.nn import functional as F


class EvenlySamePaddedConv(nn.Conv2d):
    """timm's `Conv2dSame` for inputs whose sides are multiples of the stride.

    The padding does then not depend on the size: timm computes it anew from each input, and an exported graph of any
    size nests these formulas layer by layer, until tracing it takes minutes.
    """

    @classmethod
    def of(cls, conv: nn.Conv2d) -> "EvenlySamePaddedConv":
        """With the parameters of `conv`, shared."""
        same = cls(
            conv.in_channels,
            conv.out_channels,
            (conv.kernel_size[0], conv.kernel_size[1]),
            stride=(conv.stride[0], conv.stride[1]),
            dilation=(conv.dilation[0], conv.dilation[1]),
            groups=conv.groups,
            bias=conv.bias is not None,
            device="meta",
        )
        same.weight, same.bias = conv.weight, conv.bias
        return same

    def forward(self, x: Tensor) -> Tensor:
        sides = []  # left, right, top, bottom
        for kernel_size, stride, dilation in zip(
            reversed(self.kernel_size), reversed(self.stride), reversed(self.dilation), strict=True
        ):
            total = max((kernel_size - 1) * dilation + 1 - stride, 0)
            sides += [total // 2, total - total // 2]
        return self._conv_forward(F.pad(x, sides), self.weight, self.bias)


def replace_same_padding(module: nn.Module) -> None:
    """Puts ours in place of timm's below `module`."""
    for name, child in module.named_children():
        if type(child) is Conv2dSame:
            setattr(module, name, EvenlySamePaddedConv.of(child))
        else:
            replace_same_padding(child)
