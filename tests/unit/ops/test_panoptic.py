"""Merging objects and stuff against the plain rule, and one image from detections on."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from detcore.ops import PanopticLimits, merge_panoptic, panoptic
from detcore.structures.batch import Batch, Detections

LIMITS = PanopticLimits(instance_confidence=0.4, overlap_threshold=0.5, stuff_area_limit=20)


def plainly(masks, scores, classes, limits):  # type: ignore[no-untyped-def]
    """The merging of arXiv:1901.02446, section 4.1, an object at a time."""
    ids, number, of_objects, of_classes = np.zeros(classes.shape, int), 0, {}, {}
    for index in sorted(range(len(scores)), key=lambda i: -scores[i]):
        area = masks[index].sum()
        if scores[index] < limits.instance_confidence or area == 0:
            continue
        if (masks[index] & (ids > 0)).sum() / area > limits.overlap_threshold:
            continue
        number += 1
        ids[masks[index] & (ids == 0)] = of_objects[index] = number
    for label in np.unique(classes):
        place = (classes == label) & (ids == 0)
        if label > 0 and place.sum() >= limits.stuff_area_limit:
            number += 1
            ids[place] = of_classes[int(label)] = number
    return ids, of_objects, of_classes


@pytest.mark.parametrize("seed", range(5))
def test_equals_the_plain_rule(seed: int) -> None:
    rng = np.random.default_rng(seed)
    masks = np.zeros((12, 20, 30), dtype=bool)
    for mask in masks[1:]:
        y, x = rng.integers(0, 12), rng.integers(0, 20)
        mask[y : y + rng.integers(1, 10), x : x + rng.integers(1, 12)] = True
    scores = rng.permutation(12) / 12
    classes = rng.integers(0, 5, (4, 6)).repeat(5, axis=0).repeat(5, axis=1)
    ids, things, stuff = merge_panoptic(
        torch.from_numpy(masks), torch.from_numpy(scores), torch.from_numpy(classes), 6, LIMITS
    )
    expected, of_objects, of_classes = plainly(masks, scores, classes, LIMITS)
    assert ids.dtype == torch.int32
    assert np.array_equal(ids.numpy(), expected)
    assert things.tolist() == [of_objects.get(index, 0) for index in range(12)]
    assert stuff.tolist() == [of_classes.get(label, 0) for label in range(6)]


def test_no_objects_and_no_stuff() -> None:
    nothing = torch.zeros(0, 4, 6, dtype=torch.bool), torch.zeros(0)
    ids, things, stuff = merge_panoptic(*nothing, torch.zeros(4, 6, dtype=torch.long), 3, LIMITS)
    assert not ids.any() and things.shape == (0,) and not stuff.any()


def batch_and_detections() -> tuple[Batch, Detections]:
    """A raw image of 20 x 40 pixels seen at half that size in the corner of 16 x 32."""
    semantic = torch.zeros(1, 3, 4, 8)
    semantic[:, 1] = 1.0
    batch = Batch(
        images=torch.zeros(1, 3, 16, 32),
        image_sizes=torch.tensor([[10, 20]]),
        sample_ids=torch.tensor([0]),
        real=torch.tensor([True]),
        original_sizes=torch.tensor([[20, 40]]),
        geometry=torch.diag(torch.tensor([0.5, 0.5, 1.0]))[None],
        rng_key=torch.tensor([0, 0]),
    )
    detections = Detections(
        boxes_xyxy=torch.tensor([[[2.0, 1, 7, 5], [2, 1, 7, 5], [10, 0, 20, 10], [0, 0, 0, 0]]]),
        scores=torch.tensor([[0.9, 0.8, 0.3, 0.0]]),
        labels=torch.tensor([[5, 6, 7, 0]]),
        valid=torch.tensor([[True, True, True, False]]),
        masks=torch.ones(1, 4, 8, 8),
        semantic=semantic,
    )
    return batch, detections


def test_an_image_at_its_own_size() -> None:
    batch, detections = batch_and_detections()
    ids, segments = panoptic(detections, batch, 0, LIMITS)
    # The best object's box is x 4..14, y 2..10 there; the second lies under it, the third is not sure enough.
    expected = torch.full((20, 40), 2, dtype=torch.int32)
    expected[2:10, 4:14] = 1
    assert torch.equal(ids, expected)
    thing, stuff = segments
    assert (thing.id, thing.is_thing, thing.category, thing.area) == (1, True, 5, 80)
    assert thing.score == pytest.approx(0.9)
    assert (stuff.id, stuff.is_thing, stuff.category, stuff.score, stuff.area) == (2, False, 1, None, 720)


def test_masks_and_classes_of_pixels_are_needed() -> None:
    batch, detections = batch_and_detections()
    for field in ("masks", "semantic"):
        with pytest.raises(ValueError, match="panoptic_fpn"):
            panoptic(replace(detections, **{field: None}), batch, 0, LIMITS)
