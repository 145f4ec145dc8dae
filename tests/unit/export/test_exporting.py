"""A published model to a file, and back to predictions."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import detcore
from detcore.cli import main
from detcore.config.transforms import ResizeFixed
from detcore.export import compare, export, exporting

pytest.importorskip("onnxruntime", reason="detcore's extra `export` is not installed")
pytest.importorskip("onnxscript", reason="detcore's extra `export` is not installed")

Published = Callable[[str], Path]


@pytest.fixture(params=["onnx", "torch", "aoti"])
def both(request: pytest.FixtureRequest) -> tuple[Path, Path]:
    """A published Mask R-CNN, and what the command made of it in each format."""
    folder_and_file: tuple[Path, Path] = request.getfixturevalue(f"mask_rcnn_{request.param}")
    return folder_and_file


@pytest.mark.slow
def test_a_file_predicts_as_the_model(both: tuple[Path, Path], pictures: Path, tmp_path: Path) -> None:
    folder, file = both
    rows = tmp_path / "found.json"
    trust = ["--trust"] * (file.suffix == ".pt2")
    assert main(["predict", str(file), str(pictures), *trust, "--score", "0.1", "--json", str(rows)]) == 0
    found = json.loads(rows.read_text())
    expected = detcore.load(folder, device="cpu").predict(pictures, score_threshold=0.1)
    assert isinstance(expected, list) and sum(map(len, expected)) > 0
    for row, prediction in zip(found, expected, strict=True):
        assert [one["class_name"] for one in row["detections"]] == list(prediction.class_names)
        boxes = np.array([one["box_xyxy"] for one in row["detections"]]).reshape(-1, 4)
        np.testing.assert_allclose(boxes, prediction.boxes_xyxy, atol=0.5)
        assert all("mask" in one for one in row["detections"])


@pytest.mark.slow
@pytest.mark.parametrize(("count", "height", "width"), [(1, 64, 64), (5, 160, 96), (2, 320, 608)])
def test_one_file_takes_any_number_and_size(both: tuple[Path, Path], count: int, height: int, width: int) -> None:
    """Traced was a batch of two images of another size."""
    folder, file = both
    rng = np.random.default_rng(count)
    coarse = rng.integers(0, 255, (count, height // 16, width // 16, 3), dtype=np.uint8)
    images = list(coarse.repeat(16, axis=1).repeat(16, axis=2))
    seen = []
    for predictor in (
        detcore.load(folder, device="cpu"),
        detcore.load(file, device="cpu", trusted=file.suffix == ".pt2"),
    ):
        predictor.preprocessing = replace(predictor.preprocessing, transform=ResizeFixed(height=height, width=width))
        batch, detections = predictor.detect(images)
        assert batch.images.shape == (count, 3, height, width)
        seen.append(detections)
    assert seen[0].valid.any(dim=1).all()
    difference = compare(*seen)
    assert difference.small and difference.images == count, difference


@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", "openvino"])
@pytest.mark.parametrize(
    "family",
    [
        "retinanet",
        "fcos",
        "faster_rcnn",
        "faster_rcnn_c4",
        "mask_rcnn_c4",
        "mask_rcnn_vitdet",
        "rpn",
        "cascade_mask_rcnn",
        "point_rend",
        "keypoint_rcnn",
        "semantic_fpn",
        "deeplab",
    ],
)
def test_every_family_sees_the_same(
    published: Published, pictures: Path, tmp_path: Path, family: str, format: exporting.Format
) -> None:
    if format == "openvino":
        pytest.importorskip("openvino", reason="detcore's extra `export` is not installed")
    file = tmp_path / f"model{exporting.SUFFIX[format]}"
    difference = export(published(family), file, format=format, images=pictures).difference
    assert difference.small and difference.images == 3
    assert file.is_file()


def test_what_does_not_run_is_not_written(
    published: Published, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = detcore.load(published("semantic_fpn"), device="cpu")

    def fail(images: object) -> None:
        raise RuntimeError("224 by 512")

    monkeypatch.setattr(predictor, "detect", fail)
    monkeypatch.setattr(exporting, "_write", lambda predictor, file, *rest, **more: file.write_text("written"))
    monkeypatch.setattr(exporting, "load_exported", lambda file, **options: predictor)
    with pytest.raises(ValueError, match=r"model.onnx is not written: as onnx it does not run.*: 224 by 512"):
        export(published("semantic_fpn"), tmp_path / "model.onnx", format="onnx", images=pictures)
    assert not list(tmp_path.iterdir())


def test_what_sees_other_things_is_not_written(
    published: Published, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Another model's predictions in place of what was written.
    folder, other = published("semantic_fpn"), published("semantic_fpn")
    predictor = detcore.load(other, device="cpu")
    with torch.no_grad():
        predictor.model.semantic_head.predictor.bias.add_(torch.arange(4.0))  # type: ignore[union-attr, operator]
    monkeypatch.setattr(exporting, "_write", lambda predictor, file, *rest, **more: file.write_text("written"))
    monkeypatch.setattr(exporting, "load_exported", lambda file, **options: predictor)
    with pytest.raises(ValueError, match=r"model.onnx is not written: as onnx the model sees other things .3 images"):
        export(folder, tmp_path / "model.onnx", format="onnx", images=pictures)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("family", "name", "told"),
    [
        ("rotated_retinanet", "model.onnx", "predicts rotated"),
        ("panoptic_fpn", "model.onnx", "predicts panoptic"),
        ("federated_rcnn", "model.onnx", "suppresses by Soft-NMS"),
        ("faster_rcnn", "model.xml", "in the format onnx is a .onnx file"),
        ("faster_rcnn", "absent/model.onnx", "there is no folder"),
    ],
)
def test_what_cannot_be_exported_is_told(
    published: Published, pictures: Path, tmp_path: Path, family: str, name: str, told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        export(published(family), tmp_path / name, format="onnx", images=pictures)


def test_a_file_of_others_is_told(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    result = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", [value], [result])
    opset = [onnx.helper.make_opsetid("", 18)]
    onnx.save(onnx.helper.make_model(graph, ir_version=9, opset_imports=opset), tmp_path / "other.onnx")
    with pytest.raises(ValueError, match="carries no labels and preprocessing"):
        detcore.load(tmp_path / "other.onnx", device="cpu")
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    with pytest.raises(ValueError, match="ONNX Runtime cannot load it"):
        detcore.load(tmp_path / "broken.onnx", device="cpu")
    with pytest.raises(ValueError, match="no such file"):
        detcore.load(tmp_path / "absent.onnx")
