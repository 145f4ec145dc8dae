"""Detectron2's names of tensors, as its checkpoints have them."""

from torch import Tensor

from detcore.config import model as config_of
from detcore.convert.detectron2_dense import dense_head_rules
from detcore.convert.detectron2_keypoint import KEYPOINT_HEAD_RULES
from detcore.convert.detectron2_semantic import semantic_head_rules
from detcore.convert.mvit import MVIT_RULES
from detcore.convert.names import Rule
from detcore.convert.timm_backbones import timm_rules
from detcore.convert.vit import vit_rules


def rules(config: config_of.ModelConfig) -> list[Rule]:
    """For the tensors of a model; a rule for a part stands before one for the whole."""
    if isinstance(config, config_of.Dense):
        return [*_backbone_rules(config), *dense_head_rules(config)]
    if isinstance(config, config_of.SemanticFPN | config_of.DeepLab):
        return [*semantic_head_rules(config), *_backbone_rules(config)]
    assert isinstance(config, config_of.Proposing)
    first = [*_backbone_rules(config), *_rpn_rules(config.rpn)]
    if not isinstance(config, config_of.RCNN):
        return first
    heads = [*_box_head_rules(config.box_head), *_MASK_HEAD_RULES, *KEYPOINT_HEAD_RULES]
    return [*semantic_head_rules(config), *first, *heads]


def _reversed(weight: Tensor) -> Tensor:
    """Theirs reads blue first."""
    return weight.flip(1)


def _fpn_rules(finest: int) -> list[Rule]:
    """`finest`: the logarithm of the first level's stride, which is its number there."""
    return [
        Rule("backbone.fpn_lateral{n}.", "neck.lateral.{n}.", -finest),
        Rule("backbone.fpn_output{n}.", "neck.output.{n}.", -finest),
        Rule("backbone.top_block.", "neck."),
    ]


def _backbone_rules(
    config: config_of.Proposing | config_of.Dense | config_of.SemanticFPN | config_of.DeepLab,
) -> list[Rule]:
    backbone = config.backbone
    if isinstance(backbone, config_of.ViTBackbone):
        return vit_rules(backbone)
    if isinstance(backbone, config_of.MViTBackbone):
        return [*_fpn_rules(2), *MVIT_RULES]
    if isinstance(backbone, config_of.TimmBackbone):
        stem = "stem.conv.weight"  # a RegNet's; a Swin Transformer's images are red first there, too
        reversed_stem = Rule(f"backbone.bottom_up.{stem}", f"backbone.body.{stem}", 0, _reversed, _reversed)
        finest = backbone.out_strides[0].bit_length() - 1
        return [reversed_stem, *_fpn_rules(finest), *timm_rules(backbone)]
    bare = isinstance(config, config_of.DeepLab) or config.neck.type == "none"
    prefix = "backbone." if bare else "backbone.bottom_up."
    stem = "stem.conv1.weight"
    return [
        Rule(f"{prefix}{stem}", f"backbone.{stem}", 0, _reversed, _reversed),
        *_fpn_rules(int(backbone.out_features[0].removeprefix("res"))),
        # Theirs stand beside the deformable convolution, ours in it.
        *(
            Rule(f"{prefix}{stage}.{{n}}.conv2_offset.", f"backbone.{stage}.{{n}}.conv2.offset.")
            for stage in ("res2", "res3", "res4", "res5")
        ),
        Rule(prefix, "backbone."),
    ]


def _rpn_rules(config: config_of.RPN) -> list[Rule]:
    # Theirs has no number where there is one convolution.
    one = len(config.conv_channels) == 1
    return [
        Rule("proposal_generator.rpn_head.conv.", "rpn.convs.0.")
        if one
        else Rule("proposal_generator.rpn_head.conv.conv{n}.", "rpn.convs.{n}."),
        Rule("proposal_generator.rpn_head.objectness_logits.", "rpn.objectness."),
        Rule("proposal_generator.rpn_head.anchor_deltas.", "rpn.box_offsets."),
    ]


_MASK_HEAD_RULES = [
    Rule("roi_heads.mask_head.mask_fcn{n}.", "mask_head.convs.{n}.", -1),
    Rule("roi_heads.mask_head.deconv.", "mask_head.upsample."),
    # Theirs is a 1x1 convolution.
    Rule(
        "roi_heads.mask_head.predictor.weight",
        "mask_head.predictor.weight",
        0,
        lambda weight: weight.flatten(1),
        lambda weight: weight[:, :, None, None],
    ),
    Rule("roi_heads.mask_head.", "mask_head."),
]


def _box_head_rules(config: config_of.AnyBoxHead) -> list[Rule]:
    if config.type == "cascade":
        places = [(f"{stage}.", f"stages.{stage}.") for stage in range(len(config.ious))]
    else:
        places = [("", "")]
    return [
        Rule("roi_heads.res5.", "box_head.res5."),
        *(
            rule
            for theirs, ours in places
            for rule in (
                Rule(f"roi_heads.box_head.{theirs}conv{{n}}.", f"box_head.{ours}convs.{{n}}.", -1),
                Rule(f"roi_heads.box_head.{theirs}fc{{n}}.", f"box_head.{ours}fcs.{{n}}.", -1),
                Rule(f"roi_heads.box_predictor.{theirs}cls_score.", f"box_head.{ours}class_logits."),
                Rule(f"roi_heads.box_predictor.{theirs}bbox_pred.", f"box_head.{ours}box_offsets."),
            )
        ),
    ]
