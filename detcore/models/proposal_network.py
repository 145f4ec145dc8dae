"""The region proposal network as a detector of its own: arXiv:1506.01497, section 3."""

import torch
from torch import Tensor

from detcore.models.backbones.backbone import Backbone, Neck
from detcore.models.faster_rcnn import required_targets
from detcore.models.proposals.rpn import RPN
from detcore.models.proposals.stage import ProposalStage
from detcore.structures.batch import Batch, Detections


class ProposalNetwork(ProposalStage):
    """Boxes that may hold an object, of whatever class.

    Args:
        num_classes: of the data that it is trained on; none of them is told apart.
    """

    predicts: tuple[str, ...] = ("proposals",)

    def __init__(self, *, backbone: Backbone, neck: Neck, rpn: RPN, num_classes: int) -> None:
        super().__init__(backbone=backbone, neck=neck, rpn=rpn)
        self.num_classes = num_classes

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """loss_rpn_cls and loss_rpn_loc: 0-dim, divided by counts over all ranks."""
        targets = required_targets(batch)
        self.backbone.draw(batch)
        return self.rpn.losses(self.dense(batch.images)[1], batch, targets)

    def detect(self, batch: Batch) -> Detections:
        """The proposals: each has class 0, and the sigmoid of its objectness as its score."""
        proposals = self.rpn.propose(self.dense(batch.images)[1], batch.image_sizes, self.rpn.test_limits)
        valid = proposals.valid & batch.real[:, None]
        return Detections(
            boxes_xyxy=torch.where(valid[..., None], proposals.boxes, 0.0).float(),
            scores=torch.where(valid, proposals.logits.sigmoid(), 0.0).float(),
            labels=torch.zeros_like(proposals.anchors),
            valid=valid,
        )
