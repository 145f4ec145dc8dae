"""Every family learns 8 real images by heart, through the real pipeline: raw folder, prepare, fit, evaluation.

What is trained on is evaluated on, so a metric short of 90 means that something is wrong between an annotation and its
metric: targets, losses, boxes' coding, resizing back, selection. For a GPU; on a CPU each family takes an hour.
"""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from detcore.config import Config
from detcore.data import prepare
from detcore.engine import FitResult, Start, fit, pick_device
from detcore.evaluation import Evaluation
from detcore.launch.job import Job

pytestmark = pytest.mark.slow

BAR = 90.0
"""In percent."""

# 8 images of each kind of annotation, of few and large objects.
OBJECTS = (107438, 358083, 216794, 196393, 525891, 213148, 121647, 408805)
PERSONS = (234748, 442450, 790, 165518, 519208, 160012, 229358, 214753)
SEGMENTS = (72, 73, 508, 309, 436, 30, 459, 450)
VEHICLES = (968, 48, 808, 992, 136, 928, 752, 152)


@dataclass(frozen=True, kw_only=True)
class Raw:
    """Where the 8 images of a kind come from: annotation files below `folder`, and how detcore reads them."""

    format: str
    folder: str
    files: tuple[str, ...]
    image_ids: tuple[int, ...]
    angles: str | None = None
    ignore: tuple[str, ...] = ()


RAW = {
    "objects": Raw(format="coco", folder="coco_mini", files=("annotations/instances_train.json",), image_ids=OBJECTS),
    "persons": Raw(
        format="coco",
        folder="coco_mini",
        files=("annotations/person_keypoints_train.json", "annotations/person_keypoints_val.json"),
        image_ids=PERSONS,
    ),
    "segments": Raw(
        format="coco_panoptic", folder="coco_mini", files=("annotations/panoptic_train.json",), image_ids=SEGMENTS
    ),
    "vehicles": Raw(
        format="coco_rotated",
        folder="hit_uav",
        files=("rotated_train.json",),
        image_ids=VEHICLES,
        angles="radians_cw",
        ignore=("DontCare",),
    ),
}

RESNET18: dict[str, Any] = {
    "type": "resnet",
    "depth": 18,
    "res2_channels": 64,
    "stride_in_1x1": False,
    "frozen_stages": 0,
    "norm": "gn",
}
HALF_RESNET50: dict[str, Any] = {**RESNET18, "depth": 50, "res2_channels": 128, "width_per_group": 32}
VIT: dict[str, Any] = {
    "type": "vit",
    "channels": 192,
    "depth": 6,
    "num_heads": 3,
    "window_size": 8,
    "global_blocks": [2, 5],
    "pretraining_size": 256,
    "table_size": 320,
    "square_size": None,
    "drop_path": 0.0,
}
FPN = {"channels": 128, "norm": "gn"}
SIZES = (16.0, 32.0, 64.0, 128.0, 256.0)
RPN: dict[str, Any] = {
    "anchors": {"sizes": [[size] for size in SIZES]},
    "pre_nms_topk_train": 500,
    "pre_nms_topk_test": 500,
    "post_nms_topk_train": 300,
    "post_nms_topk_test": 300,
}
RCNN: dict[str, Any] = {
    "backbone": RESNET18,
    "neck": FPN,
    "rpn": RPN,
    "roi_sampling": {"samples_per_image": 128, "positive_fraction": 0.5},
    "box_head": {"fc_channels": 512, "sampling_ratio": 2},
}
ONE_MAP: dict[str, Any] = {
    **RCNN,
    "backbone": {**HALF_RESNET50, "out_features": ["res4"]},
    "neck": {"type": "none"},
    "rpn": {**RPN, "anchors": {"sizes": [list(SIZES)]}},
    "box_head": {"type": "res5", "sampling_ratio": 2},
}
MASK_HEAD = {"num_convs": 4, "conv_channels": 128, "sampling_ratio": 2}
OCTAVES = [[size * 2 ** (third / 3) for third in range(3)] for size in (24.0, 48.0, 96.0, 192.0, 384.0)]
DENSE: dict[str, Any] = {
    "backbone": {**RESNET18, "out_features": ["res3", "res4", "res5"]},
    "neck": {**FPN, "top": "p6p7_from_fpn"},
    "head": {"num_convs": 2, "norm": "gn"},
}


@dataclass(frozen=True, kw_only=True)
class Family:
    """A detector, the images it learns, and the metric that is to reach `BAR`."""

    model: dict[str, Any]
    raw: str = "objects"
    metric: str = "box_ap"
    steps: int = 800
    eval_every: int = 100
    lr: float = 5e-4
    height: int = 256
    width: int = 320


FAMILIES = {
    "faster_rcnn": Family(model={"type": "faster_rcnn", **RCNN}),
    "faster_rcnn_c4": Family(model={"type": "faster_rcnn", **ONE_MAP}),
    "faster_rcnn_dc5": Family(
        model={
            "type": "faster_rcnn",
            **ONE_MAP,
            "backbone": {
                **HALF_RESNET50,
                "out_features": ["res5"],
                "res5_dilation": 2,
                "deform_stages": [False, True, True, True],
                "deform_modulated": True,
            },
            "box_head": RCNN["box_head"],
        }
    ),
    # The regions that overlap the best one are among those that are counted, too.
    "rpn": Family(
        model={"type": "rpn", "backbone": RESNET18, "neck": FPN, "rpn": {**RPN, "nms_threshold": 0.9}},
        metric="proposal_ar100",
    ),
    "mask_rcnn": Family(model={"type": "mask_rcnn", **RCNN, "mask_head": MASK_HEAD}, metric="mask_ap"),
    "cascade_mask_rcnn": Family(
        model={
            "type": "mask_rcnn",
            **RCNN,
            "box_head": {**RCNN["box_head"], "type": "cascade"},
            "mask_head": MASK_HEAD,
        },
        metric="mask_ap",
    ),
    "point_rend": Family(
        model={
            "type": "point_rend",
            **RCNN,
            "mask_head": {"conv_channels": 128, "fc_channels": 512},
            "point_head": {"fc_channels": 128},
        },
        metric="mask_ap",
    ),
    "mask_rcnn_vitdet": Family(
        model={
            "type": "mask_rcnn",
            **RCNN,
            "backbone": VIT,
            "neck": {"type": "simple_pyramid", "channels": 128},
            "rpn": {**RPN, "conv_channels": [None, None]},
            "box_head": {**RCNN["box_head"], "num_convs": 2, "conv_channels": 128, "norm": "ln"},
            "mask_head": {**MASK_HEAD, "norm": "ln"},
        },
        metric="mask_ap",
    ),
    "keypoint_rcnn": Family(
        model={
            "type": "keypoint_rcnn",
            **RCNN,
            "keypoint_head": {"conv_channels": [256] * 4, "sampling_ratio": 2},
        },
        raw="persons",
        metric="keypoint_ap",
    ),
    "retinanet": Family(model={"type": "retinanet", **DENSE, "anchors": {"sizes": OCTAVES}}),
    "fcos": Family(model={"type": "fcos", **DENSE}),
    "rotated_faster_rcnn": Family(
        model={"type": "rotated_faster_rcnn", **RCNN}, raw="vehicles", metric="rotated_ap", height=512, width=640
    ),
    "rotated_retinanet": Family(
        model={"type": "rotated_retinanet", **DENSE, "anchors": {"sizes": OCTAVES}},
        raw="vehicles",
        metric="rotated_ap",
        height=512,
        width=640,
    ),
    "semantic_fpn": Family(
        model={"type": "semantic_fpn", "backbone": RESNET18, "neck": FPN}, raw="segments", metric="miou"
    ),
    "deeplab": Family(
        model={
            "type": "deeplab",
            "backbone": {**HALF_RESNET50, "type": "deeplab_resnet"},
            "semantic_head": {"aspp_channels": 128, "decoder_channels": 128, "norm": "gn", "dropout": 0.0},
        },
        raw="segments",
        metric="miou",
    ),
    "panoptic_fpn": Family(model={"type": "panoptic_fpn", **RCNN, "mask_head": MASK_HEAD}, raw="segments", metric="pq"),
}


class UntilReached:
    """The worker and the callback of a training that leaves once `metric` has reached `BAR`."""

    rank, world_size, local_rank = 0, 1, 0

    def __init__(self, metric: str) -> None:
        self.device: torch.device = pick_device("auto")
        self.metric = metric
        self.reached = False

    def report(self, metrics: dict[str, float], checkpoint: Path | None) -> None: ...

    def stop_requested(self) -> bool:
        return self.reached

    def on_start(self, start: Start) -> None: ...

    def on_log(self, step: int, metrics: Mapping[str, float]) -> None: ...

    def on_evaluate(self, step: int, metrics: Mapping[str, float], evaluation: Evaluation) -> None:
        self.reached = metrics[self.metric] >= BAR

    def on_end(self, result: FitResult) -> None: ...


def write_subset(raw: Raw, data: Path, root: Path) -> dict[str, dict[str, str]]:
    """A raw folder of the 8 images, as train and again as val; what `data.splits` is to be."""
    parts = [json.loads((data / raw.folder / file).read_text()) for file in raw.files]
    merged = {**parts[0]}
    for section, key in (("images", "id"), ("annotations", "image_id")):
        merged[section] = [entry for part in parts for entry in part[section] if entry[key] in raw.image_ids]
    assert len(merged["images"]) == len(raw.image_ids)
    splits = {}
    for split in ("train", "val"):
        (root / split).mkdir(parents=True)
        (root / f"{split}.json").write_text(json.dumps(merged))
        names = [image.get("file_name") or image["filename"] for image in merged["images"]]
        link(names, data / raw.folder / "images", root / split)
        if raw.format == "coco_panoptic":
            maps = (data / raw.folder / raw.files[0]).with_suffix("")
            link([entry["file_name"] for entry in merged["annotations"]], maps, root / f"{split}_maps")
            (root / f"{split}.json").rename(root / f"{split}_maps.json")
        annotations = f"{split}_maps.json" if raw.format == "coco_panoptic" else f"{split}.json"
        splits[split] = {"annotations": annotations, "images": split}
    return splits


def link(names: Sequence[str], source: Path, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).symlink_to(source / name)


def config_of(name: str, family: Family, data: Path, folder: Path) -> Config:
    raw = RAW[family.raw]
    resize = {"type": "resize_fixed", "height": family.height, "width": family.width}
    return Config(
        name=name,
        run_dir=str(folder / "run"),
        model={"name": name, **family.model},
        data={
            "name": family.raw,
            "format": raw.format,
            "root": str(folder / "raw"),
            "splits": write_subset(raw, data, folder / "raw"),
            "angles": raw.angles,
            "ignore": raw.ignore,
            "test_fraction": 0.0,
            "shards": str(folder / "shards"),
            "threads": 2,
            "train_transforms": [resize],
            "test_transforms": [resize],
        },
        optim={
            "type": "adamw",
            "lr": family.lr,
            "clip_norm": 5.0,
            "warmup_steps": 50,
            "schedule": {"type": "cosine", "final_factor": 0.01},
        },
        engine={
            "steps": family.steps,
            "batch_size": 8,
            "eval_every": family.eval_every,
            "checkpoint_every": family.steps,
            "keep_checkpoints": 1,
            "monitor": family.metric,
        },
        cluster={"type": "local"},
        tracking={"enabled": False, "registered_name": name},
    )


def overfit(config: Config) -> FitResult:
    prepare(config.data, seed=config.seed, progress=False)
    until = UntilReached(str(config.engine.monitor))
    model = Job(config=config).build_model()
    return fit(model, config=config, shards=Path(config.data.shards), worker=until, callbacks=[until])


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Weights do not outlive the test: all families' are gigabytes."""
    yield tmp_path
    for part in ("checkpoints", "model"):
        shutil.rmtree(tmp_path / "run" / part, ignore_errors=True)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_overfits(name: str, shared: Path, folder: Path) -> None:
    family = FAMILIES[name]
    result = overfit(config_of(name, family, shared / "data", folder))
    shown = {key: round(value, 1) for key, value in result.metrics.items() if not key.startswith("val_")}
    print(f"{name}: step {result.step}, {shown}")
    assert result.metrics[family.metric] >= BAR, (
        f"{name} has {family.metric} {result.metrics[family.metric]:.1f} after {result.step} steps"
    )
