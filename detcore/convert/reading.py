"""Reads others' checkpoints without running their code."""

import importlib
import pickle
import re
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

_ZIP = b"PK"
_CONTAINERS = ("model", "state_dict", "model_state")
"""Where checkpoints keep their tensors, if not at the top."""
_ARRAYS = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("collections", "OrderedDict"): OrderedDict,
    ("collections", "Counter"): dict,
}
"""Types whose attributes a pickle cannot set; it could those of Counter, for all who use it."""
_ARRAY_FUNCTIONS = ("_reconstruct", "scalar")
"""Of numpy's multiarray module, whose name differs between its versions."""


class _ArrayUnpickler(pickle.Unpickler):
    """Builds containers, numbers, text and numpy arrays; anything else in the file is an error, and is not called."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _ARRAYS:
            return _ARRAYS[module, name]
        if re.fullmatch(r"numpy\.(_)?core\.multiarray", module) and name in _ARRAY_FUNCTIONS:
            return getattr(importlib.import_module("numpy._core.multiarray"), name)
        if (module, name) == ("_codecs", "encode"):  # how Python 3 wrote bytes for Python 2
            return _encode_latin1
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is no array")


def _encode_latin1(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it asks for the encoding {encoding!r}")
    return text.encode("latin1")


def read_checkpoint(file: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name.

    Args:
        file: `.pkl` (arrays in a pickle, as Detectron2's model zoo has them), `.pth` or `.pt` (torch's), or
            `.safetensors`.

    Raises:
        ValueError: the file is absent or damaged, or would run code, or holds no tensors.
    """
    if not file.is_file():
        raise ValueError(f"there is no file {file}")
    try:
        content = _read(file)
    except Exception as error:  # a damaged pickle may raise any, its documentation says
        raise ValueError(f"{file} is no readable checkpoint: {_why(error)}") from error
    for name in _CONTAINERS:
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
            break
    if not isinstance(content, Mapping):
        raise ValueError(f"{file} holds a {type(content).__name__}, not tensors by name")
    kept: dict[str, Tensor] = {}
    for key, value in content.items():
        name, tensor = str(key).removeprefix("module."), _tensor(value)
        if name in kept:
            raise ValueError(f"{file} has {name} twice, once as module.{name}")
        if tensor is not None:
            kept[name] = _plain(tensor, f"{file}: {name}")
    if not kept:
        raise ValueError(f"{file} holds no tensors; its keys begin {list(content)[:5]}")
    return kept


def _why(error: Exception) -> str:
    """In a line. Torch's own advice on what its restricted reader refuses is to trust the file."""
    said = " ".join(str(error).split()).partition(". ")[0][:200]
    if refused := re.search(r"GLOBAL ([\w.]+)", str(error)):
        said = f"it asks for {refused[1]}, which is no array"
    elif not said or said.isdecimal():  # an unknown byte, to torch
        said = f"it is {'of another kind' if said else 'empty'}, or damaged"
    return f"{said} ({type(error).__name__})"


def _read(file: Path) -> Any:
    if file.suffix == ".safetensors":
        return load_file(file)
    with file.open("rb") as opened:
        is_zip = opened.read(2) == _ZIP
    if is_zip or file.suffix in (".pth", ".pt"):
        return torch.load(file, map_location="cpu", weights_only=True)
    with file.open("rb") as opened:
        return _ArrayUnpickler(opened, encoding="latin1").load()


def _plain(tensor: Tensor, where: str) -> Tensor:
    """ValueError for a tensor that is not simply its numbers."""
    if tensor.layout != torch.strided or tensor.is_complex() or tensor.is_quantized or tensor.is_meta:
        kind = "without values" if tensor.is_meta else f"{tensor.dtype}, {tensor.layout}"
        raise ValueError(f"{where} is {kind}: weights are dense and real")
    return tensor


def _tensor(value: Any) -> Tensor | None:
    if isinstance(value, Tensor):
        return value
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiub" and value.dtype.itemsize <= 8:
        return torch.from_numpy(np.ascontiguousarray(value))
    return None
