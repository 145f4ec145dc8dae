"""Every recipe of conf/model trains by its command: 3 steps of small pictures on the CPU, evaluated and kept."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.slow

CONF = Path(__file__).resolve().parents[2] / "conf" / "model"
RECIPES = [path for path in sorted(CONF.glob("*.yaml")) if path.stem != "published"]  # which another test trains
RAW = {
    "coco_mini": "coco_mini",
    "coco_mini_keypoints": "coco_mini",
    "coco_mini_panoptic": "coco_mini",
    "hit_uav": "hit_uav",
}
DATA = {
    "keypoint_rcnn": "coco_mini_keypoints",
    "panoptic_fpn": "coco_mini_panoptic",
    "semantic_fpn": "coco_mini_panoptic",
    "deeplab": "coco_mini_panoptic",
    "rotated_faster_rcnn": "hit_uav",
    "rotated_retinanet": "hit_uav",
}
MONITOR = {
    "rpn": "proposal_ar100",
    "semantic_fpn": "miou",
    "deeplab": "miou",
    "rotated_faster_rcnn": "rotated_ap",
    "rotated_retinanet": "rotated_ap",
}
FEW = {"roi_sampling.samples_per_image": 32, "selection.max_detections": 10}  # regions, for heads of full size
FEW_PROPOSALS = {"rpn.post_nms_topk_train": 100, "rpn.post_nms_topk_test": 50}
ONE_STAGE = ("retinanet", "fcos", "rotated_retinanet")
WITHOUT_BOXES = ("semantic_fpn", "deeplab")
SMALL = "[{type: resize_fixed, height: 96, width: 128}]"


def fewer(type_of_detector: str) -> list[str]:
    """Overrides by which an image takes seconds; the network stays the recipe's."""
    if type_of_detector in WITHOUT_BOXES:
        return []
    if type_of_detector in ONE_STAGE:
        limits = {"selection.max_detections": 10}
    elif type_of_detector == "rpn":
        limits = FEW_PROPOSALS
    else:
        limits = {**FEW, **FEW_PROPOSALS}
    return [f"model.{key}={value}" for key, value in limits.items()]


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    """Each data set is prepared once, by the first recipe that needs it."""
    return tmp_path_factory.mktemp("shards")


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_trains(recipe: Path, shards: Path, shared: Path, repository: Path, tmp_path: Path) -> None:
    section = yaml.safe_load(recipe.read_text())
    data = DATA.get(section["type"], "coco_mini")
    overrides = [
        f"model={recipe.stem}",
        f"data={data}",
        f"data.root={shared / 'data' / RAW[data]}",
        f"data.shards={shards / data}",
        f"data.train_transforms={SMALL}",
        f"data.test_transforms={SMALL}",
        "engine=default",
        f"engine.monitor={MONITOR.get(section['type'], 'box_ap')}",
        "engine.steps=3",
        "engine.batch_size=2",
        "engine.checkpoint_every=2",
        "engine.eval_every=3",
        "engine.device=cpu",
        "cluster=local",
        "tracking.enabled=false",
        f"run_dir={tmp_path / 'run'}",
        *fewer(section["type"]),
    ]
    if section.get("backbone", {}).get("weights") == "pretrained":  # they may not be on this machine
        overrides.append("model.backbone.weights=none")
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    done = subprocess.run(
        [sys.executable, "pipelines/train.py", *overrides],
        cwd=repository,
        env=environment,
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    assert list((tmp_path / "run" / "checkpoints").rglob("*.safetensors"))
    assert (tmp_path / "run" / "model" / "model.json").is_file()
