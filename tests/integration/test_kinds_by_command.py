"""One small model of each kind of prediction, as a user would: prepare, train, evaluate, register, predict."""

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

pytestmark = pytest.mark.slow

RESNET18 = (
    "backbone.depth=18",
    "backbone.res2_channels=64",
    "backbone.stride_in_1x1=false",
    "backbone.weights=null",
    "neck.channels=32",
)
FEW_REGIONS = (
    "rpn.post_nms_topk_train=50",
    "rpn.post_nms_topk_test=50",
    "roi_sampling.samples_per_image=16",
    "box_head.fc_channels=64",
    "selection.score_threshold=0.0",  # untrained, it is sure of nothing
    "selection.max_detections=5",
)
SMALL = "[{type: resize_fixed, height: 96, width: 128}]"


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A recipe made small, what it is trained on, and what is said of an image."""

    recipe: str
    data: str
    metric: str
    changes: tuple[str, ...]
    says: tuple[str, ...] = ()
    """Keys of a detection, or of an image's predictions, in JSON."""


KINDS = {
    "boxes": Kind(
        recipe="faster_rcnn_r50_fpn", data="coco_mini", metric="box_ap", changes=FEW_REGIONS, says=("box_xyxy",)
    ),
    "masks": Kind(
        recipe="mask_rcnn_r50_fpn",
        data="coco_mini",
        metric="mask_ap",
        changes=(*FEW_REGIONS, "mask_head.conv_channels=16"),
        says=("mask",),
    ),
    "keypoints": Kind(
        recipe="keypoint_rcnn_r50_fpn",
        data="coco_mini_keypoints",
        metric="keypoint_ap",
        changes=(*FEW_REGIONS, "keypoint_head.conv_channels=[16]"),
        says=("keypoints",),
    ),
    "rotated": Kind(
        recipe="rotated_faster_rcnn_r50_fpn",
        data="hit_uav",
        metric="rotated_ap",
        changes=FEW_REGIONS,
        says=("box_xywha",),
    ),
    "semantic": Kind(
        recipe="semantic_r50_fpn",
        data="coco_mini_panoptic",
        metric="miou",
        changes=("semantic_head.channels=32",),
        says=("semantic",),
    ),
    "panoptic": Kind(
        recipe="panoptic_r50_fpn",
        data="coco_mini_panoptic",
        metric="pq",
        changes=(*FEW_REGIONS, "mask_head.conv_channels=16", "semantic_head.channels=32"),
        says=("mask", "panoptic"),
    ),
}


@pytest.mark.parametrize("name", KINDS)
def test_from_raw_images_to_drawn_predictions(name: str, shared: Path, repository: Path, tmp_path: Path) -> None:
    kind = KINDS[name]
    raw = shared / "data" / kind.data.removesuffix("_keypoints").removesuffix("_panoptic")
    settings = [
        f"model={kind.recipe}",
        *(f"model.{change}" for change in (*RESNET18, *kind.changes)),
        f"data={kind.data}",
        f"data.root={raw}",
        f"data.train_transforms={SMALL}",
        f"data.test_transforms={SMALL}",
        *(() if name == "rotated" else ("data.test_fraction=0.1",)),
        "engine=default",
        "engine.steps=3",
        "engine.batch_size=2",
        "engine.eval_every=3",
        f"engine.monitor={kind.metric}",
        "engine.device=cpu",
        "tracking.num_pictures=2",
        "cluster=local",
        f"name={name}",
    ]

    def run(*command: str) -> str:
        done = subprocess.run(
            [sys.executable, *command],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(repository)},
            capture_output=True,
            text=True,
            timeout=900,
        )
        assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
        return done.stdout

    for stage in ("prepare", "train", "evaluate", "report", "register"):
        run(str(repository / "pipelines" / f"{stage}.py"), *settings)
    folder = tmp_path / "runs" / name
    registered = json.loads((folder / "registered.json").read_text())
    assert kind.metric in registered["val"] and registered["test"]
    assert len(list((folder / "evaluation" / "pictures").glob("*.png"))) == 2
    assert not (folder / "tracking").exists()  # all that there was is in MLflow
    assert "</html>" in (folder / "report" / "report.html").read_text()
    assert list((tmp_path / "mlruns").rglob("artifacts/report/report.html"))
    logged = [path.name for path in (tmp_path / "mlruns").rglob("images/predictions*.png")]
    assert {place for name in logged for place in ("00", "01") if f"predictions~{place}" in name} == {"00", "01"}
    report = run(str(repository / "pipelines" / "register.py"), "--report", *settings)
    assert re.match(r"test +\w+ \d+\.\d", report)

    images = sorted((raw / "images").glob("*.jpg"))[:2]
    predict = ("-m", "detcore.cli", "predict", f"{name}@champion", *map(str, images), "--score", "0")
    words = run(*predict, "--out", "drawn", "--json", "found.json")
    assert len(words.splitlines()) == 2 and "nothing" not in words
    found = json.loads((tmp_path / "found.json").read_text())
    assert [image["image"] for image in found] == [str(path) for path in images]
    for key in kind.says:
        assert all(key in {*image, *(key for row in image["detections"] for key in row)} for image in found)
    assert [Image.open(tmp_path / "drawn" / path.name).size[0] >= 640 for path in images] == [True, True]
