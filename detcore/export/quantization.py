"""An ONNX file's convolutions and matrix products in int8."""

import logging
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detcore.inference import Predictor
from detcore.inference.exported import METADATA, needed

INT8_METADATA = f"{METADATA}.int8"
"""The key, in a file's metadata, of what int8 costs."""
HEADLINE = ("box_ap", "mask_ap", "keypoint_ap", "miou")
"""The figures whose loss counts."""
_QUANTIZED = ("Conv", "Gemm", "MatMul")


@dataclass(frozen=True, kw_only=True)
class Int8:
    """How a model is quantised, and how much that may cost.

    Attributes:
        pictures: (h, w, 3) uint8, like those that the model will see: the ranges of activations are taken from them.
        measure: gives a predictor's figures, in percent, on images with ground truth.
        max_loss: what any of the HEADLINE figures may fall by, in points.
    """

    pictures: Sequence[NDArray[np.uint8]]
    measure: Callable[[Predictor], Mapping[str, float]]
    max_loss: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Int8Cost:
    """What int8 changed, as the file's metadata tell it.

    Attributes:
        calibration_images: how many the ranges of activations were taken from.
        float32, int8: the HEADLINE figures of both, in percent.
    """

    calibration_images: int
    float32: dict[str, float]
    int8: dict[str, float]

    @property
    def loss(self) -> float:
        """In points, of the figure that fell most."""
        return max(self.float32[name] - self.int8[name] for name in self.float32)

    @property
    def metadata(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        figures = (f"{name} {value:.2f} → {self.int8[name]:.2f}" for name, value in self.float32.items())
        return f"int8, calibrated on {self.calibration_images} images: {', '.join(figures)}"


def cost_of(settings: Int8, *, float32: Predictor, int8: Predictor) -> Int8Cost:
    """Measures both.

    Raises:
        ValueError: there is none of the HEADLINE figures.
    """
    both = [settings.measure(predictor) for predictor in (float32, int8)]
    names = [name for name in HEADLINE if name in both[0]]
    if not names:
        raise ValueError(f"int8: its cost is told by {', '.join(HEADLINE)}; measured were {', '.join(sorted(both[0]))}")
    first, second = ({name: float(figures[name]) for name in names} for figures in both)
    return Int8Cost(calibration_images=len(settings.pictures), float32=first, int8=second)


def quantize_onnx(file: Path, target: Path, batches: Iterable[Mapping[str, NDArray[Any]]]) -> None:
    """Writes `file` with 8-bit weights, one scale a channel, and 8-bit activations between convolutions.

    What comes after them, from boxes to suppression, stays as it is. Scales lie in QuantizeLinear and DequantizeLinear,
    which ONNX Runtime and OpenVINO both fuse; metadata travel along.

    Args:
        batches: inputs of the graph, by name.

    Raises:
        ValueError: a package is missing, or ONNX Runtime cannot do it.
    """
    onnx: Any = needed("onnx")
    needed("onnxruntime")
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    metadata = {entry.key: entry.value for entry in onnx.load(str(file), load_external_data=False).metadata_props}
    root, level = logging.getLogger(), logging.getLogger().level
    with tempfile.TemporaryDirectory(dir=target.parent) as place:
        simple = Path(place, "simple.onnx")
        try:
            root.setLevel(logging.ERROR)  # it warns of its own ways
            # Norms into their convolutions first; sizes are not known, so nothing is to be inferred of them.
            quant_pre_process(str(file), str(simple), skip_symbolic_shape=True)
            quantize_static(
                str(simple),
                str(target),
                _Reader(batches),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=list(_QUANTIZED),
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=CalibrationMethod.MinMax,
                extra_options={"MatMulConstBOnly": True},
            )
        except Exception as error:  # its classes have no base of their own
            raise ValueError(f"int8: ONNX Runtime cannot: {' '.join(str(error).split())[:300]}") from error
        finally:
            root.setLevel(level)
    add_onnx_metadata(target, metadata)


def add_onnx_metadata(file: Path, metadata: Mapping[str, str]) -> None:
    """Puts texts into an ONNX file, in place of those of the same keys."""
    onnx: Any = needed("onnx")
    model = onnx.load(str(file))
    kept = {entry.key: entry.value for entry in model.metadata_props}
    onnx.helper.set_model_props(model, {**kept, **metadata})
    onnx.save(model, str(file))


class _Reader:
    """Batches as ONNX Runtime's calibration takes them: one for each call, then None."""

    def __init__(self, batches: Iterable[Mapping[str, NDArray[Any]]]) -> None:
        self._left: Iterator[Mapping[str, NDArray[Any]]] = iter(batches)

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        batch = next(self._left, None)
        return None if batch is None else dict(batch)
