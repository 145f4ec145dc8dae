"""The operators a detector's speed is decided by.

Every function is defined for empty inputs and for NaN and infinite coordinates. What a training step uses has outputs
whose shapes depend on the shapes of its inputs alone.
"""

from detcore.ops.box_losses import ciou_loss, diou_loss, giou_loss
from detcore.ops.conv_act import conv2d_act
from detcore.ops.deform_conv import deform_conv2d
from detcore.ops.group_norm import group_norm_act
from detcore.ops.losses import sigmoid_focal_loss
from detcore.ops.mask_rle import paste_masks_rle
from detcore.ops.masks import paste_masks, polygon_roi_masks
from detcore.ops.matching import match_anchors, match_anchors_rotated
from detcore.ops.ms_deform_attn import ms_deform_attn
from detcore.ops.multilevel_roi_align import multilevel_roi_align, multilevel_roi_align_rotated
from detcore.ops.nms import batched_nms, nms, nms_padded
from detcore.ops.panoptic import PanopticLimits, PanopticSegment, merge_panoptic, panoptic
from detcore.ops.random import keyed_uniform
from detcore.ops.roi_align import roi_align
from detcore.ops.roi_align_rotated import roi_align_rotated
from detcore.ops.rotated import batched_nms_rotated, box_iou_rotated, nms_rotated, nms_rotated_padded
from detcore.ops.semantic import semantic_map
from detcore.ops.soft_nms import soft_nms_padded
from detcore.ops.warp import warp_normalize
from detcore.ops.warp_nearest import warp_nearest

__all__ = [
    "PanopticLimits",
    "PanopticSegment",
    "batched_nms",
    "batched_nms_rotated",
    "box_iou_rotated",
    "ciou_loss",
    "conv2d_act",
    "deform_conv2d",
    "diou_loss",
    "giou_loss",
    "group_norm_act",
    "keyed_uniform",
    "match_anchors",
    "match_anchors_rotated",
    "merge_panoptic",
    "ms_deform_attn",
    "multilevel_roi_align",
    "multilevel_roi_align_rotated",
    "nms",
    "nms_padded",
    "nms_rotated",
    "nms_rotated_padded",
    "panoptic",
    "paste_masks",
    "paste_masks_rle",
    "polygon_roi_masks",
    "roi_align",
    "roi_align_rotated",
    "semantic_map",
    "sigmoid_focal_loss",
    "soft_nms_padded",
    "warp_nearest",
    "warp_normalize",
]
