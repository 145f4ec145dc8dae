"""`detcore.load`: a name in the registry, or a folder, to something that predicts."""

from pathlib import Path

from torch import nn

from detcore.inference import Predictor, load_exported, load_folder
from detcore.inference.exported import SUFFIXES
from detcore.inference.folder import DESCRIPTION
from detcore.inference.predictor import Precision
from detcore.tracking import resolve


def load(
    name: str | Path,
    *,
    device: str = "auto",
    model: nn.Module | None = None,
    precision: Precision = "fp32",
    cuda_graphs: bool = False,
) -> Predictor:
    """A detector ready to predict.

    Reads safetensors and JSON only, so a model from a stranger cannot run code.

    Args:
        name: a registered model as `name@alias`, `name/version` or `name` (its latest version), a published folder,
            or a file that `detcore export` wrote: .onnx, or .xml of OpenVINO.
        device: 'cpu', 'cuda' or 'auto'.
        model: your own module, where the published model is one: its weights are loaded into it.
        precision: 'fp32', 'bf16' or 'fp16'.
        cuda_graphs: launch the model as a whole; see `Predictor`.

    Raises:
        ValueError: if there is no such model, or its files do not fit together.
    """
    if Path(name).suffix in SUFFIXES:
        if model is not None or precision != "fp32" or cuda_graphs:
            raise ValueError(f"{name}: model, precision and cuda_graphs have no use with an exported file")
        return load_exported(name, device=device)
    folder = published_folder(name)
    return load_folder(folder, device=device, model=model, precision=precision, cuda_graphs=cuda_graphs)


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
