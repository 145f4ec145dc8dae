"""Swin's shifted windows (arXiv:2103.14030, section 3.2) on maps whose sides are no multiples of a window's."""

from collections.abc import Callable

from timm.models.swin_transformer import SwinTransformerBlock
from timm.models.swin_transformer_v2 import SwinTransformerV2Block
from torch import Tensor, nn
from torch.nn import functional as F


def in_whole_windows(attention: Callable[[Tensor], Tensor], x: Tensor, window: tuple[int, int]) -> Tensor:
    """`attention` of a map (B, h, w, C) that is padded to whole windows before, and cut to (B, h, w, C) afterwards.

    timm pads what is shifted already: its masks, which are made for the padded size, then part the map's last rows
    and columns from their neighbours, and join them with the first ones.
    """
    height, width = x.shape[1:3]
    x = F.pad(x, (0, 0, 0, -width % window[1], 0, -height % window[0]))
    return attention(x)[:, :height, :width]


class SwinBlock(SwinTransformerBlock):
    def _attn(self, x: Tensor) -> Tensor:
        return in_whole_windows(super()._attn, x, self.window_size)


class SwinV2Block(SwinTransformerV2Block):
    def _attn(self, x: Tensor) -> Tensor:
        return in_whole_windows(super()._attn, x, self.window_size)


def replace_shifted_windows(module: nn.Module) -> None:
    """Makes timm's blocks below `module` pad before they shift."""
    for child in module.modules():
        if type(child) is SwinTransformerBlock:
            child.__class__ = SwinBlock
        elif type(child) is SwinTransformerV2Block:
            child.__class__ = SwinV2Block
