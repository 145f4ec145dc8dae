"""Masks of regions: Mask R-CNN, arXiv:1703.06870, section 3 and figure 4 (right)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detcore.losses.mask import mask_loss
from detcore.models.initialization import for_relu, normal, start
from detcore.models.norm import conv_stack
from detcore.models.proposals.roi_sampling import TrainingRegions
from detcore.ops import multilevel_roi_align, polygon_roi_masks
from detcore.structures.batch import Polygons


class MaskLayers(nn.Module):
    """3x3 convolutions, a 2x upsampling one, and one mask for each class, on the pooled features of each region.

    Only the mask of the class that is asked for is computed.

    Args:
        in_channels: of the pooled features.
        num_classes: without the background.
        num_convs, conv_channels, norm: the 3x3 convolutions, their width, 'none' or 'gn'.
        class_agnostic: one mask for all classes instead of one for each.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        num_classes: int,
        num_convs: int,
        conv_channels: int,
        norm: str,
        class_agnostic: bool,
    ) -> None:
        super().__init__()
        self.class_agnostic = class_agnostic
        widths = [in_channels] + [conv_channels] * num_convs
        self.convs = conv_stack(widths, norm=norm)
        self.upsample = nn.ConvTranspose2d(widths[-1], conv_channels, kernel_size=2, stride=2)
        self.predictor = nn.Linear(conv_channels, 1 if class_agnostic else num_classes)
        start([self.upsample], for_relu)
        start([self.predictor], normal(0.001))

    def masks_of(self, pooled: Tensor, labels: Tensor) -> Tensor:
        """(B * R, C, S/2, S/2) pooled features and (B, R) classes -> (B, R, S, S) logits of each region's class."""
        return self._mask_of_class(self.convs(pooled), labels.flatten()).unflatten(0, labels.shape)

    def _mask_of_class(self, x: Tensor, labels: Tensor) -> Tensor:
        """(K, C, S/2, S/2) and (K,) -> (K, S, S).

        The upsampling convolution's windows do not overlap: it is a linear layer from a pixel to 2 x 2 finer ones, and
        faster as such.
        """
        count, channels, height, width = x.shape
        upsample, predictor = self.upsample, self.predictor
        assert upsample.bias is not None
        weight = upsample.weight.permute(2, 3, 1, 0).flatten(0, 2)  # (2 * 2 * C', C)
        x = F.linear(x.permute(0, 2, 3, 1).reshape(-1, channels), weight, upsample.bias.repeat(4))
        x = F.relu(x, inplace=True).view(count, -1, upsample.out_channels)
        classes = torch.zeros_like(labels) if self.class_agnostic else labels.clamp(max=predictor.out_features - 1)
        # Each region's row of the predictor by a product: the gradient of an index sorts, and adds one by one.
        chosen = F.one_hot(classes, predictor.out_features).to(x.dtype)
        logits = torch.bmm(x, (chosen @ predictor.weight).unsqueeze(-1)).squeeze(-1)
        logits = logits + (chosen @ predictor.bias)[:, None]
        finer = logits.view(count, height, width, 2, 2).permute(0, 1, 3, 2, 4)
        return finer.reshape(count, 2 * height, 2 * width)

    def losses_of(self, pooled: Tensor, regions: TrainingRegions, polygons: Polygons) -> dict[str, Tensor]:
        """loss_mask from pooled features (B * P, C, S/2, S/2) of the slots that may be positive; see `mask_loss`."""
        slots = regions.positive.shape[1]
        logits = self.masks_of(pooled, regions.labels[:, :slots])
        targets = polygon_roi_masks(polygons, regions.boxes_xyxy[:, :slots], regions.objects, logits.shape[-1])
        return mask_loss(
            logits=logits.flatten(0, 1), targets=targets.flatten(0, 1), positive=regions.positive.flatten()
        )


class MaskHead(MaskLayers):
    """Pools each region from the pyramid for `MaskLayers`.

    Args:
        in_channels: of the pyramid.
        strides: of its levels, in pixels.
        num_classes, num_convs, conv_channels, norm, class_agnostic: see `MaskLayers`.
        pooler_resolution: height and width of a pooled region; a mask has twice that.
        sampling_ratio: samples along each side of a pooled cell; 0 fits them to the region's size.
        aligned: see `multilevel_roi_align`.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        strides: Sequence[int],
        num_classes: int,
        pooler_resolution: int,
        sampling_ratio: int,
        num_convs: int,
        conv_channels: int,
        norm: str,
        class_agnostic: bool,
        aligned: bool = True,
    ) -> None:
        super().__init__(
            in_channels=in_channels,
            num_classes=num_classes,
            num_convs=num_convs,
            conv_channels=conv_channels,
            norm=norm,
            class_agnostic=class_agnostic,
        )
        self.strides, self.pooler_resolution, self.sampling_ratio = tuple(strides), pooler_resolution, sampling_ratio
        self.aligned = aligned

    def pool(self, features: Sequence[Tensor], boxes_xyxy: Tensor, valid: Tensor) -> Tensor:
        """P2.. and (B, R, 4) boxes with (B, R) valid -> (B * R, C, S/2, S/2)."""
        return multilevel_roi_align(
            features,
            boxes_xyxy,
            self.strides,
            self.pooler_resolution,
            self.sampling_ratio,
            valid=valid,
            aligned=self.aligned,
        )

    def forward(self, features: Sequence[Tensor], boxes_xyxy: Tensor, valid: Tensor, labels: Tensor) -> Tensor:
        """P2.., (B, R, 4) boxes, (B, R) valid and (B, R) classes -> (B, R, S, S) logits of each region's class."""
        return self.masks_of(self.pool(features, boxes_xyxy, valid), labels)

    def losses(self, features: Sequence[Tensor], regions: TrainingRegions, polygons: Polygons) -> dict[str, Tensor]:
        """loss_mask, computed on the slots alone that may be positive."""
        boxes = regions.boxes_xyxy[:, : regions.positive.shape[1]]
        return self.losses_of(self.pool(features, boxes, regions.positive), regions, polygons)
