"""A name in the registry, or a folder, to something that predicts: `detcore.load`, `predict` and `pull`."""

import os
import shutil
from pathlib import Path
from typing import Any

from torch import nn

from detcore.inference import (
    Prediction,
    Predictions,
    Predictor,
    PublishedModel,
    load_exported,
    load_folder,
    read_description,
)
from detcore.inference.exported import SUFFIXES
from detcore.inference.folder import DESCRIPTION, WEIGHTS, read_weights
from detcore.inference.predictor import Precision
from detcore.inference.sources import Source
from detcore.tracking import exported_file, resolve


def load(
    name: str | Path,
    *,
    device: str = "auto",
    model: nn.Module | None = None,
    precision: Precision = "fp32",
    cuda_graphs: bool = False,
    format: str | None = None,
    trusted: bool = False,
) -> Predictor:
    """A detector ready to predict.

    Reads safetensors and JSON only, so a model from a stranger cannot run code, unless it is `trusted` to.

    Args:
        name: a registered model as `name@alias`, `name/version` or `name` (its latest version), a published folder,
            or a file that `detcore export` wrote: .onnx, .xml of OpenVINO, or .pt2 of PyTorch.
        device: 'cpu', 'cuda' or 'auto'.
        model: your own module, where the published model is one: its weights are loaded into it.
        precision: 'fp32', 'bf16' or 'fp16'.
        cuda_graphs: launch the model as a whole; see `Predictor`.
        format: the file of this format that a registered version keeps, see `detcore export --register`.
        trusted: whoever made an exported file may run code here: a .pt2 does.

    Raises:
        ValueError: if there is no such model, or its files do not fit together.
    """
    if format is not None:
        name = exported_file(str(name), format=format)
    if Path(name).suffix in SUFFIXES:
        if model is not None or precision != "fp32" or cuda_graphs:
            raise ValueError(f"{name}: model, precision and cuda_graphs have no use with an exported file")
        return load_exported(name, device=device, trusted=trusted)
    if trusted:
        raise ValueError(f"{name}: trusted has no use but with an exported file: a published model runs no code")
    folder = published_folder(name)
    return load_folder(folder, device=device, model=model, precision=precision, cuda_graphs=cuda_graphs)


def predict(name: str | Path, source: Source, *, device: str = "auto", **options: Any) -> Prediction | Predictions:
    """Detects objects once. To look at more later, keep what `load` gives: reading a model takes seconds.

    Args:
        name: as `load` takes it.
        source: as `Predictor.predict` takes it.
        options: of `Predictor.predict`.
    """
    return load(name, device=device).predict(source, **options)


def pull(name: str | Path, folder: str | Path) -> PublishedModel:
    """Copies a published model into a folder of its own, once its files are found to be whole.

    Args:
        name: as `load` takes it, but for exported files.
        folder: new or empty.

    Raises:
        ValueError: if there is no such model, its files are damaged, or the folder holds something.
    """
    target = Path(folder)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"{target} exists and is not an empty folder")
    source = published_folder(name)
    description = read_description(source)
    read_weights(source, description)
    # Whole or not at all: a copy that is cut off must not look like a model.
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    temporary.mkdir(parents=True)
    try:
        for file in (DESCRIPTION, WEIGHTS):
            shutil.copyfile(source / file, temporary / file)
        temporary.replace(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return description


def published_folder(name: str | Path, *, uri: str | None = None) -> Path:
    """The folder of a model: the one named so, or a registered model's.

    Args:
        name: as `load` takes it.
        uri: of the registry; None takes MLFLOW_TRACKING_URI, else the database in the working folder.

    Raises:
        ValueError: if there is neither.
    """
    path = Path(name)
    if (path / DESCRIPTION).is_file():
        return path
    try:
        return resolve(str(name), uri=uri)
    except ValueError as error:
        if len(path.parts) < 2 and not path.is_dir():  # meant as a registered name
            raise
        raise ValueError(f"{error}; nor is there a file {path / DESCRIPTION}") from error
