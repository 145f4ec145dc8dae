"""Real people's keypoints as the network is told them, evaluated as if it had said them."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from detcore.config import load
from detcore.data import ShardedSplit, build_loader, prepare
from detcore.engine.evaluate import ground_truth
from detcore.evaluation import Evaluator, coco, instances
from detcore.models.heads.heatmaps import heatmap_bins
from detcore.structures.batch import Detections, Targets

HEATMAP = 56
"""Pixels of a heatmap's side, as published models have them."""


@pytest.fixture(scope="module")
def split(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ShardedSplit]:
    shards = tmp_path_factory.mktemp("shards")
    raw = shared / "data" / "coco_mini"
    config = load(overrides=["data=coco_mini_keypoints", f"data.root={raw}", f"data.shards={shards}"])
    prepare(config.data, seed=0, progress=False)
    opened = ShardedSplit.open(shards, "val")
    yield opened
    opened.close()


def keypoint_ap(split: ShardedSplit, detections_of: Callable[[Targets], Detections]) -> float:
    evaluator = Evaluator(ground_truth(split), predicts=("keypoints",))
    data = load(overrides=["data=coco_mini_keypoints", "data.root=."]).data
    with build_loader(
        split, data, train=False, batch_size=4, seed=0, image_mean=(0,) * 3, image_std=(1,) * 3, device="cpu"
    ) as batches:
        for batch in batches:
            evaluator.add(batch, detections_of(batch.targets))
    return evaluator.compute().metrics["keypoint_ap"]


def everybody(targets: Targets) -> Detections:
    """Of one score; the points of people who have none lie in the image's corner."""
    scores = targets.valid.float()
    return Detections(targets.boxes_xyxy, scores, targets.labels, targets.valid, keypoints=targets.keypoints)


def without_unlabelled(targets: Targets) -> Detections:
    return replace(everybody(targets), valid=targets.valid & (targets.keypoints[..., 2] > 0).any(dim=2))


def unlabelled_in_their_boxes(targets: Targets) -> Detections:
    low, high = targets.boxes_xyxy[..., None, :2], targets.boxes_xyxy[..., None, 2:]
    middle = torch.nn.functional.pad((low + high) / 2, (0, 1), value=1.0)
    labelled = (targets.keypoints[..., 2:] > 0).any(dim=2, keepdim=True)
    return replace(everybody(targets), keypoints=torch.where(labelled, targets.keypoints, middle))


def in_heatmaps(targets: Targets) -> Detections:
    """In the middle of the heatmap's pixel that each is trained as; the few outside of their boxes as they are."""
    given = targets.keypoints[..., :2]
    bins, inside = heatmap_bins(given, targets.boxes_xyxy, HEATMAP)
    place = torch.stack((bins % HEATMAP, bins // HEATMAP), dim=-1) + 0.5
    low, high = targets.boxes_xyxy[..., None, :2], targets.boxes_xyxy[..., None, 2:]
    points = torch.where(inside[..., None], low + place / HEATMAP * (high - low), given)
    return replace(without_unlabelled(targets), keypoints=torch.nn.functional.pad(points, (0, 1), value=1.0))


@pytest.mark.parametrize("accumulate", [coco.accumulate_hotcoco, coco.accumulate_pycocotools])
def test_people_without_labelled_points(
    split: ShardedSplit, accumulate: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """COCO ignores them, and detections whose points lie around their boxes; no others, however well boxes agree.

    What targets say of them, all points at 0, is thus a wrong detection: 28 of 44, as certain as the right ones.
    """
    monkeypatch.setattr(instances, "accumulate", accumulate)
    people = split.to_coco()["annotations"]
    assert (len(people), sum(person["num_keypoints"] > 0 for person in people)) == (44, 16)
    assert keypoint_ap(split, without_unlabelled) == pytest.approx(100.0)
    assert keypoint_ap(split, unlabelled_in_their_boxes) > 95.0  # a person before another can be taken for that one
    assert keypoint_ap(split, everybody) == pytest.approx(42.5, abs=0.1)


def test_a_heatmap_s_pixels_are_fine_enough(split: ShardedSplit) -> None:
    assert keypoint_ap(split, in_heatmaps) == pytest.approx(100.0)
