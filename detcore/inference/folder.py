"""A published model's folder: `model.json` and `weights.safetensors`. Loading it runs no code of its own."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from detcore.config.model import ModelConfig
from detcore.config.section import Count, CountOrZero, Positive, Section
from detcore.config.transforms import ResizeFixed, ResizeShortestEdge
from detcore.inference.predictor import Precision, Predictor
from detcore.inference.preprocessing import Preprocessing
from detcore.models import build_model

FORMAT_VERSION = 1
DESCRIPTION = "model.json"
WEIGHTS = "weights.safetensors"


class PublishedPreprocessing(Section):
    image_mean: tuple[float, float, float]
    image_std: tuple[Positive, Positive, Positive]
    transform: ResizeShortestEdge | ResizeFixed = Field(discriminator="type")
    size_divisor: Count


class PublishedData(Section):
    name: str
    content_hash: str


class PublishedKeypoints(Section):
    names: tuple[str, ...]
    skeleton: tuple[tuple[CountOrZero, CountOrZero], ...] = ()
    """Pairs of 0-based keypoints that a line is drawn between."""


class PublishedModel(Section):
    """What `model.json` says.

    Unknown keys are refused: they may mean what this version of detcore would get wrong.
    """

    format_version: Literal[1]
    model: ModelConfig
    num_classes: Count
    labels: tuple[str, ...]
    """By 0-based class."""
    semantic_labels: tuple[str, ...] = ()
    """By 0-based class of pixels, where the model tells them."""
    keypoints: PublishedKeypoints | None = None
    """What the objects' keypoints are, where the model finds them."""
    preprocessing: PublishedPreprocessing
    metrics: dict[str, float]
    data: PublishedData
    weights_sha256: str


def read_description(folder: Path) -> PublishedModel:
    """`model.json`, validated.

    Raises:
        ValueError: if it is missing, of another format version, or not what a published model says.
    """
    path = folder / DESCRIPTION
    if not path.is_file():
        raise ValueError(f"{folder} is no published model: it has no {DESCRIPTION}")
    return parse_description(path.read_text(), place=str(path))


def parse_description(text: str, *, place: str) -> PublishedModel:
    """What `model.json` says, validated; `place` is where it was read, for messages.

    Raises:
        ValueError: if it is of another format version, or not what a published model says.
    """
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:  # the latter of a million brackets
        raise ValueError(f"{place} is not JSON: {error}") from error
    version = values.get("format_version") if isinstance(values, Mapping) else None
    if version != FORMAT_VERSION:
        raise ValueError(f"{place}: format_version {version!r}, this detcore reads {FORMAT_VERSION}; update detcore")
    try:
        description = PublishedModel.model_validate(values)
    except ValidationError as error:
        fault = error.errors()[0]
        raise ValueError(f"{place}: {'.'.join(map(str, fault['loc']))}: {fault['msg']}") from None
    if len(description.labels) != description.num_classes:
        raise ValueError(f"{place}: {len(description.labels)} labels for {description.num_classes} classes")
    return description


def read_weights(folder: Path, description: PublishedModel) -> dict[str, Tensor]:
    """The tensors of `weights.safetensors`, on the CPU, once its SHA-256 is what `model.json` says.

    Raises:
        ValueError: if the file is missing, not the one that was published, or broken.
    """
    path = folder / WEIGHTS
    if not path.is_file():
        raise ValueError(f"{folder}: {WEIGHTS} is missing")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != description.weights_sha256:
        raise ValueError(
            f"{path}: SHA-256 {digest[:12]}…, {DESCRIPTION} says {description.weights_sha256[:12]}…; "
            "fetch the model again"
        )
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path}: {error}") from error
    return tensors


def load_folder(
    path: Path | str,
    *,
    device: str = "auto",
    model: nn.Module | None = None,
    precision: Precision = "fp32",
    cuda_graphs: bool = False,
) -> Predictor:
    """A published model, ready to predict.

    Reads safetensors and JSON only, so that a model from a stranger cannot run code.

    Args:
        path: the folder.
        device: 'cpu', 'cuda', 'cuda:1' …, or 'auto': CUDA where there is any.
        model: your own module, where the published model is one; its weights are loaded into it.
        precision, cuda_graphs: how it computes; see `Predictor`.

    Raises:
        ValueError: if the folder is no published model, its files do not fit together, or a module of yours is missing.
    """
    folder = Path(path)
    description = read_description(folder)
    weights = read_weights(folder, description)
    if description.model.type == "own":
        if model is None:
            raise ValueError(
                f"{folder}: this is a model of your own; load it with model=… (the module that was trained)"
            )
    elif model is not None:
        raise ValueError(f"{folder}: holds a {description.model.type}; model=… is for modules of your own")
    else:
        model = build_model(description.model, num_classes=description.num_classes, load_weights=False)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"{folder}: the weights do not fit the model: {_one_line(error)}") from error
    return predictor_of(model, description, device=chosen_device(device), precision=precision, cuda_graphs=cuda_graphs)


def predictor_of(
    model: nn.Module,
    description: PublishedModel,
    *,
    device: torch.device,
    normalizes: bool = False,
    precision: Precision = "fp32",
    cuda_graphs: bool = False,
) -> Predictor:
    """A model as its description says that it is used; `normalizes`: it does that with images itself."""
    preprocessing, keypoints = description.preprocessing, description.keypoints
    return Predictor(
        model=model,
        labels=description.labels,
        semantic_labels=description.semantic_labels,
        keypoint_names=() if keypoints is None else keypoints.names,
        skeleton=() if keypoints is None else keypoints.skeleton,
        preprocessing=Preprocessing(
            transform=preprocessing.transform,
            image_mean=(0.0, 0.0, 0.0) if normalizes else preprocessing.image_mean,
            image_std=(1.0, 1.0, 1.0) if normalizes else preprocessing.image_std,
            size_divisor=preprocessing.size_divisor,
        ),
        device=device,
        precision=precision,
        cuda_graphs=cuda_graphs,
    )


def chosen_device(name: str) -> torch.device:
    """'cpu', 'cuda', 'cuda:1' …, or 'auto': CUDA where there is any.

    Raises:
        ValueError: there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"device {name!r}: take auto, cpu, cuda or cuda:0")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {name!r}: this machine has no CUDA device that torch can use")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device {name!r}: this machine has {torch.cuda.device_count()} CUDA devices")
    return device


def _one_line(error: Exception) -> str:
    """The head of torch's message, which lists every tensor."""
    return " ".join(str(error).split())[:200]
