"""The synthetic batches are what a sampler would make of COCO's photographs."""

from collections import Counter

import numpy as np
import pytest
import torch

from detcore.bench.workload import MEAN_OBJECTS, Workload, coco_buckets, drawn_sizes, make_workload
from detcore.data.buckets import assign_buckets

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def workload() -> Workload:
    return make_workload(batch_size=2, device=CPU, dtype=torch.bfloat16, batches_each=1)


def test_padding_is_less_than_an_eighth(workload: Workload) -> None:
    assert 0 < workload.padding < 0.12


def test_a_bucket_comes_as_often_as_images_fall_into_it(workload: Workload) -> None:
    sizes = np.array([size for seed in range(32) for size in drawn_sizes(seed, 16)])
    buckets = coco_buckets(10, 32)
    images = Counter(buckets[place] for place in assign_buckets(sizes, buckets))
    steps = Counter(workload.order)
    assert len(workload.order) == 32
    for bucket, count in images.items():
        assert abs(steps[bucket] - 32 * count / len(sizes)) < 1.5


def test_buckets_take_turns(workload: Workload) -> None:
    """No bucket that is due more than once has all its steps in one half."""
    first, second = Counter(workload.order[:16]), Counter(workload.order[16:])
    assert all(first[bucket] and second[bucket] for bucket, count in Counter(workload.order).items() if count > 2)


def test_images_fit_their_bucket_and_objects_their_image(workload: Workload) -> None:
    counts = []
    for (height, width), batches in workload.batches.items():
        for batch in batches:
            targets = batch.targets
            assert targets is not None
            assert batch.images.shape == (2, 3, height, width)
            assert batch.images.is_contiguous(memory_format=torch.channels_last)
            assert (batch.image_sizes <= torch.tensor([height, width])).all()
            limits = batch.image_sizes.flip(-1).repeat(1, 2)[:, None]
            assert ((targets.boxes_xyxy >= 0) & (targets.boxes_xyxy <= limits + 1e-3)).all()
            assert (targets.boxes_xyxy[..., 2:] > targets.boxes_xyxy[..., :2])[targets.valid].all()
            counts += targets.valid.sum(dim=1).tolist()
    assert abs(np.mean(counts) - MEAN_OBJECTS) < 3 * np.sqrt(MEAN_OBJECTS / len(counts))


def test_the_same_again_is_the_same() -> None:
    first, second = (
        make_workload(batch_size=2, device=CPU, dtype=torch.float32, sides=[(64, 96)], steps=2) for _ in range(2)
    )
    assert first.order == second.order == ((64, 96),) * 2
    for one, other in zip(first.batches[64, 96], second.batches[64, 96], strict=True):
        assert one.targets is not None and other.targets is not None
        for a, b in zip(one.targets.tensors(), other.targets.tensors(), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_batches_have_what_a_model_trains_on() -> None:
    workload = make_workload(
        batch_size=2,
        device=CPU,
        dtype=torch.float32,
        sides=[(64, 96)],
        steps=1,
        num_classes=3,
        predicts=("keypoints", "rotated", "semantic"),
        num_keypoints=5,
        semantic_classes=4,
    )
    targets = next(workload.round()).targets
    assert targets is not None and targets.keypoints is not None
    assert targets.boxes_xywha is not None and targets.semantic is not None
    assert targets.labels.max() == 2
    points, boxes = targets.keypoints, targets.boxes_xyxy
    assert points.shape[2:] == (5, 3)
    assert targets.semantic.shape == (2, 64, 96) and targets.semantic.max() == 3
    centres = (boxes[..., :2] + boxes[..., 2:]) / 2
    torch.testing.assert_close(centres, targets.boxes_xywha[..., :2])
    assert (boxes[targets.valid] > -1e-3).all() and (boxes[..., 2] < 96 + 1e-3).all()
