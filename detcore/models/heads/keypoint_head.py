"""Keypoints of regions: Mask R-CNN, arXiv:1703.06870, section 5."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from detcore.losses.keypoint import keypoint_loss
from detcore.losses.normalizer import global_mean_divisor
from detcore.models.heads.heatmaps import heatmap_bins, keypoints_of_heatmaps
from detcore.models.initialization import for_relu, start
from detcore.models.norm import conv_stack
from detcore.models.proposals.roi_sampling import TrainingRegions
from detcore.ops import multilevel_roi_align
from detcore.structures.batch import Batch
from detcore.structures.boxes import at_least_float32


class KeypointHead(nn.Module):
    """Pools each region from the pyramid, then 3x3 convolutions, and a heatmap of each keypoint, upsampled twice by 2.

    Args:
        in_channels: of the pyramid.
        strides: of its levels, in pixels.
        num_keypoints: of an object.
        pooler_resolution: height and width of a pooled region; a heatmap has four times that.
        sampling_ratio: samples along each side of a pooled cell; 0 fits them to the region's size.
        aligned: see `multilevel_roi_align`.
        conv_channels: of each 3x3 convolution.
        visible_per_image: the loss is divided by so many keypoints an image; None: by those that count.
        loss_weight: of the loss.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        strides: Sequence[int],
        num_keypoints: int,
        pooler_resolution: int,
        sampling_ratio: int,
        conv_channels: Sequence[int],
        visible_per_image: float | None,
        loss_weight: float,
        aligned: bool = True,
    ) -> None:
        super().__init__()
        self.strides, self.num_keypoints = tuple(strides), num_keypoints
        self.pooler_resolution, self.sampling_ratio, self.aligned = pooler_resolution, sampling_ratio, aligned
        self.visible_per_image, self.loss_weight = visible_per_image, loss_weight
        widths = [in_channels, *conv_channels]
        self.convs = conv_stack(widths, norm="none")
        self.upsample = nn.ConvTranspose2d(widths[-1], num_keypoints, kernel_size=4, stride=2, padding=1)
        start([self.upsample], for_relu)

    def forward(self, features: Sequence[Tensor], boxes_xyxy: Tensor, valid: Tensor) -> Tensor:
        """P2.., (B, R, 4) boxes and (B, R) valid -> (B * R, K, S, S) logits of each keypoint's place."""
        pooled = multilevel_roi_align(
            features,
            boxes_xyxy,
            self.strides,
            self.pooler_resolution,
            self.sampling_ratio,
            valid=valid,
            aligned=self.aligned,
        )
        logits = self.upsample(self.convs(pooled))
        return F.interpolate(logits, scale_factor=2.0, mode="bilinear", align_corners=False)

    def predict(self, features: Sequence[Tensor], boxes_xyxy: Tensor, valid: Tensor, *, longest_side: int) -> Tensor:
        """P2.., (B, D, 4) boxes no longer than `longest_side` pixels and (B, D) valid -> (B, D, K, 3).

        x and y in pixels, and a score; 0 where not valid. See `keypoints_of_heatmaps`.
        """
        boxes = at_least_float32(boxes_xyxy)
        heatmaps = self(features, boxes, valid).to(boxes.dtype)
        found = keypoints_of_heatmaps(heatmaps, boxes.flatten(0, 1), longest_side=longest_side)
        return found.unflatten(0, valid.shape) * valid[..., None, None]

    def losses(
        self, features: Sequence[Tensor], regions: TrainingRegions, keypoints: Tensor, batch: Batch
    ) -> dict[str, Tensor]:
        """loss_keypoint of the labelled keypoints inside of positive regions, summed and divided.

        Args:
            features: P2...
            regions: those trained on; the slots alone count that may be positive.
            keypoints: (B, M, K, 3), the objects'.
            batch: says which images are real.

        Raises:
            ValueError: the objects have another number of keypoints.
        """
        if keypoints.shape[2] != self.num_keypoints:
            raise ValueError(
                f"objects have {keypoints.shape[2]} keypoints, the model {self.num_keypoints}: set "
                f"model.keypoint_head.num_keypoints={keypoints.shape[2]}"
            )
        boxes = regions.boxes[:, : regions.positive.shape[1]]
        index = regions.objects[..., None, None].expand(-1, -1, *keypoints.shape[2:])
        targets = keypoints.to(boxes.dtype).gather(1, index)
        logits = self(features, boxes, regions.positive)
        bins, inside = heatmap_bins(targets[..., :2], boxes, logits.shape[-1])
        counted = inside & (targets[..., 2] > 0) & regions.positive[..., None]
        if self.visible_per_image is None:
            divisor = global_mean_divisor(counted.sum().to(boxes.dtype))
        else:
            divisor = global_mean_divisor(batch.real.sum().to(boxes.dtype)) * self.visible_per_image
        loss = keypoint_loss(logits=logits, bins=bins.flatten(0, 1), counted=counted.flatten(0, 1))
        return {"loss_keypoint": loss / divisor * self.loss_weight}
