"""What makes two trainings the same: configuration, data and code."""

import hashlib
import inspect
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from torch import nn

import detcore
from detcore.config import Config

_DATA = {
    *("sampling", "train_subset", "min_objects", "min_keypoints", "min_box_size", "min_visible"),
    *("train_transforms", "test_transforms", "unmixed_last_steps", "num_buckets", "size_divisor", "decode"),
}
"""Of the data section, what the content hash of the prepared data does not cover."""
_NATIVE_SOURCES = {".cpp", ".cu", ".h", ".cuh", ".txt"}
_NOT_TRAINING = {
    "log_every",
    "checkpoint_every",
    "keep_checkpoints",
    "keep_every",
    "async_checkpoints",
    "checkpoint_store",
}


def training_config(config: Config) -> dict[str, Any]:
    """The settings that the weights of a training depend on. Not the cluster's: any number of workers may go on."""
    return config.model_dump(
        mode="json",
        include={"seed": True, "model": True, "data": _DATA, "optim": True, "engine": True},
        exclude={"engine": _NOT_TRAINING},
    )


def fingerprint(
    config: Config, model: nn.Module, *, content_hash: str, transform: Callable[..., Any] | None
) -> dict[str, Any]:
    """What a training is made of, by kind: the settings themselves, the data's hash, the code's.

    The code is all of detcore, the user's classes where their source can be had, and the model's tensors.
    """
    code = hashlib.sha256(package_hash().encode())
    for part in (type(model), transform):
        code.update(_source(part).encode())
    for name, value in model.state_dict().items():
        code.update(f"{name} {tuple(value.shape)}".encode())
    return {"config": training_config(config), "data": content_hash, "code": code.hexdigest()}


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What of two fingerprints is not the same, such as 'config: optim.lr; code'; empty if nothing."""
    found = []
    if settings := _changed_settings(before["config"], now["config"]):
        found.append(f"config: {', '.join(settings)}")
    return "; ".join([*found, *(kind for kind in ("data", "code") if before[kind] != now[kind])])


@cache
def package_hash() -> str:
    """SHA-256 over names and bytes of detcore's Python files and, where there is a checkout, of csrc.

    Taken once a process: what is edited afterwards is not what runs.
    """
    package = Path(detcore.__file__).resolve().parent
    native = (path for path in (package.parent / "csrc").rglob("*") if path.suffix in _NATIVE_SOURCES)
    digest = hashlib.sha256()
    for path in sorted([*package.rglob("*.py"), *native]):
        digest.update(path.relative_to(package.parent).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def _source(part: Any) -> str:
    """A user's class or function as text; its name where Python cannot find the text, as for one typed at a prompt."""
    if part is None:
        return ""
    try:
        return inspect.getsource(part if inspect.isroutine(part) or inspect.isclass(part) else type(part))
    except (OSError, TypeError):
        return str(getattr(part, "__qualname__", type(part).__qualname__))


def _changed_settings(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Dotted names of the settings that differ."""
    found = []
    for key in sorted({*before, *now}):
        old, new = before.get(key), now.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += _changed_settings(old, new, f"{prefix}{key}.")
        elif old != new:
            found.append(f"{prefix}{key}")
    return found
