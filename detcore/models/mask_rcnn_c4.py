"""Mask R-CNN without a pyramid: arXiv:1703.06870, figure 4 (left): boxes and masks share the features of a region."""

from torch import Tensor

from detcore.models.heads.mask_head import MaskLayers
from detcore.models.heads.res5_head import Res5Head, mean_over_places
from detcore.models.mask_rcnn import MaskRCNN, probabilities, required_polygons
from detcore.structures.batch import Batch


class MaskRCNNC4(MaskRCNN):
    """Mask R-CNN whose mask layers work on what the box head's res5 makes of each region.

    In training that is computed once for both; of detections it is computed anew, from the boxes that were found.
    """

    box_head: Res5Head
    mask_head: MaskLayers  # type: ignore[assignment]  # what it works on is pooled by the box head

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        polygons = required_polygons(batch)
        losses, features, regions = self._proposal_losses(batch)
        shared = self.box_head.region_features(features, regions.boxes, regions.valid)
        losses |= self.box_head.losses_of(mean_over_places(shared), regions, batch)
        positive = shared[:, : regions.positive.shape[1]].flatten(0, 1)
        return losses | self.mask_head.losses_of(positive, regions, polygons)

    def masks_of(self, features: list[Tensor], boxes_xyxy: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        shared = self.box_head.region_features(features, boxes_xyxy, valid)
        return probabilities(self.mask_head.masks_of(shared.flatten(0, 1), labels), valid)
