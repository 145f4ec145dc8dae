"""torchvision's detectors with random weights against ours with the same: torchvision itself is the reference."""

from collections.abc import Callable

import pytest
import torch
import torchvision.models.detection as theirs_of
from detectron2_reference import assert_boxes_equal_up_to_ties
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from detcore.config import model as config_of
from detcore.convert.torchvision import UNUSED_COCO_IDS, FromTorchvision, from_torchvision
from detcore.models.proposals.rpn import ProposalLimits
from detcore.structures.batch import Batch, Detections

HEIGHT, WIDTH, PADDED = 150, 200, (160, 224)
"""No multiple of 64 or 128: there, P6's and P7's anchors are closer together than their strides."""
PROPOSALS = 40
SPREAD = {"cls_score": 4.0, "cls_logits": 2.0, "bbox": 0.5, "kps": 3.0, "mask_fcn": 2.0}
"""Standard deviations that predictions get, by what their layers' names hold."""
UNUSED = torch.tensor(UNUSED_COCO_IDS)

CASES: dict[str, Callable[..., nn.Module]] = {
    "fasterrcnn_resnet50_fpn": theirs_of.fasterrcnn_resnet50_fpn,
    "maskrcnn_resnet50_fpn": theirs_of.maskrcnn_resnet50_fpn,
    "keypointrcnn_resnet50_fpn": theirs_of.keypointrcnn_resnet50_fpn,
    "retinanet_resnet50_fpn": theirs_of.retinanet_resnet50_fpn,
    "fcos_resnet50_fpn": theirs_of.fcos_resnet50_fpn,
    "fasterrcnn_resnet50_fpn_v2": theirs_of.fasterrcnn_resnet50_fpn_v2,
    "maskrcnn_resnet50_fpn_v2": theirs_of.maskrcnn_resnet50_fpn_v2,
    "retinanet_resnet50_fpn_v2": theirs_of.retinanet_resnet50_fpn_v2,
}


def made(name: str) -> nn.Module:
    """One of theirs as it is when it is published: norms of v1 backbones frozen, with the eps that they then have."""
    torch.manual_seed(len(name))
    sizes = {"min_size": HEIGHT, "max_size": WIDTH}
    limit = {"rpn_post_nms_top_n_test": PROPOSALS} if "rcnn" in name else {}
    model = CASES[name](weights=None, weights_backbone=None, **sizes, **limit)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.GroupNorm):
            nn.init.uniform_(module.weight, 0.3, 0.6)  # residuals add up
            nn.init.normal_(module.bias, std=0.1)
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            module.running_var[::7] = 2e-5  # where eps tells
            with torch.no_grad():
                module.weight[::7] *= 0.01
    if not name.endswith("v2"):
        freeze(model.backbone.body, eps=1e-5 if "fcos" in name else 0.0)
    return model.eval()


def freeze(module: nn.Module, *, eps: float) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            frozen = FrozenBatchNorm2d(child.num_features, eps=eps)
            frozen.load_state_dict({key: value for key, value in child.state_dict().items() if "num_" not in key})
            setattr(module, name, frozen)
        else:
            freeze(child, eps=eps)


@torch.no_grad()
def spread(model: nn.Module, image: Tensor) -> None:
    """Scales the layers that predict, so that scores and boxes differ, and silences what COCO's classes do not use."""

    def scaled(module: nn.Module, _: object, output: Tensor) -> Tensor:
        if module in done:
            return output
        done.add(module)
        factor = target[module] / output.std()
        module.weight.mul_(factor)
        shift = module.bias.clone()
        nn.init.normal_(module.bias, std=0.3)
        if len(module.bias) == 9 * 91:  # RetinaNet's
            module.bias.sub_(3.0)
        if len(module.bias) == 4:  # FCOS's distances, of which negative ones count as 0
            module.bias.add_(2.0)
        if len(module.bias) % 91 == 0 and not isinstance(module, nn.ConvTranspose2d) and len(module.bias) != 364:
            module.bias.view(-1, 91)[:, UNUSED] = -100.0
            if len(module.bias) != 91 or "dense" in name_of[module]:
                module.bias.view(-1, 91)[:, 0] = -100.0
            module.weight.view(-1, 91, *module.weight.shape[1:])[:, UNUSED] = 0.0
        view = (1, -1, *[1] * (output.dim() - 2))
        return (output - shift.view(view)) * factor + module.bias.view(view)

    target, name_of, hooks, done = {}, {}, [], set()
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear | nn.ConvTranspose2d) and "head.conv" not in name:
            for key, value in SPREAD.items():
                if key in name.rsplit(".", 1)[-1]:
                    target[module] = value
                    name_of[module] = "dense" if "classification" in name else ""
                    hooks.append(module.register_forward_hook(scaled))
    model([image])
    for hook in hooks:
        hook.remove()


def batch_of(image: Tensor, model: nn.Module) -> Batch:
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (model.image_mean, model.image_std))
    images = torch.zeros(1, 3, *PADDED)
    images[0, :, :HEIGHT, :WIDTH] = (image * 255 - mean) / std
    size = torch.tensor([[HEIGHT, WIDTH]])
    key = torch.tensor([0, 0])
    return Batch(images, size, torch.tensor([0]), torch.tensor([True]), size, torch.eye(3)[None], key)


class Pair:
    """One of theirs and ours with its weights, on one image."""

    def __init__(self, name: str) -> None:
        image = torch.rand(3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(3))
        self.theirs = made(name)
        spread(self.theirs, image)
        self.converted: FromTorchvision = from_torchvision(self.theirs.state_dict(), name=name)
        self.ours = self.converted.model.eval()
        self.batch = batch_of(image, self.ours)
        self.seen: dict[str, Tensor] = {}
        if hasattr(self.ours, "rpn"):
            limits = self.ours.rpn.test_limits
            assert limits == ProposalLimits(per_level=1000, total=1000)  # their defaults
            self.ours.rpn.test_limits = ProposalLimits(per_level=limits.per_level, total=PROPOSALS)
            self.theirs.rpn.register_forward_hook(lambda _, __, output: self.seen.update(proposals=output[0][0]))
        if hasattr(self.ours, "mask_head"):
            head = getattr(self.theirs.roi_heads, "mask_predictor", None)
            if head is not None:
                head.register_forward_hook(lambda _, __, output: self.seen.update(masks=output))
        with torch.no_grad():
            (found,) = self.theirs([image])
        some = (found["boxes"][:, 2:] > found["boxes"][:, :2]).all(dim=1)  # theirs of one stage keep empty boxes
        self.found = {key: value[some] for key, value in found.items()}

    def partners(self, found: Detections) -> Tensor:
        """Asserts that both find the same, and returns the index of each one's partner in theirs."""
        count = len(self.found["boxes"])
        assert count <= found.valid.sum() <= (count if hasattr(self.ours, "rpn") else self.ours.limits.max_detections)
        mine, scores = found.boxes_xyxy[0, :count], found.scores[0, :count]
        torch.testing.assert_close(scores, self.found["scores"], atol=1e-4, rtol=0)
        # Moved apart by class: boxes of several classes may be equal.
        place = self.label_of(found)[:count, None] * 1000.0
        return assert_boxes_equal_up_to_ties(
            mine + place, scores, self.found["boxes"] + self.found["labels"][:, None] * 1000.0, self.found["scores"]
        )

    def label_of(self, found: Detections) -> Tensor:
        """Our labels as their outputs' numbers."""
        if len(self.converted.labels) == 1:
            return found.labels[0] + 1
        kept = [index for index in range(1, 91) if index not in UNUSED_COCO_IDS]
        return torch.tensor(kept)[found.labels[0]]


@pytest.fixture(scope="module", params=CASES)
def pair(request: pytest.FixtureRequest) -> Pair:
    return Pair(request.param)


@torch.inference_mode()
def test_features(pair: Pair) -> None:
    ours = pair.ours.features(pair.batch.images)
    theirs = pair.theirs.backbone(pair.batch.images).values()
    for mine, other in zip(ours, theirs, strict=True):
        assert (mine - other).abs().max() <= 1e-4 * other.abs().max()


@torch.inference_mode()
def test_proposals(pair: Pair) -> None:
    if "proposals" not in pair.seen:
        pytest.skip("a detector of one stage")
    rpn = pair.ours.rpn
    predictions = rpn(pair.ours.features(pair.batch.images))
    found = rpn.propose(predictions, pair.batch.image_sizes, rpn.test_limits)
    theirs = pair.seen["proposals"]
    assert found.valid.sum() == len(theirs)
    torch.testing.assert_close(found.boxes[0][: len(theirs)], theirs, atol=1e-2, rtol=0)


@torch.inference_mode()
def test_detections(pair: Pair) -> None:
    found = pair.ours.detect(pair.batch)
    partner = pair.partners(found)
    assert len(partner) >= 5 and pair.found["scores"][0] - pair.found["scores"][-1] > 0.01
    if "masks" in pair.seen:
        logits = pair.seen["masks"][torch.arange(len(partner)), pair.found["labels"]]
        torch.testing.assert_close(found.masks[0][: len(partner)], logits.sigmoid()[partner], atol=1e-4, rtol=0)
    if "keypoints" in pair.found:
        theirs = pair.found["keypoints"][partner]
        mine = found.keypoints[0][: len(partner)]
        assert ((mine - theirs)[..., :2].abs() <= 1e-2).all(-1).float().mean() > 0.99  # equal pixels fall either way


def test_their_settings(pair: Pair) -> None:
    """As the attributes of torchvision's models have them."""
    config, theirs = pair.converted.config, pair.theirs
    if isinstance(config, config_of.Dense):
        selection, source = config.selection, theirs
        assert selection.candidates_per_level == theirs.topk_candidates
        assert selection.max_detections == theirs.detections_per_img
    else:
        selection, source = config.selection, theirs.roi_heads
        assert selection.max_detections == source.detections_per_img
        assert config.rpn.nms_threshold == theirs.rpn.nms_thresh
        assert config.rpn.post_nms_topk_train == theirs.rpn._post_nms_top_n["training"]
        assert config.rpn.pre_nms_topk_train == theirs.rpn._pre_nms_top_n["training"]
    assert (selection.score_threshold, selection.nms_threshold) == (source.score_thresh, source.nms_thresh)
    assert tuple(mean / 255 for mean in pair.ours.image_mean) == pytest.approx(theirs.transform.image_mean)
    assert tuple(std / 255 for std in pair.ours.image_std) == pytest.approx(theirs.transform.image_std)
