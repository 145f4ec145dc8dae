"""Which proposals are trained on, and what they are told to be, on numbers worked out by hand."""

from dataclasses import replace

import pytest
import torch

from detcore.models.proposals.roi_sampling import RegionSampler
from detcore.models.proposals.rpn import Proposals
from detcore.structures.batch import Batch, Targets

BOXES = torch.tensor(
    [
        [0.0, 0.0, 10.0, 10.0],  # the first object itself
        [0.0, 0.0, 10.0, 5.0],  # half of it: IoU 0.5 is positive
        [0.0, 0.0, 10.0, 4.9],
        [50.0, 50.0, 60.0, 60.0],
        [20.0, 20.0, 40.0, 40.0],  # padding, though it equals the second object
    ]
)
TARGETS = Targets(
    boxes_xyxy=torch.tensor([[[0.0, 0.0, 10.0, 10.0], [20.0, 20.0, 40.0, 40.0], [0.0, 0.0, 0.0, 0.0]]]),
    labels=torch.tensor([[4, 2, 0]]),
    valid=torch.tensor([[True, True, False]]),
)
BATCH = Batch(
    images=torch.zeros(1, 3, 64, 64),
    image_sizes=torch.tensor([[64, 64]]),
    sample_ids=torch.tensor([3]),
    real=torch.tensor([True]),
    original_sizes=torch.tensor([[64, 64]]),
    geometry=torch.eye(3)[None],
    rng_key=torch.tensor([0, 0]),
    targets=TARGETS,
)


@pytest.fixture
def proposals() -> Proposals:
    return Proposals(BOXES[None], torch.zeros(1, 5), torch.tensor([[True] * 4 + [False]]), torch.arange(5)[None])


def sampler(*, append_ground_truth: bool, samples_per_image: int = 100) -> RegionSampler:
    return RegionSampler(
        num_classes=5,
        samples_per_image=samples_per_image,
        positive_fraction=0.5,
        positive_iou=0.5,
        append_ground_truth=append_ground_truth,
    )


def test_matching(proposals: Proposals) -> None:
    regions = sampler(append_ground_truth=False)(proposals, BATCH, TARGETS)
    assert regions.valid.sum() == 4
    told = {tuple(box): label for box, label in zip(regions.boxes[0].tolist(), regions.labels[0].tolist(), strict=True)}
    assert told == {
        (0.0, 0.0, 10.0, 10.0): 4,
        (0.0, 0.0, 10.0, 5.0): 4,
        tuple(BOXES[2].tolist()): 5,
        (50.0, 50.0, 60.0, 60.0): 5,
        (0.0, 0.0, 0.0, 0.0): 5,  # what stayed empty
    }
    assert regions.object_boxes[0][regions.positive[0]].tolist() == [[0.0, 0.0, 10.0, 10.0]] * 2


def test_ground_truth_joins_the_proposals(proposals: Proposals) -> None:
    regions = sampler(append_ground_truth=True)(proposals, BATCH, TARGETS)
    assert regions.valid.sum() == 6 and regions.positive.sum() == 4
    second = (regions.boxes[0] == TARGETS.boxes_xyxy[0, 1]).all(dim=1)
    assert regions.labels[0][second].tolist() == [2] and regions.objects[0][second[: len(regions.objects[0])]] == 1


def test_slots_are_as_many_as_asked_for_and_positives_come_first(proposals: Proposals) -> None:
    regions = sampler(append_ground_truth=True, samples_per_image=4)(proposals, BATCH, TARGETS)
    assert regions.boxes.shape == (1, 4, 4) and regions.positive.tolist() == [[True, True]]
    assert (regions.labels[0, :2] < 5).all() and (regions.labels[0, 2:] == 5).all()


def test_an_empty_image_gives_no_regions(proposals: Proposals) -> None:
    regions = sampler(append_ground_truth=True)(proposals, replace(BATCH, real=torch.tensor([False])), TARGETS)
    assert not regions.valid.any() and not regions.positive.any()
