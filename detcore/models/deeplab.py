"""DeepLabV3 (arXiv:1706.05587) and DeepLabV3+ (arXiv:1802.02611)."""

from torch import Tensor

from detcore.models.backbones.backbone import Backbone
from detcore.models.heads.deeplab_head import DeepLabHead
from detcore.models.semantic_segmenter import SemanticSegmenter
from detcore.structures.batch import Batch


class DeepLab(SemanticSegmenter):
    """The class of every pixel, from a backbone with dilated last stages.

    DeepLabV3 where the backbone gives one feature map, DeepLabV3+ where it gives finer ones for the decoder too.
    """

    semantic_head: DeepLabHead

    def __init__(self, *, backbone: Backbone, semantic_head: DeepLabHead) -> None:
        super().__init__(backbone=backbone, semantic_head=semantic_head)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """loss_sem_seg: 0-dim, divided by the pixels over all ranks. ValueError without semantic targets."""
        features = self.features(batch.images)
        logits = self.semantic_head(features, self.semantic_head.kept(features[-1], batch))
        return self.semantic_head.losses(logits, batch)
