"""int8: what is quantised, what it costs, and when that is too much."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import detcore
from detcore.export import Int8, Int8Cost, export, exporting
from detcore.export.quantization import INT8_METADATA, quantize_onnx
from detcore.inference import Predictor

onnx = pytest.importorskip("onnx", reason="detcore's extra `export` is not installed")
ort = pytest.importorskip("onnxruntime", reason="detcore's extra `export` is not installed")
PICTURES = [np.random.default_rng(seed).integers(0, 255, (150, 200, 3), dtype=np.uint8) for seed in range(3)]


def cost(before: float, after: float) -> Int8Cost:
    figures = {"mask_ap": 30.0}
    return Int8Cost(calibration_images=3, float32={"box_ap": before, **figures}, int8={"box_ap": after, **figures})


@pytest.fixture(scope="module")
def convolution(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A convolution and a ReLU of any size, and a product of no constants."""
    rng = np.random.default_rng(0)
    weight = onnx.numpy_helper.from_array(rng.normal(size=(8, 3, 3, 3)).astype(np.float32), "weight")
    nodes = [
        onnx.helper.make_node("Conv", ["images", "weight"], ["c"], pads=[1, 1, 1, 1]),
        onnx.helper.make_node("Relu", ["c"], ["r"]),
        onnx.helper.make_node("MatMul", ["r", "r"], ["out"]),
    ]
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes,
        "g",
        [value("images", onnx.TensorProto.FLOAT, ["b", 3, "h", "w"])],
        [value("out", onnx.TensorProto.FLOAT, ["b", 8, "h", "w"])],
        [weight],
    )
    model = onnx.helper.make_model(graph, ir_version=9, opset_imports=[onnx.helper.make_opsetid("", 18)])
    onnx.helper.set_model_props(model, {"detcore": "the text"})
    file = tmp_path_factory.mktemp("onnx") / "float32.onnx"
    onnx.save(model, str(file))
    return file


def test_convolutions_are_quantised_and_metadata_stay(convolution: Path, tmp_path: Path) -> None:
    inputs = [{"images": np.random.default_rng(seed).random((1, 3, 8, 8), dtype=np.float32)} for seed in range(4)]
    target = tmp_path / "int8.onnx"
    quantize_onnx(convolution, target, inputs)
    assert [path.name for path in tmp_path.iterdir()] == ["int8.onnx"]
    model = onnx.load(str(target))
    assert {entry.key: entry.value for entry in model.metadata_props}["detcore"] == "the text"
    by_output = {name: node for node in model.graph.node for name in node.output}
    conv, product = (next(node for node in model.graph.node if node.op_type == kind) for kind in ("Conv", "MatMul"))
    assert {by_output[name].op_type for name in conv.input[:2]} == {"DequantizeLinear"}
    stored = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    assert stored[by_output[conv.input[1]].input[0]] == onnx.TensorProto.INT8
    assert len(set(product.input)) == 1
    first, second = (
        ort.InferenceSession(str(file), providers=["CPUExecutionProvider"]).run(None, inputs[0])[0]
        for file in (convolution, target)
    )
    assert 0 < np.abs(first - second).max() < 0.05 * np.abs(first).max()


def test_the_cost_is_the_largest_loss() -> None:
    lost = cost(54.0, 52.5)
    assert lost.loss == 1.5
    assert str(lost) == "int8, calibrated on 3 images: box_ap 54.00 → 52.50, mask_ap 30.00 → 30.00"
    assert cost(54.0, 54.5).loss == 0.0


@pytest.fixture
def quantised(
    published: Callable[[str], Path], pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., exporting.Exported]:
    """Exports in int8 with files that say what they are, and figures (float32, int8) as given."""
    folder = published("semantic_fpn")

    def write(predictor: Predictor, file: Path, *rest: Any, **more: Any) -> None:
        file.write_text("float32")

    predictor = detcore.load(folder, device="cpu")
    monkeypatch.setattr(exporting, "_write", write)

    def load(file: Path, *, device: str, trusted: bool = False) -> Predictor | str:
        return predictor if trusted else file.read_text()  # compared with the model, or measured

    monkeypatch.setattr(exporting, "load_exported", load)
    monkeypatch.setattr(exporting, "quantize_onnx", lambda file, target, batches: target.write_text("int8"))
    monkeypatch.setattr(
        exporting, "add_onnx_metadata", lambda file, metadata: file.write_text(f"int8 {metadata[INT8_METADATA]}")
    )

    def run(figures: dict[str, dict[str, float]], **options: Any) -> exporting.Exported:
        measure: Any = figures.__getitem__
        settings = Int8(pictures=PICTURES, measure=measure, **options)
        return export(folder, tmp_path / "model.onnx", format="onnx", images=pictures, int8=settings)

    return run


def test_its_cost_is_told_and_stands_in_the_file(quantised: Callable[..., exporting.Exported], tmp_path: Path) -> None:
    done = quantised({"float32": {"miou": 40.0, "pacc": 1.0}, "int8": {"miou": 39.5, "pacc": 0.0}})
    assert done.int8 == Int8Cost(calibration_images=3, float32={"miou": 40.0}, int8={"miou": 39.5})
    assert "miou 40.00 → 39.50" in str(done)
    text = (tmp_path / "model.onnx").read_text()
    assert text == 'int8 {"calibration_images": 3, "float32": {"miou": 40.0}, "int8": {"miou": 39.5}}'
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_what_costs_too_much_is_not_written_unless_more_is_allowed(
    quantised: Callable[..., exporting.Exported], tmp_path: Path
) -> None:
    figures = {"float32": {"miou": 40.0}, "int8": {"miou": 37.5}}
    with pytest.raises(ValueError, match=r"not written: int8.*miou 40.00 → 37.50: a loss of 2.50 points, more than 1"):
        quantised(figures)
    assert not list(tmp_path.iterdir())
    assert quantised(figures, max_loss=3.0).int8 is not None
    assert (tmp_path / "model.onnx").is_file()


def test_without_a_figure_there_is_no_int8(quantised: Callable[..., exporting.Exported]) -> None:
    with pytest.raises(ValueError, match="its cost is told by box_ap, mask_ap, keypoint_ap, miou; measured were pq"):
        quantised({"float32": {"pq": 40.0}, "int8": {"pq": 37.5}})


def test_programs_of_torch_are_in_float32(published: Callable[[str], Path], pictures: Path, tmp_path: Path) -> None:
    settings = Int8(pictures=PICTURES, measure=lambda predictor: {})
    with pytest.raises(ValueError, match="int8: for the formats onnx and openvino"):
        export(published("semantic_fpn"), tmp_path / "m.pt2", format="torch", images=pictures, int8=settings)


@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_a_detector_in_int8_still_sees(
    published: Callable[[str], Path], pictures: Path, tmp_path: Path, format: exporting.Format
) -> None:
    if format == "openvino":
        pytest.importorskip("openvino", reason="detcore's extra `export` is not installed")
    seen, sizes = [], []

    def measure(predictor: Predictor) -> dict[str, float]:
        seen.append(predictor.detect(PICTURES)[1].semantic)
        return {"miou": 50.0}

    folder = published("semantic_fpn")
    for name, int8 in (("float32", None), ("int8", Int8(pictures=PICTURES, measure=measure))):
        file = tmp_path / f"{name}{exporting.SUFFIX[format]}"
        export(folder, file, format=format, images=pictures, int8=int8)
        weights = file.with_suffix(".bin") if format == "openvino" else file
        sizes.append(weights.stat().st_size)
    assert sizes[1] < 0.6 * sizes[0]
    seen.append(detcore.load(file, device="cpu").detect(PICTURES)[1].semantic)
    float32, quantised, loaded = (logits for logits in seen if logits is not None)
    torch.testing.assert_close(loaded, quantised)
    # Of four classes; without training they lie close together.
    assert 0.65 < (float32.argmax(dim=1) == quantised.argmax(dim=1)).float().mean() < 1
