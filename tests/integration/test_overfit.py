"""Every family learns 8 real images by heart, through the real pipeline: raw folder, prepare, fit, evaluation.

What is trained on is evaluated on, so a metric short of 90 means that something is wrong between an annotation and its
metric: targets, losses, boxes' coding, resizing back, selection. Meant for a GPU.
"""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from overfit_families import FAMILIES, Family

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
# No thing lies within another: merging leaves the less certain one out, however well both are seen.
SEGMENTS = (72, 73, 508, 309, 30, 370, 529, 491)
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

    def beat(self, step: int, *, bounded: bool) -> None: ...

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
        run_dir=str(folder / name),
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
    for weights in (*tmp_path.glob("*/checkpoints"), *tmp_path.glob("*/model")):
        shutil.rmtree(weights)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_overfits(name: str, shared: Path, folder: Path) -> None:
    family = FAMILIES[name]
    result = overfit(config_of(name, family, shared / "data", folder))
    shown = {key: round(value, 1) for key, value in result.metrics.items() if not key.startswith("val_")}
    print(f"{name}: step {result.step}, {shown}")
    assert result.metrics[family.metric] >= BAR, (
        f"{name} has {family.metric} {result.metrics[family.metric]:.1f} after {result.step} steps"
    )
