"""`model=published`: what takes its place."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import save
from small_detectors import SMALL
from tiny_training import tiny_config

from detcore.config import Config, compose_params, load
from detcore.config.model import FasterRCNN, ModelConfig, Published
from detcore.config.model.detector import published_name
from detcore.inference import load_folder
from detcore.launch.starting import with_architecture
from detcore.launch.training import with_absolute_paths
from detcore.models import build_model

DATASET = {"categories": ["a", "b"]}


def publish(folder: Path, section: ModelConfig, *, num_classes: int = 3, **changes: Any) -> Path:
    model = build_model(section, num_classes=num_classes, load_weights=False)
    data = save({name: value.contiguous() for name, value in model.state_dict().items()})
    description = {
        "format_version": 1,
        "model": {**section.model_dump(mode="json"), "num_classes": num_classes},
        "num_classes": num_classes,
        "labels": [str(index) for index in range(num_classes)],
        "preprocessing": {
            "image_mean": [0, 0, 0],
            "image_std": [1, 1, 1],
            "transform": {"type": "resize_fixed", "height": 64, "width": 64},
            "size_divisor": 32,
        },
        "metrics": {},
        "data": {"name": "x", "content_hash": ""},
        "weights_sha256": hashlib.sha256(data).hexdigest(),
        **changes,
    }
    folder.mkdir(parents=True)
    (folder / "weights.safetensors").write_bytes(data)
    (folder / "model.json").write_text(json.dumps(description))
    return folder


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return publish(tmp_path / "ours", SMALL["faster_rcnn"])


def naming(source: object, run_dir: Path, **settings: Any) -> Config:
    model = {"type": "published", "source": str(source), "name": "mine", **settings}
    return tiny_config(run_dir, run_dir / "shards", model=model)


def test_the_source_s_architecture_takes_the_place(source: Path, tmp_path: Path) -> None:
    config = naming(source, tmp_path / "run")
    found = with_architecture(config, dataset=DATASET)
    weights = str(source / "weights.safetensors")
    digest = hashlib.sha256((source / "weights.safetensors").read_bytes()).hexdigest()
    stated = {"name": "mine", "weights": weights, "weights_sha256": digest}
    assert found.model == SMALL["faster_rcnn"].model_copy(update=stated)
    assert found.model.num_classes is None
    assert found.model_copy(update={"model": config.model}) == config
    assert with_architecture(found, dataset=DATASET) is found


def test_paths_hold_in_any_folder(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = with_architecture(naming("ours", tmp_path / "run"), dataset=DATASET)
    assert found.model.weights == str(tmp_path / "ours" / "weights.safetensors")
    stated = tiny_config(tmp_path / "run", tmp_path, model={**SMALL["faster_rcnn"].model_dump(), "weights": "w"})
    assert with_absolute_paths(stated).model.weights == str(tmp_path / "w")


def test_a_converted_model_s_backbone_stays_frozen(tmp_path: Path) -> None:
    section = SMALL["faster_rcnn"]
    backbone = {**section.backbone.model_dump(), "norm": "frozen_bn", "frozen_stages": 2, "weights": "converted"}
    frozen = FasterRCNN(**{**section.model_dump(), "backbone": backbone})
    config = naming(publish(tmp_path / "ours", frozen), tmp_path / "run")
    found = with_absolute_paths(with_architecture(config, dataset=DATASET))
    assert found.model.backbone == frozen.backbone
    model = build_model(found.model, num_classes=2)
    assert not any(parameter.requires_grad for parameter in model.backbone.stem.parameters())


def test_what_is_the_data_s_follows_the_data(tmp_path: Path) -> None:
    panoptic = publish(tmp_path / "panoptic", SMALL["panoptic_fpn"])
    keypoints = publish(tmp_path / "keypoints", SMALL["keypoint_rcnn"], num_classes=1)
    head = {"class_loss": "sigmoid", "federated": {"class_counts": [1, 2, 3]}}
    section = SMALL["faster_rcnn"].model_dump()
    federated = publish(tmp_path / "federated", FasterRCNN(**{**section, "box_head": {**section["box_head"], **head}}))
    dataset = {**DATASET, "semantic_classes": ["things", "sky"], "keypoints": {"names": ["nose"], "skeleton": []}}
    of_pixels, of_people, of_counts = (
        with_architecture(naming(source, tmp_path / "run"), dataset=dataset).model
        for source in (panoptic, keypoints, federated)
    )
    assert of_pixels.semantic_classes == 2
    assert of_people.keypoint_head.num_keypoints == 1
    assert of_counts.box_head.federated.class_counts is None


def test_what_was_trained_on_from_another_loads_without_it(source: Path, tmp_path: Path) -> None:
    section = SMALL["faster_rcnn"].model_copy(update={"weights": str(source / "weights.safetensors")})
    folder = publish(tmp_path / "next", section)
    (source / "weights.safetensors").unlink()
    assert load_folder(folder, device="cpu").labels == ("0", "1", "2")


def test_where_the_training_writes_is_no_source(source: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"lies in run_dir .*: set model\.name=OTHER"):
        with_architecture(naming(source, tmp_path), dataset=DATASET)


def test_a_source_that_cannot_be_trained_on_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"there a file absent/here/model\.json"):
        with_architecture(naming("absent/here", tmp_path / "run"), dataset=DATASET)
    own = publish(tmp_path / "own", SMALL["faster_rcnn"], model={"type": "own"})
    with pytest.raises(ValueError, match="your own"):
        with_architecture(naming(own, tmp_path / "run"), dataset=DATASET)
    publish(tmp_path / "cut", SMALL["faster_rcnn"], weights_sha256="0" * 64)
    with pytest.raises(ValueError, match="SHA-256"):
        with_architecture(naming("cut", tmp_path / "run"), dataset=DATASET)


def test_the_rest_of_the_configuration_must_go_with_it(source: Path, tmp_path: Path) -> None:
    config = tiny_config(
        tmp_path / "run",
        tmp_path,
        model={"type": "published", "source": str(source), "name": "mine"},
        engine__monitor="mask_ap",
    )
    with pytest.raises(ValueError, match=r"engine\.monitor = mask_ap, but faster_rcnn predicts no masks") as caught:
        with_architecture(config, dataset=DATASET)
    assert "\n" not in str(caught.value)


def test_the_command_line_names_it(source: Path, tmp_path: Path) -> None:
    overrides = ["model=published", f"model.source={source}"]
    config = load(overrides)
    assert config.model == Published(source=str(source), name="small")
    assert config.run_dir == "runs/digits-small"
    assert load([*overrides, "model.name=other"]).name == "digits-other"
    file = tmp_path / "params.yaml"
    file.write_text(yaml.safe_dump(compose_params(overrides)))
    assert load(file=file) == config


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ([], r"^model\.source has no value; set it, as in: model\.source=…$"),
        (["model.source=x", "model.rpn.loss_weight=2"], r"model\.rpn cannot be set with model=published"),
        (["model.source=x", "model.backbone.frozen_stages=0"], r"model\.backbone cannot be set"),
    ],
)
def test_nothing_else_can_be_set(overrides: list[str], words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        load(["model=published", *overrides])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("digits-mask-rcnn@champion", "digits-mask-rcnn"),
        ("digits-mask-rcnn/3", "digits-mask-rcnn"),
        ("models:/cars@best", "cars"),
        ("cars", "cars"),
        ("/somewhere/absent.v1/", "absent-v1"),
        ("..", "published"),
        ("", "published"),
    ],
)
def test_a_source_s_name(source: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert published_name(source) == name
