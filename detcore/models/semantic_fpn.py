"""Semantic FPN: arXiv:1901.02446, section 3, its semantic branch alone."""

from torch import Tensor

from detcore.models.backbones.backbone import Backbone, Neck
from detcore.models.heads.semantic_fpn_head import SemanticFPNHead
from detcore.models.semantic_segmenter import SemanticSegmenter


class SemanticFPN(SemanticSegmenter):
    """The class of every pixel, from a feature pyramid: its levels that regions would be pooled from."""

    def __init__(self, *, backbone: Backbone, neck: Neck, semantic_head: SemanticFPNHead) -> None:
        super().__init__(backbone=backbone, semantic_head=semantic_head)
        self.neck = neck

    def features(self, images: Tensor) -> list[Tensor]:
        return self.neck(super().features(images))[: self.neck.num_region_levels]
