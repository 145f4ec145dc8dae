"""A training's events, made by hand, through to what MLflow then holds."""

import json
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from tracking_samples import CATEGORIES, MakeConfig, MakeModel, start_of

from detcore.data import Sample, ShardedSplit, write_split
from detcore.evaluation import Evaluation, Evaluator, GroundTruth, ImageDetections, save_pr_curve
from detcore.evaluation.kept_maps import RegionMap
from detcore.tracking import TrackingCallback, close_run, open_run, resolve
from detcore.tracking.client import connect
from detcore.tracking.pictures import Pictures, prediction_drawing


@pytest.fixture(scope="module")
def evaluation(shards: Path) -> Evaluation:
    """In the first image the object is found with a score of 0.9, and a wrong one with 0.3; in the others nothing."""
    split = ShardedSplit.open(shards, "val")
    evaluator = Evaluator(GroundTruth(coco=split.to_coco()), predicts=("boxes", "masks"))
    for index, image_id in enumerate(split.image_ids.tolist()):
        mask = np.zeros((40, 60), np.uint8, order="F")
        mask[10:30, 10:30] = 1
        count = 2 if index == 0 else 0
        evaluator.add_image(
            ImageDetections(
                image_id=image_id,
                boxes_xyxy=np.array([[10.0, 10.0, 30.0, 30.0], [0.0, 0.0, 9.0, 9.0]])[:count],
                scores=np.array([0.9, 0.3])[:count],
                labels=np.array([0, 1])[:count],
                rles=(coco_mask.encode(mask)["counts"],) * count,
            )
        )
    return evaluator.compute()


def artifacts(store: str, run_id: str, folder: str) -> set[str]:
    return {Path(file.path).name for file in connect(store).list_artifacts(run_id, folder)}


def test_a_whole_training(
    make_config: MakeConfig,
    make_model: MakeModel,
    dataset: dict[str, Any],
    store: str,
    evaluation: Evaluation,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = make_config()
    config = config.model_copy(
        update={"tracking": config.tracking.model_copy(update={"num_pictures": 2, "system_metrics": True})}
    )
    model_dir = make_model(config)
    handle = open_run(config, dataset=dataset)
    assert handle.run_id is not None
    with pickle.loads(pickle.dumps(TrackingCallback(handle, save_curve=save_pr_curve))) as callback:
        callback.on_start(start_of(config))
        assert f"MLflow run: {handle.run_id} in {store}\n" in capsys.readouterr().out
        callback.on_log(1, {"loss": np.float32(2.5), "lr": 0.01, "images_per_second": 7.0, "data_wait_seconds": 0.1})
        callback.on_log(2, {"loss": float("nan"), "lr": 0.01})
        callback.on_evaluate(2, {**evaluation.metrics, "val_loss": 3.0}, evaluation)
        callback.on_end(SimpleNamespace(model_dir=model_dir, best_step=2))
    close_run(handle, "FINISHED")

    client = connect(store)
    run = client.get_run(handle.run_id)
    assert next((m.step, m.value) for m in client.get_metric_history(handle.run_id, "train/loss")) == (1, 2.5)
    assert run.data.metrics["train/images_per_second"] == 7.0
    assert run.data.metrics["train/data_wait_seconds"] == 0.1
    assert run.data.metrics["val/loss"] == 3.0
    assert run.data.metrics["val/box_ap"] == evaluation.metrics["box_ap"]
    assert run.data.metrics["system/process_memory_megabytes"] > 10
    # Two pictures; of each MLflow keeps a small copy for its charts.
    images = artifacts(store, handle.run_id, "images")
    assert len([name for name in images if name.startswith("predictions~00") and name.endswith(".png")]) == 1
    assert len([name for name in images if name.startswith("predictions~01") and name.endswith(".png")]) == 1
    assert artifacts(store, handle.run_id, "pr_curves") == {
        f"{kind}-step-00000002.{suffix}" for kind in ("box", "mask") for suffix in ("png", "json")
    }
    rows = json.loads(Path(client.download_artifacts(handle.run_id, "pr_curves/box-step-00000002.json")).read_text())
    assert rows[0] == {"class": "mean", "recall": 0.0, "precision": pytest.approx(evaluation.curves["box"].mean[0])}
    # The model, once; it is the run's output and can be had by the run's id.
    folder = resolve(f"runs:/{handle.run_id}", uri=store)
    assert (folder / "weights.safetensors").read_bytes() == (model_dir / "weights.safetensors").read_bytes()
    assert not Path(config.run_dir, "tracking").exists(), "what was uploaded is not kept twice"


def test_a_stopped_training_logs_no_model_and_a_resumed_one_goes_on_with_the_run(
    make_config: MakeConfig, dataset: dict[str, Any], store: str
) -> None:
    config = make_config()
    handles = []
    for step in (0, 2):
        handle = open_run(config, dataset=dataset)
        handles.append(handle)
        with TrackingCallback(handle, save_curve=save_pr_curve) as callback:
            callback.on_start(start_of(config, step=step))
            callback.on_log(step + 1, {"loss": 1.0})
            callback.on_end(SimpleNamespace(model_dir=None, best_step=None))
        assert connect(store).get_run(str(handles[0].run_id)).info.status == "RUNNING"
        close_run(handle, "KILLED")
    run = connect(store).get_run(str(handles[0].run_id))
    assert run.info.status == "KILLED"
    assert [m.step for m in connect(store).get_metric_history(run.info.run_id, "train/loss")] == [1, 3]
    assert run.outputs is None or not run.outputs.model_outputs


def test_a_failing_picture_is_a_warning(
    make_config: MakeConfig,
    dataset: dict[str, Any],
    store: str,
    evaluation: Evaluation,
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = make_config()
    handle = open_run(config, dataset=dataset)

    def fail(curve: object, path: Path) -> None:
        raise OSError("No space left on device")

    with TrackingCallback(handle, save_curve=fail) as callback:
        callback.on_start(start_of(config))
        callback.on_evaluate(2, {"box_ap": 10.0}, evaluation)
    assert "no pictures of step 2 for MLflow: No space left on device" in caplog.text
    assert connect(store).get_run(str(handle.run_id)).data.metrics["val/box_ap"] == 10.0


def test_closing_before_the_start_does_nothing(make_config: MakeConfig, dataset: dict[str, Any]) -> None:
    with TrackingCallback(open_run(make_config(), dataset=dataset), save_curve=save_pr_curve):
        pass


def test_only_detections_of_the_image_with_a_fair_score_are_drawn(shards: Path, evaluation: Evaluation) -> None:
    split = ShardedSplit.open(shards, "val")
    drawing = prediction_drawing(evaluation.results, int(split.image_ids[0]), CATEGORIES)
    assert drawing.captions == ["cat 0.90"]
    assert drawing.boxes_xyxy.tolist() == [[10.0, 10.0, 30.0, 30.0]]
    assert drawing.masks is not None
    assert drawing.masks.shape == (1, 40, 60)
    assert drawing.masks.sum() == 20 * 20
    assert prediction_drawing(evaluation.results, int(split.image_ids[1]), CATEGORIES).captions == []


def test_pictures_show_the_same_images_each_time_and_no_more_than_there_are(
    shards: Path, evaluation: Evaluation
) -> None:
    split = ShardedSplit.open(shards, "val")
    assert [type(picture) for picture in Pictures(split, count=8).draw(evaluation)] == [Image.Image] * 3
    assert Pictures(split, count=0).draw(evaluation) == []


def test_pictures_show_maps_where_there_are_no_objects(tmp_path: Path) -> None:
    """The truth's class, then another's: the halves differ in colour where the prediction is wrong."""
    image = np.full((40, 60, 3), 128, np.uint8)
    sample = Sample(image=image, semantic=np.zeros((40, 60), np.uint8))
    write_split([sample], tmp_path, split="val", categories=(), name="ground", semantic_classes=("sky", "sea"))
    split = ShardedSplit.open(tmp_path, "val")
    half = np.repeat(np.arange(2, dtype=np.uint8), 30)[None].repeat(40, axis=0)
    pair = (RegionMap.of_semantic(split.semantic(0)), RegionMap.of_semantic(half))
    evaluation = Evaluation(metrics={}, per_class={}, curves={}, results=None, maps={int(split.image_ids[0]): pair})
    (picture,) = Pictures(split, count=8).draw(evaluation)
    panel = (picture.width - picture.width // 100) // 2
    row = np.asarray(picture)[-20]
    left, wrong, right = row[20], row[-20], row[picture.width - panel + 20]
    assert left.tolist() == right.tolist() != wrong.tolist()
