"""Views of an image merged: what each view sees comes back to where it is."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from detcore.models.augmented import AugmentedBatch, AugmentedDetector
from detcore.models.selection import DetectionLimits
from detcore.structures.batch import Batch, Detections

LIMITS = DetectionLimits(score_threshold=0.05, nms_threshold=0.5, max_detections=4)
BOXES = torch.tensor([[[4.0, 8.0, 20.0, 24.0], [30.0, 30.0, 62.0, 50.0]]])
POINTS = torch.tensor([[[[6.0, 10.0], [18.0, 10.0]], [[32.0, 40.0], [60.0, 41.0]]]])
"""Of each box its left and its right."""


def view_of(batch: Batch, scale: float, *, mirrored: bool) -> Batch:
    size = int(64 * scale)
    geometry = torch.diag(torch.tensor([-scale if mirrored else scale, scale, 1.0]))
    geometry[0, 2] = size if mirrored else 0.0
    images = nn.functional.interpolate(batch.images, size=(size, size), mode="bilinear", antialias=True)
    return replace(
        batch,
        images=images.flip(-1) if mirrored else images,
        image_sizes=torch.full_like(batch.image_sizes, size),
        geometry=geometry.expand(len(batch), 3, 3),
    )


def augmented(batch: Batch, *views: tuple[float, bool]) -> AugmentedBatch:
    fields = {name: getattr(batch, name) for name in batch.__dataclass_fields__}
    return AugmentedBatch(
        **fields,
        views=tuple(view_of(batch, scale, mirrored=flip) for scale, flip in views),
        mirrored=tuple(flip for _, flip in views),
    )


class Seer(nn.Module):
    """Sees BOXES and POINTS of the first image exactly, in any view; scores differ, the mask is bright on the left."""

    predicts = ("boxes", "masks", "keypoints")

    def __init__(self, score: Callable[[Batch], float]) -> None:
        super().__init__()
        self.score = score

    def seen(self, batch: Batch) -> tuple[Tensor, Tensor]:
        linear, shift = batch.geometry[:1, :2, :2], batch.geometry[0, :2, 2]
        ends = BOXES.view(1, 4, 2) @ linear.mT + shift
        ends = ends.view(1, 2, 2, 2)
        boxes = torch.cat((ends.amin(2), ends.amax(2)), dim=-1)
        points = (POINTS.view(1, 4, 2) @ linear.mT + shift).view(1, 2, 2, 2)
        if batch.geometry[0, 0, 0] < 0:  # what is on the left of a mirror image is called left
            points = points.flip(2)
        return boxes, torch.cat((points, torch.tensor([0.9, 0.1]).expand(1, 2, 2)[..., None]), dim=-1)

    def detect(self, batch: Batch) -> Detections:
        boxes, keypoints = self.seen(batch)
        left = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
        masks = (left.flip(-1) if batch.geometry[0, 0, 0] < 0 else left).expand(1, 2, 2, 2)
        scores = torch.tensor([[0.5, 0.25]]) * self.score(batch)
        labels, valid = torch.tensor([[0, 1]]), torch.ones(1, 2, dtype=torch.bool)
        return Detections(boxes, scores, labels, valid, masks=masks, keypoints=keypoints)


class Describer(Seer):
    """Also says what it sees in given boxes: the mask's brightness is the view's scale."""

    def describe_boxes(self, batch: Batch, detections: Detections) -> Detections:
        boxes, keypoints = self.seen(batch)
        torch.testing.assert_close(detections.boxes_xyxy[:, :2], boxes)
        scale = batch.geometry[0, 0, 0].abs()
        masks = torch.zeros(1, 4, 2, 2)
        masks[..., 1 if batch.geometry[0, 0, 0] < 0 else 0] = scale
        return replace(detections, masks=masks, keypoints=nn.functional.pad(keypoints, (0, 0, 0, 0, 0, 2)))


@pytest.fixture
def one(make_batch: Callable[..., Batch]) -> Batch:
    return make_batch(images=1)


def test_boxes_of_all_views_fall_together(one: Batch) -> None:
    detector = AugmentedDetector(
        Seer(lambda batch: float(batch.geometry[0, 0, 0])), limits=LIMITS, mirrored_keypoints=(1, 0)
    )
    found = detector.detect(augmented(one, (0.5, False), (1.5, False), (1.0, True)))
    assert found.valid.tolist() == [[True, True, False, False]]
    torch.testing.assert_close(found.boxes_xyxy[:, :2], BOXES)
    torch.testing.assert_close(found.scores[:, :2], torch.tensor([[0.75, 0.375]]))  # those of the best view
    assert found.labels[0, :2].tolist() == [0, 1]
    torch.testing.assert_close(found.keypoints[:, :2, :, :2], POINTS)
    assert (found.masks[0, :2] == torch.tensor([[1.0, 0.0], [1.0, 0.0]])).all()
    assert not found.masks[0, 2:].any() and not found.keypoints[0, 2:].any()


def test_a_mirrored_view_is_mirrored_back(one: Batch) -> None:
    detector = AugmentedDetector(Seer(lambda _: 1.0), limits=LIMITS, mirrored_keypoints=(1, 0))
    found = detector.detect(augmented(one, (1.5, True)))
    torch.testing.assert_close(found.boxes_xyxy[:, :2], BOXES)
    torch.testing.assert_close(found.keypoints[:, :2, :, :2], POINTS)
    assert (found.masks[0, :2] == torch.tensor([[1.0, 0.0], [1.0, 0.0]])).all()
    assert found.keypoints[0, 0, :, 2].tolist() == pytest.approx([0.1, 0.9])  # scores change places with their points


def test_masks_and_keypoints_of_given_boxes_are_averaged(one: Batch) -> None:
    detector = AugmentedDetector(Describer(lambda _: 1.0), limits=LIMITS, mirrored_keypoints=(1, 0))
    found = detector.detect(augmented(one, (0.5, False), (1.0, True)))
    torch.testing.assert_close(found.masks[0, 0], torch.tensor([[0.75, 0.0], [0.75, 0.0]]))
    torch.testing.assert_close(found.keypoints[:, :2, :, :2], POINTS)
    torch.testing.assert_close(found.keypoints[0, 0, :, 2], torch.tensor([0.5, 0.5]))


def test_keypoints_in_a_mirror_need_to_be_told_apart(one: Batch) -> None:
    detector = AugmentedDetector(Seer(lambda _: 1.0), limits=LIMITS)
    with pytest.raises(ValueError, match="mirrored_keypoints"):
        detector.detect(augmented(one, (1.0, True)))
    detector.detect(augmented(one, (1.0, False)))


def test_what_cannot_be_merged_is_refused() -> None:
    model = nn.Module()
    model.predicts = ("boxes", "semantic")
    with pytest.raises(ValueError, match="Module predicts semantic: predict without it"):
        AugmentedDetector(model)


def test_one_plain_view_is_the_model_s_own(
    make_model: Callable[..., nn.Module], make_batch: Callable[..., Batch]
) -> None:
    model = make_model(selection={"max_detections": 10, "score_threshold": 0.01}).eval()
    batch = make_batch()
    batch = replace(batch, real=torch.tensor([True, False]))
    with torch.inference_mode():
        expected = model.detect(batch)
        found = AugmentedDetector(model).detect(augmented(batch, (1.0, False)))
    assert found.valid.any() and not found.valid[1].any()
    for name in ("boxes_xyxy", "scores", "labels", "valid", "masks"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), msg=name)


def test_a_mirrored_model_sees_the_mirror_image(
    make_model: Callable[..., nn.Module], make_batch: Callable[..., Batch]
) -> None:
    """A mirror of the mirror image is the image: both views of it give what the image gives, boxes mirrored."""
    model = make_model(selection={"max_detections": 10, "score_threshold": 0.01}).eval()
    batch = make_batch()
    with torch.inference_mode():
        found = AugmentedDetector(model).detect(augmented(batch, (1.0, False), (1.0, True)))
        mirror = replace(batch, images=batch.images.flip(-1))
        mirrored = AugmentedDetector(model).detect(augmented(mirror, (1.0, False), (1.0, True)))
    boxes = mirrored.boxes_xyxy[..., [2, 1, 0, 3]] * torch.tensor([-1, 1, -1, 1]) + torch.tensor([64, 0, 64, 0])
    torch.testing.assert_close(found.scores, mirrored.scores, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.boxes_xyxy[found.valid], boxes[mirrored.valid], atol=2e-3, rtol=1e-4)
    torch.testing.assert_close(found.masks, mirrored.masks.flip(-1), atol=1e-4, rtol=1e-4)
