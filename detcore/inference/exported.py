"""Files that `detcore export` wrote, run by ONNX Runtime, OpenVINO or PyTorch: models as others are."""

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from detcore.inference.folder import chosen_device, parse_description, predictor_of
from detcore.inference.predictor import Predictor
from detcore.inference.programs import in_torch
from detcore.structures.batch import Batch, Detections

METADATA = "detcore"
"""The key of `model.json`'s text in a file's metadata."""
SUFFIXES = (".onnx", ".xml", ".pt2")

Arrays = dict[str, NDArray[Any]]
Run = Callable[[NDArray[np.float32], NDArray[np.int64]], Arrays]
"""Images (B, 3, H, W), RGB on the scale 0..255, and the sizes (B, 2) of their contents -> fields of `Detections`."""


class ExportedDetector(nn.Module):
    """A detector that is a file. It normalises images itself.

    Args:
        run: see `Run`.
        outputs: the names of what it gives.
    """

    def __init__(self, run: Run, outputs: frozenset[str]) -> None:
        super().__init__()
        self.run = run
        kinds = {"masks": "masks", "keypoints": "keypoints", "semantic": "semantic"}
        found = tuple(kind for name, kind in kinds.items() if name in outputs)
        self.predicts = found if found == ("semantic",) else ("boxes", *found)

    def detect(self, batch: Batch) -> Detections:
        """What is seen in each image, on the CPU."""
        images = batch.images.float().cpu().contiguous().numpy()
        arrays = self.run(images, batch.image_sizes.cpu().numpy())
        names = [field.name for field in fields(Detections) if field.name in arrays]
        return Detections(**{name: torch.from_numpy(arrays[name]) for name in names})


def load_exported(path: Path | str, *, device: str = "auto", trusted: bool = False) -> Predictor:
    """An exported file, ready to predict.

    Args:
        path: .onnx, .xml of OpenVINO, whose .bin lies beside it, or .pt2 of PyTorch.
        device: 'cpu' or 'auto'; of an ONNX file also 'cuda' where ONNX Runtime has its CUDA provider.
        trusted: whoever made the file may run code here: a .pt2 does.

    Raises:
        ValueError: there is no such file, detcore did not write it, it is a .pt2 and not trusted, or what runs it is
            not installed.
    """
    file = Path(path)
    if file.suffix not in SUFFIXES:
        raise ValueError(f"{file}: exported models that can be loaded end in {', '.join(SUFFIXES)}")
    if not file.is_file():
        raise ValueError(f"{file}: no such file")
    if file.suffix == ".pt2" and not trusted:
        raise ValueError(
            f"{file}: a .pt2 runs code of its own: if you made it, or trust whoever did, say so "
            "(trusted=True in Python, --trust for detcore predict)"
        )
    read = {".onnx": _in_onnxruntime, ".xml": _in_openvino, ".pt2": in_torch}[file.suffix]
    run, outputs, text = read(file, device)
    if not text:
        raise ValueError(f"{file}: carries no labels and preprocessing of detcore: make it with `detcore export`")
    description = parse_description(text, place=str(file))
    model = ExportedDetector(run, outputs)
    return predictor_of(model, description, device=torch.device("cpu"), normalizes=True)


def needed(module: str) -> ModuleType:
    """An optional package, imported.

    Raises:
        ValueError: it is not installed.
    """
    from importlib import import_module

    try:
        return import_module(module)
    except ImportError as error:
        raise ValueError(f"{module} is needed and not installed: pip install 'detcore[export]'") from error


def _in_onnxruntime(file: Path, device: str) -> tuple[Run, frozenset[str], str]:
    runtime: Any = needed("onnxruntime")
    providers = ["CPUExecutionProvider"]
    has_cuda = "CUDAExecutionProvider" in runtime.get_available_providers()
    if device.startswith("cuda") and not has_cuda:
        raise ValueError(f"device {device!r}: this ONNX Runtime has no CUDA provider; take cpu, or onnxruntime-gpu")
    if has_cuda and chosen_device(device).type == "cuda":
        providers.insert(0, "CUDAExecutionProvider")
    try:
        session = runtime.InferenceSession(str(file), providers=providers)
    except Exception as error:  # its classes have no base of their own
        raise ValueError(f"{file}: ONNX Runtime cannot load it: {' '.join(str(error).split())[:200]}") from error
    names = [output.name for output in session.get_outputs()]

    def run(images: NDArray[np.float32], image_sizes: NDArray[np.int64]) -> Arrays:
        values = session.run(names, {"images": images, "image_sizes": image_sizes})
        return dict(zip(names, values, strict=True))

    return run, frozenset(names), session.get_modelmeta().custom_metadata_map.get(METADATA, "")


def _in_openvino(file: Path, device: str) -> tuple[Run, frozenset[str], str]:
    openvino: Any = needed("openvino")
    if device not in ("auto", "cpu"):
        raise ValueError(f"device {device!r}: an OpenVINO model runs on cpu")
    core = openvino.Core()
    try:
        model = core.read_model(str(file))
        # Its default on some processors is bfloat16, which moves boxes by pixels.
        compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    except RuntimeError as error:
        raise ValueError(f"{file}: OpenVINO cannot load it: {' '.join(str(error).split())[:200]}") from error
    names = [output.any_name for output in compiled.outputs]

    def run(images: NDArray[np.float32], image_sizes: NDArray[np.int64]) -> Arrays:
        values = compiled({"images": images, "image_sizes": image_sizes})
        return {name: np.array(values[name]) for name in names}

    text = str(model.get_rt_info(METADATA).value) if model.has_rt_info([METADATA]) else ""
    return run, frozenset(names), text
