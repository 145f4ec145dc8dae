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


class MaskHead(nn.Module):
    """Pools each region from the pyramid, then 3x3 convolutions, a 2x upsampling one, and one mask for each class.

    Only the mask of the class that is asked for is computed.

    Args:
        in_channels: of the pyramid.
        strides: of its levels, in pixels.
        num_classes: without the background.
        pooler_resolution: height and width of a pooled region; a mask has twice that.
        sampling_ratio: samples along each side of a pooled cell; 0 fits them to the region's size.
        num_convs, conv_channels, norm: the 3x3 convolutions, their width, 'none' or 'gn'.
        class_agnostic: one mask for all classes instead of one for each.
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
    ) -> None:
        super().__init__()
        self.strides, self.class_agnostic = tuple(strides), class_agnostic
        self.pooler_resolution, self.sampling_ratio = pooler_resolution, sampling_ratio
        widths = [in_channels] + [conv_channels] * num_convs
        self.convs = conv_stack(widths, norm=norm)
        self.upsample = nn.ConvTranspose2d(widths[-1], conv_channels, kernel_size=2, stride=2)
        self.predictor = nn.Linear(conv_channels, 1 if class_agnostic else num_classes)
        start([self.upsample], for_relu)
        start([self.predictor], normal(0.001))

    def forward(self, features: Sequence[Tensor], boxes_xyxy: Tensor, valid: Tensor, labels: Tensor) -> Tensor:
        """P2.., (B, R, 4) boxes, (B, R) valid and (B, R) classes -> (B, R, S, S) logits of each region's class."""
        pooled = multilevel_roi_align(
            features, boxes_xyxy, self.strides, self.pooler_resolution, self.sampling_ratio, valid=valid
        )
        logits = self._mask_of_class(self.convs(pooled), labels.flatten())
        return logits.unflatten(0, boxes_xyxy.shape[:2])

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
        logits = torch.bmm(x, predictor.weight[classes].unsqueeze(-1).to(x.dtype)).squeeze(-1)
        logits = logits + predictor.bias[classes, None]
        finer = logits.view(count, height, width, 2, 2).permute(0, 1, 3, 2, 4)
        return finer.reshape(count, 2 * height, 2 * width)

    def losses(self, features: Sequence[Tensor], regions: TrainingRegions, polygons: Polygons) -> dict[str, Tensor]:
        """loss_mask, computed on the slots alone that may be positive; see `mask_loss`."""
        boxes = regions.boxes_xyxy[:, : regions.positive.shape[1]]
        labels = regions.labels[:, : regions.positive.shape[1]]
        targets = polygon_roi_masks(polygons, boxes, regions.objects, 2 * self.pooler_resolution)
        logits = self(features, boxes, regions.positive, labels)
        return mask_loss(
            logits=logits.flatten(0, 1), targets=targets.flatten(0, 1), positive=regions.positive.flatten()
        )
