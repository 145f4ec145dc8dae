"""What is installed, which devices there are, and which operators run natively: the facts behind `detcore doctor`."""

import os
import platform
import shutil
import textwrap
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import detcore

_PACKAGES = ("torch", "torchvision", "timm", "ray", "mlflow", "dvc", "hotcoco", "pycocotools")
_WIDTH = 100


def facts() -> dict[str, Any]:
    """All that is known, in the order in which it is shown; `native` maps each product of csrc/ to its facts."""
    return {**_versions(), **_machine(), "native": {product: _product(product) for product in ("cpu", "cuda", "host")}}


def show(found: dict[str, Any]) -> str:
    """The facts as text for a terminal."""
    plain = {name: value for name, value in found.items() if name != "native"}
    width = max(map(len, plain))
    lines = [f"{name:<{width}}  {value}" for name, value in plain.items()]
    for product, state in found["native"].items():
        lines += ["", f"native {product}: {state['state']}"]
        for name in ("built for", "library", "why", "native", "falls back"):
            value = state.get(name)
            if value:
                lines += _wrapped(name, ", ".join(value) if isinstance(value, list) else value)
    return "\n".join(lines)


def _wrapped(name: str, value: str) -> list[str]:
    """Broken between words alone: a path can be copied whole."""
    return textwrap.wrap(
        value,
        _WIDTH,
        initial_indent=f"  {name:<12}",
        subsequent_indent=" " * 14,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _versions() -> dict[str, str]:
    found = {
        "detcore": f"{detcore.__version__} in {Path(detcore.__file__).parent}",
        "python": platform.python_version(),
    }
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def _machine() -> dict[str, str]:
    import psutil
    import torch

    from detcore.config import config_directory

    gib = 2**30
    memory, disk = psutil.virtual_memory(), shutil.disk_usage(".")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found = {
        "system": platform.platform(),
        "cores": f"{cores}",
        "memory": f"{memory.available / gib:.1f} of {memory.total / gib:.1f} GiB free",
        "disk": f"{disk.free / gib:.1f} GiB free here",
    }
    for index in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(index)
        found[f"cuda:{index}"] = f"{device.name}, {device.total_memory / gib:.1f} GiB, sm_{device.major}{device.minor}"
    if not torch.cuda.is_available():
        found["cuda"] = f"no device (torch is built for {torch.version.cuda or 'the CPU only'})"
    try:
        found["conf"] = str(config_directory())
    except ValueError as error:
        found["conf"] = str(error)
    return found


def _product(product: str) -> dict[str, Any]:
    """State, library, what it was built for, and the operators or functions that it has and lacks. Builds nothing."""
    from detcore import toolchain
    from detcore.ops import native

    state = native.inspect(product)
    if state.library is None:
        found: dict[str, Any] = {"state": "not loaded", "why": state.why}
    else:
        prebuilt = state.library.parent.name == toolchain.PREBUILT.name
        found = {"state": "from the wheel" if prebuilt else "built here", "library": str(state.library)}
        found["built for"] = _built_for(toolchain.record(state.library))
    if product == "host":
        found["native"] = [name for name in dir(state.module) if not name.startswith("_")] if state.module else []
        return found
    registered = native.operators(product)
    found["native"] = [name for name in native.operators() if name in registered]
    found["falls back"] = [name for name in native.operators() if name not in registered]
    return found


def _built_for(record: dict[str, Any]) -> str:
    """In words."""
    if "architectures" in record:
        return f"GPUs {record['architectures']}, CUDA {record['cuda']}"
    march = record.get("march", "")
    processor = "this processor (-march=native)" if march == "native" else march
    return f"{processor}, Python {record['python']}" if "python" in record else processor
