"""DeepLab's classes of pixels: ASPP, arXiv:1706.05587, section 3.3, and the decoder, arXiv:1802.02611, section 3.1."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detcore.losses.semantic import semantic_loss
from detcore.models.initialization import keep_variance, normal, start
from detcore.models.norm import ConvNorm
from detcore.ops import keyed_uniform
from detcore.structures.batch import Batch

RANDOM_SITE = 31
"""Keys this module's random numbers; every place that draws has its own."""


def _conv(in_channels: int, out_channels: int, kernel_size: int, norm: str, *, rate: int = 1) -> ConvNorm:
    """With ReLU; starts so that it keeps the variance."""
    conv = ConvNorm(
        in_channels=in_channels, out_channels=out_channels, kernel_size=kernel_size, dilation=rate, norm=norm, relu=True
    )
    start([conv], keep_variance)
    return conv


def _separable(in_channels: int, out_channels: int, kernel_size: int, norm: str, *, rate: int = 1) -> nn.Sequential:
    """A convolution of each channel by itself, then one of all channels at each place: arXiv:1802.02611, figure 3."""
    depthwise = ConvNorm(
        in_channels=in_channels,
        out_channels=in_channels,
        kernel_size=kernel_size,
        dilation=rate,
        groups=in_channels,
        norm=norm,
        relu=True,
    )
    pointwise = ConvNorm(in_channels=in_channels, out_channels=out_channels, kernel_size=1, norm=norm, relu=True)
    return nn.Sequential(depthwise, pointwise)


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: one map seen at several rates and as a whole, side by side.

    Args:
        in_channels, channels: of the input; of every branch and of the output.
        rates: dilations of the 3x3 branches.
        norm: 'none', 'bn' or 'gn'; the branch of the whole image has none.
        separable: whether the 3x3 branches are depthwise separable.
        pool_window: height and width, in places of the input, of what the branch of the whole image averages over;
            None for the whole input, which a larger window comes to as well.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        channels: int,
        rates: Sequence[int],
        norm: str,
        separable: bool,
        pool_window: tuple[int, int] | None,
    ) -> None:
        super().__init__()
        self.pool_window = pool_window
        spread = _separable if separable else _conv
        self.branches = nn.ModuleList([_conv(in_channels, channels, 1, norm)])
        self.branches.extend(spread(in_channels, channels, 3, norm, rate=rate) for rate in rates)
        self.whole = _conv(in_channels, channels, 1, "none")
        self.project = _conv((len(rates) + 2) * channels, channels, 1, norm)

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[-2:]
        if self.pool_window is None:
            pooled = x.mean(dim=(2, 3), keepdim=True)
        else:
            pooled = F.avg_pool2d(x, (min(self.pool_window[0], size[0]), min(self.pool_window[1], size[1])), stride=1)
        whole = F.interpolate(self.whole(pooled), size=size, mode="bilinear", align_corners=False)
        return self.project(torch.cat([*(branch(x) for branch in self.branches), whole], dim=1))


class DeepLabHead(nn.Module):
    """ASPP over the coarsest feature map, then a decoder that takes finer ones in, one after the other.

    Without finer maps it is DeepLabV3's head, with one DeepLabV3+'s.

    Args:
        in_channels, in_strides: of the features, finest first.
        num_classes: all that a pixel may be.
        aspp_channels, aspp_rates, pool_size: see `ASPP`; pool_size is its window in pixels of the images.
        dropout: fraction of the ASPP's outputs that are left out in training.
        low_level_channels: what each finer map is narrowed to, finest first.
        decoder_channels: of the decoder's convolutions.
        separable: whether they and ASPP's are depthwise separable; the decoder then has one 5x5 for two 3x3 ones.
        norm: 'none', 'bn' or 'gn'.
        hardest_pixels: see `semantic_loss`.
        loss_weight: the loss is multiplied by it.

    Raises:
        ValueError: the number of widths is not that of the finer maps.
    """

    def __init__(
        self,
        *,
        in_channels: Sequence[int],
        in_strides: Sequence[int],
        num_classes: int,
        aspp_channels: int,
        aspp_rates: Sequence[int],
        pool_size: tuple[int, int] | None,
        dropout: float,
        low_level_channels: Sequence[int],
        decoder_channels: int,
        separable: bool,
        norm: str,
        hardest_pixels: float,
        loss_weight: float,
    ) -> None:
        super().__init__()
        if len(low_level_channels) != len(in_channels) - 1:
            raise ValueError(
                f"model.semantic_head.low_level_channels has {len(low_level_channels)} widths, but the backbone gives "
                f"{len(in_channels) - 1} maps besides the last: see model.backbone.out_features"
            )
        self.num_classes, self.dropout, self.hardest_pixels = num_classes, dropout, hardest_pixels
        self.aspp_channels, self.loss_weight = aspp_channels, loss_weight
        stride = in_strides[-1]
        self.aspp = ASPP(
            in_channels=in_channels[-1],
            channels=aspp_channels,
            rates=aspp_rates,
            norm=norm,
            separable=separable,
            pool_window=None if pool_size is None else (max(1, pool_size[0] // stride), max(1, pool_size[1] // stride)),
        )
        self.narrow, self.fuse = nn.ModuleList(), nn.ModuleList()
        for index, (width, narrowed) in enumerate(zip(in_channels[:-1], low_level_channels, strict=True)):
            coarser = aspp_channels if index == len(low_level_channels) - 1 else decoder_channels
            self.narrow.append(_conv(width, narrowed, 1, norm))
            if separable:
                self.fuse.append(_separable(narrowed + coarser, decoder_channels, 5, norm))
            else:
                first = _conv(narrowed + coarser, decoder_channels, 3, norm)
                self.fuse.append(nn.Sequential(first, _conv(decoder_channels, decoder_channels, 3, norm)))
        self.predictor = nn.Conv2d(decoder_channels if low_level_channels else aspp_channels, num_classes, 1)
        start([self.predictor], normal(0.001))

    def forward(self, features: Sequence[Tensor], kept: Tensor | None = None) -> Tensor:
        """Features, finest first, and what ASPP's output is multiplied by -> logits at the finest one's stride."""
        x = self.aspp(features[-1])
        if kept is not None:
            x = x * kept.to(x.dtype)
        finer = zip(features[:-1], self.narrow, self.fuse, strict=True)
        for feature, narrow, fuse in reversed(list(finer)):
            narrowed = narrow(feature)
            x = F.interpolate(x, size=narrowed.shape[-2:], mode="bilinear", align_corners=False)
            x = fuse(torch.cat((narrowed, x), dim=1))
        return self.predictor(x)

    def kept(self, coarsest: Tensor, batch: Batch) -> Tensor | None:
        """Dropout of ASPP's output for a coarsest map (B, C, h, w): (B, A, h, w) of 0 and 1 / (1 - dropout), or None.

        Drawn by the sample and the place, so that a batch spread over ranks drops what it would have dropped on one.
        """
        if not self.training or self.dropout == 0.0:
            return None
        height, width = coarsest.shape[-2:]
        candidates = torch.arange(height * width * self.aspp_channels, device=coarsest.device)
        seed, step = batch.rng_key.unbind()
        keys = keyed_uniform(seed, step, batch.sample_ids, RANDOM_SITE, candidates)
        kept = keys.view(-1, height, width, self.aspp_channels).permute(0, 3, 1, 2) >= self.dropout
        return kept / (1.0 - self.dropout)

    def losses(self, logits: Tensor, batch: Batch) -> dict[str, Tensor]:
        """loss_sem_seg; see `semantic_loss`."""
        losses = semantic_loss(logits=logits, batch=batch, hardest=self.hardest_pixels)
        return {name: loss * self.loss_weight for name, loss in losses.items()}
