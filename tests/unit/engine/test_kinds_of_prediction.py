"""Models that predict other things than boxes, from training to figures of the published model."""

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_training import SIZE, TinyDetector, tiny_config, train
from torch import Tensor, nn

from detcore.data import KeypointLayout, Sample, write_split
from detcore.inference import Prediction, load_folder
from detcore.launch import evaluate_published
from detcore.structures.batch import Batch, Detections

PIXELS = ("ground", "square")
LAYOUT = KeypointLayout.of(("left_corner", "right_corner"), [(0, 1)])


def samples(count: int, *, seed: int, kind: str) -> list[Sample]:
    """A bright square on dark ground: as a semantic map, or as an object that is rotated or has keypoints."""
    rng = np.random.default_rng(seed)
    found = []
    for index in range(count):
        x, y = rng.integers(0, SIZE // 2, 2).tolist()
        image = rng.integers(20, 60, (SIZE, SIZE, 3), dtype=np.uint8)
        image[y : y + 12, x : x + 12] = 220
        semantic = np.zeros((SIZE, SIZE), np.uint8)
        semantic[y : y + 12, x : x + 12] = 1
        objects = {"boxes_xyxy": [[x, y, x + 12, y + 12]], "labels": [0]}
        parts = {
            "semantic": {"semantic": semantic},
            "rotated": {**objects, "boxes_xywha": [[x + 6, y + 6, 12, 12, 0]]},
            "keypoints": {**objects, "keypoints": [[[x, y, 2], [x + 12, y, 2]]]},
        }
        found.append(Sample(image=image, image_id=1000 * seed + index, **parts[kind]))  # type: ignore[arg-type]
    return found


def shards_of(folder: Path, kind: str) -> Path:
    for split, count, seed in (("train", 8, 1), ("val", 3, 2), ("test", 3, 3)):
        write_split(
            samples(count, seed=seed, kind=kind),
            folder,
            split=split,
            categories=() if kind == "semantic" else ("square",),
            name="squares",
            semantic_classes=PIXELS if kind == "semantic" else (),
            keypoints=LAYOUT if kind == "keypoints" else None,
        )
    return folder


class Painter(nn.Module):
    """Bright or dark, pixel by pixel; at a stride of 2."""

    predicts = ("semantic",)
    num_classes = 2

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Conv2d(3, 2, 1)

    def logits(self, batch: Batch) -> Tensor:
        out: Tensor = self.layer(nn.functional.avg_pool2d(batch.images, 2))
        return out

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        assert batch.targets is not None and batch.targets.semantic is not None
        target = batch.targets.semantic[:, ::2, ::2].long()
        return {"pixels": nn.functional.cross_entropy(self.logits(batch), target, ignore_index=255)}

    def detect(self, batch: Batch) -> Detections:
        nothing = torch.zeros(len(batch), 0)
        return Detections(
            torch.zeros(len(batch), 0, 4), nothing, nothing.long(), nothing.bool(), semantic=self.logits(batch).float()
        )


class Turned(TinyDetector):
    """Its boxes, said as rotated ones."""

    predicts = ("boxes", "rotated")

    def __init__(self) -> None:
        super().__init__(num_classes=1)

    def detect(self, batch: Batch) -> Detections:
        found = super().detect(batch)
        low, high = found.boxes_xyxy[..., :2], found.boxes_xyxy[..., 2:]
        turned = torch.cat(((low + high) / 2, high - low, torch.zeros_like(low[..., :1])), dim=-1)
        return replace(found, boxes_xywha=turned)


class Cornered(TinyDetector):
    """Its boxes, with their upper corners as keypoints."""

    predicts = ("boxes", "keypoints")

    def __init__(self) -> None:
        super().__init__(num_classes=1)

    def detect(self, batch: Batch) -> Detections:
        found = super().detect(batch)
        corners = torch.stack((found.boxes_xyxy[..., [0, 1]], found.boxes_xyxy[..., [2, 1]]), dim=-2)
        return replace(found, keypoints=torch.cat((corners, torch.ones_like(corners[..., :1])), dim=-1))


@pytest.mark.parametrize(
    ("kind", "model", "metric", "changes"),
    [
        ("semantic", Painter, "miou", {}),
        ("rotated", Turned, "rotated_ap50", {"engine__monitor": "rotated_ap50"}),
        ("keypoints", Cornered, "keypoint_ap", {"engine__evaluation": {"oks_sigmas": [0.1, 0.1]}}),
    ],
)
def test_from_training_to_figures(
    tmp_path: Path, kind: str, model: Callable[[], nn.Module], metric: str, changes: dict
) -> None:
    changes = {"engine__steps": 60, "optim__lr": 0.3, **changes} if kind == "semantic" else changes
    shards = shards_of(tmp_path / "shards", kind)
    config = tiny_config(tmp_path / "run", shards, tracking__enabled=False, **changes)
    result = train(model(), config)
    assert metric in result.metrics
    assert result.best_step is not None and result.model_dir is not None
    assert config.engine.monitored(result.metrics) == metric

    metrics = evaluate_published(config, model=model())
    folder = tmp_path / "run" / "evaluation"
    assert json.loads((folder / "metrics.json").read_text()) == pytest.approx(metrics)
    with (folder / "per_class.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == (list(PIXELS) if kind == "semantic" else ["square"])
    table = json.loads((folder / "per_class.json").read_text())
    assert {"class": rows[0]["class"], **{k: str(v) for k, v in table[rows[0]["class"]].items()}} == rows[0]
    if kind != "semantic":  # from which score on detections should be kept, and what that gives
        prefix = kind.removesuffix("s")
        assert 0 < table["square"][f"{prefix}_f1_score"] <= 1
    header = (folder / "pr_curve.csv").read_text().splitlines()[0]
    assert header == ("recall,mean" if kind == "semantic" else "recall,mean,square")
    assert (folder / f"{kind.removesuffix('s')}_pr_curve.csv").is_file() == (kind != "semantic")

    prediction = load_folder(result.model_dir, device="cpu", model=model()).predict(
        np.full((SIZE, SIZE, 3), 40, np.uint8), score_threshold=0.0
    )
    assert isinstance(prediction, Prediction)
    values = json.loads(json.dumps(prediction.to_dict()))
    if kind == "semantic":
        assert metrics["miou"] > 90.0
        assert [row["class_name"] for row in values["semantic"]] == ["ground"]
    elif kind == "rotated":
        assert len(values["detections"][0]["box_xywha"]) == 5
    else:
        assert values["keypoint_names"] == list(LAYOUT.names) and prediction.skeleton == ((0, 1),)
        assert np.shape(values["detections"][0]["keypoints"]) == (2, 3)
    assert prediction.draw().size == (720, 720)


def test_what_does_not_fit_is_said_before_training(tmp_path: Path) -> None:
    shards = shards_of(tmp_path / "shards", "semantic")
    with pytest.raises(ValueError, match=r"nothing to compare .*boxes: it has no object"):
        train(TinyDetector(num_classes=0), tiny_config(tmp_path / "a", shards))
    with pytest.raises(ValueError, match=r"engine\.monitor = pq is for panoptic, which Painter does not predict"):
        train(Painter(), tiny_config(tmp_path / "b", shards, engine__monitor="pq"))
    corners = shards_of(tmp_path / "corners", "keypoints")
    with pytest.raises(ValueError, match=r"sigmas are for 17 keypoints, the objects have 2"):
        train(Cornered(), tiny_config(tmp_path / "c", corners))
    with pytest.raises(
        ValueError, match=r"engine\.monitor = rotated_ap is for rotated; the data 'squares': 1 of 1|3 of 3"
    ):
        train(Turned(), tiny_config(tmp_path / "d", corners, engine__monitor="rotated_ap"))
    with pytest.raises(ValueError, match=r"monitor = boundary_iou needs evaluation\.boundary_iou = true"):
        tiny_config(tmp_path / "e", shards, engine__monitor="boundary_iou")
