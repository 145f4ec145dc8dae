"""`detcore.load`: a name in the registry, or a folder, to something that predicts."""

from pathlib import Path

from torch import nn

from detcore.inference import Predictor, load_folder
from detcore.tracking import resolve


def load(name: str | Path, *, device: str = "auto", model: nn.Module | None = None) -> Predictor:
    """A detector ready to predict.

    Reads safetensors and JSON only, so a model from a stranger cannot run code.

    Args:
        name: a registered model as `name@alias`, `name/version` or `name` (its latest version), or a published folder.
        device: 'cpu', 'cuda' or 'auto'.
        model: your own module, where the published model is one: its weights are loaded into it.

    Raises:
        ValueError: if there is no such model, or its files do not fit together.
    """
    path = Path(name)
    folder = path if (path / "model.json").is_file() else resolve(str(name))
    return load_folder(folder, device=device, model=model)
