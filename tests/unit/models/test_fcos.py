"""FCOS against torchvision's with the same weights, and its assignment against the paper's rules, place by place."""

from collections import OrderedDict
from collections.abc import Callable

import pytest
import torch
import torchvision
from small_detectors import SMALL_DENSE
from torch import Tensor, nn

from detcore.config.model import FCOS
from detcore.models import build_model
from detcore.models.fcos import OBJECTS_AT_ONCE, assign_places, centreness_of
from detcore.structures.batch import Batch

SIZE = 256
"""P7 has a stride of 128; torchvision takes strides from whole quotients of the shapes."""


class Features(nn.Module):
    """Our backbone and neck, as torchvision wants them."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.out_channels = model, 64

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        return OrderedDict((str(level), x) for level, x in enumerate(self.model.features(images)))


@pytest.fixture(scope="module")
def ours() -> nn.Module:
    torch.manual_seed(0)
    # Where they differ: their places start at 0, they clip boxes before suppression, and their divisor is the batch's.
    section = FCOS(
        **{**SMALL_DENSE, "head": {"num_convs": 4}, "neck": {"channels": 64, "top": "p6p7_from_fpn"}},
        offset=0.0,
        normalizer="batch",
    )
    model = build_model(section, num_classes=3).double()
    # So that classes, boxes and centreness differ from place to place, and no box is empty: they keep empty ones.
    for layer, std in ((model.head.class_logits, 0.1), (model.head.box_offsets, 0.03), (model.head.centreness, 0.1)):
        nn.init.normal_(layer.weight, std=std)
    nn.init.constant_(model.head.box_offsets.bias, 4.0)
    return model


@pytest.fixture(scope="module")
def theirs(ours: nn.Module) -> nn.Module:
    model = torchvision.models.detection.FCOS(
        Features(ours), 3, min_size=SIZE, max_size=SIZE, image_mean=[0.0] * 3, image_std=[1.0] * 3, score_thresh=0.0,
        nms_thresh=0.6, detections_per_img=10, topk_candidates=60,
    ).double()  # fmt: skip
    head = ours.head
    for tower, sequence in (
        (head.class_tower, model.head.classification_head.conv),
        (head.box_tower, model.head.regression_head.conv),
    ):
        for index, layer in enumerate(tower):
            sequence[3 * index].load_state_dict(layer.conv.state_dict())
            sequence[3 * index + 1].load_state_dict(layer.norm.state_dict())
    model.head.classification_head.cls_logits.load_state_dict(head.class_logits.state_dict())
    model.head.regression_head.bbox_reg.load_state_dict(head.box_offsets.state_dict())
    model.head.regression_head.bbox_ctrness.load_state_dict(head.centreness.state_dict())
    return model


@pytest.fixture
def batch(make_batch: Callable[..., Batch]) -> Batch:
    batch = make_batch(size=SIZE)
    return batch.map(lambda tensor: tensor.double() if tensor.is_floating_point() else tensor)


def test_losses_are_torchvision_s(ours: nn.Module, theirs: nn.Module, batch: Batch) -> None:
    targets = [
        {"boxes": boxes[valid], "labels": labels[valid]}
        for boxes, labels, valid in zip(
            batch.targets.boxes_xyxy, batch.targets.labels, batch.targets.valid, strict=True
        )
    ]
    expected = theirs.train()(list(batch.images), targets)
    found = ours.train().losses(batch)
    assert found["loss_fcos_cls"].item() == pytest.approx(expected["classification"].item())
    assert found["loss_fcos_loc"].item() == pytest.approx(expected["bbox_regression"].item())
    assert found["loss_fcos_ctr"].item() == pytest.approx(expected["bbox_ctrness"].item())


@torch.no_grad()
def test_detections_are_torchvision_s(ours: nn.Module, theirs: nn.Module, batch: Batch) -> None:
    found = ours.eval().detect(batch)
    for image, expected in enumerate(theirs.eval()(list(batch.images))):
        assert found.valid[image].all() and len(expected["scores"]) == 10
        torch.testing.assert_close(found.scores[image], expected["scores"].float())
        torch.testing.assert_close(found.boxes_xyxy[image], expected["boxes"].float(), atol=1e-4, rtol=0)
        assert torch.equal(found.labels[image], expected["labels"])


def test_assignment_is_the_paper_s() -> None:
    """arXiv:1904.01355, section 3.2 and its centre sampling, place by place and object by object."""
    generator = torch.Generator().manual_seed(0)
    strides, count = (8, 16, 32), 2 * OBJECTS_AT_ONCE + 3
    anchors, levels, sizes = [], [], []
    for level, stride in enumerate(strides):
        line = (torch.arange(SIZE // stride) + 0.5) * stride
        places = torch.stack(torch.meshgrid(line, line, indexing="xy"), dim=-1).reshape(-1, 2)
        anchors.append(torch.cat((places - stride / 2, places + stride / 2), dim=1))
        levels += [level] * len(places)
        sizes.append(len(places))
    corner = 200 * torch.rand(2, count, 2, generator=generator)
    side = 4 + 200 * torch.rand(2, count, 2, generator=generator) ** 2
    boxes, valid = torch.cat((corner, corner + side), dim=-1), torch.rand(2, count, generator=generator) < 0.5
    matched, positive = assign_places(torch.cat(anchors), tuple(sizes), boxes, valid, 1.5)
    ranges = ((0.0, 64.0), (64.0, 128.0), (128.0, float("inf")))
    for image in range(2):
        for place, level in list(enumerate(levels))[::7]:
            x1, y1, x2, y2 = torch.cat(anchors)[place].tolist()
            x, y = (x1 + x2) / 2, (y1 + y2) / 2
            best, smallest = None, float("inf")
            for item in range(count):
                left, top, right, bottom = boxes[image, item].tolist()
                sides = (x - left, y - top, right - x, bottom - y)
                off = max(abs(x - (left + right) / 2), abs(y - (top + bottom) / 2))
                suits = min(sides) > 0 and ranges[level][0] < max(sides) < ranges[level][1]
                suits = suits and off < 1.5 * strides[level] and bool(valid[image, item])
                if suits and (right - left) * (bottom - top) < smallest:
                    best, smallest = item, (right - left) * (bottom - top)
            assert bool(positive[image, place]) == (best is not None)
            assert best is None or matched[image, place] == best
    assert 20 < positive.sum() < positive.numel()


def test_no_object_at_all() -> None:
    anchors = torch.tensor([[0.0, 0.0, 8.0, 8.0]])
    for capacity in (0, 2):
        nothing = torch.zeros(1, capacity, 4), torch.zeros(1, capacity, dtype=torch.bool)
        matched, positive = assign_places(anchors, (1,), *nothing, 1.5)
        assert matched.tolist() == [[0]] and positive.tolist() == [[False]]


def test_centreness() -> None:
    box = torch.tensor([[[0.0, 0.0, 40.0, 20.0]]])
    # left 10, right 30, top 5, bottom 15: sqrt(1/3 * 1/3)
    assert centreness_of(torch.tensor([[6.0, 1.0, 14.0, 9.0]]), box).item() == pytest.approx(1 / 3)
    assert centreness_of(torch.tensor([[16.0, 6.0, 24.0, 14.0]]), box).item() == 1.0
    assert centreness_of(torch.tensor([[56.0, 6.0, 64.0, 14.0]]), box).item() == 0.0
