"""Starts a detector from the weights of a whole one, which may have had other classes."""

import hashlib
import logging
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

_LOG = logging.getLogger(__name__)
_NAMED = 5
_BACKBONE = "backbone."


def start_from(model: nn.Module, file: str, *, sha256: str | None = None) -> None:
    """Loads all tensors of `file` that `model` has by name and shape, and says in one line which keep their start.

    Args:
        sha256: of the file; None takes any.

    Raises:
        ValueError: the file is absent, broken or another one, none of its tensors fits, or less than half of the
            backbone's do.
    """
    if not Path(file).is_file():
        raise ValueError(f"model.weights: there is no file {file}")
    if sha256 is not None and (own := _sha256(file)) != sha256:
        raise ValueError(f"model.weights: {file} has the SHA-256 {own[:12]}…, model.weights_sha256 is {sha256[:12]}…")
    try:
        state = load_file(file)
    except SafetensorError as error:
        raise ValueError(f"model.weights: {file} is no readable safetensors file ({error})") from error
    wanted = model.state_dict()
    fitting = {name: t for name, t in state.items() if name in wanted and wanted[name].shape == t.shape}
    if not fitting:
        raise ValueError(
            f"model.weights: none of the {len(state)} tensors of {file} fits the {type(model).__name__}: "
            "give weights.safetensors of a published model of this architecture"
        )
    backbone = [name for name in wanted if name.startswith(_BACKBONE)]
    absent = [name for name in backbone if name not in fitting]
    if 2 * len(absent) > len(backbone):
        raise ValueError(
            f"model.weights: {file} has another backbone: {len(absent)} of the model's {len(backbone)} tensors do not "
            f"fit ({_listed(absent)}); make model.backbone as it was, or take model=published"
        )
    model.load_state_dict(fitting, strict=False)
    kept = [name for name in wanted if name not in fitting]
    start = f"; {len(kept)} keep their start: {_listed(kept)}" if kept else ""
    unused = sum(name not in wanted for name in state)
    spare = f"; {unused} of the file have no place in the model" if unused else ""
    # A warning, so that it is seen where nobody has set logging up.
    _LOG.warning("%s: %d of the model's %d tensors loaded%s%s", file, len(fitting), len(wanted), start, spare)


def _sha256(file: str) -> str:
    with Path(file).open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _listed(names: list[str]) -> str:
    return ", ".join(names[:_NAMED]) + (" …" if len(names) > _NAMED else "")
