"""Builds the operators of csrc/ once per machine and loads them; without them the references run.

The environment decides: DETCORE_NATIVE=auto (the default) builds on first use and falls back with one line of warning,
`require` makes the fallback an error, `off` uses the references. DETCORE_CACHE is the folder that keeps what was built,
else a folder of the user's cache. `python -m detcore.ops` builds now, whatever failed before.
"""

import fcntl
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

_LOG = logging.getLogger(__name__)
_SOURCES = Path(__file__).resolve().parents[2] / "csrc"
_LOCK = threading.RLock()
_LOADED: dict[str, bool] = {}
_MODES = ("auto", "require", "off")


def define(
    name: str,
    schema: str,
    fake: Callable[..., Any],
    *,
    save: Callable[[Any, tuple[Any, ...], Any], None] | None = None,
    backward: Callable[..., Any] | None = None,
    autocast: Callable[..., Any] | None = None,
) -> None:
    """Declares `torch.ops.detcore.<name>`, whose kernels csrc/ registers.

    Args:
        name: of the operator.
        schema: its arguments and results, in the language of `torch.library.define`.
        fake: results without values, from the same arguments.
        save: for autograd, called with (ctx, inputs, output); see `torch.library.register_autograd`.
        backward: for autograd, called with (ctx, *gradients of the results).
        autocast: what runs in place of the operator where autocast is on: it gets the dtype of autocast and the
            arguments, and calls the operator, for which autocast is then off. Without it autocast changes nothing.
    """
    full = f"detcore::{name}"
    torch.library.define(full, schema)
    torch.library.register_fake(full, fake)
    if backward is not None:
        torch.library.register_autograd(full, backward, setup_context=save)
    if autocast is not None:
        for device_type, key in (("cpu", "AutocastCPU"), ("cuda", "AutocastCUDA")):
            _AUTOCAST.impl(name, _under_autocast(autocast, device_type, key), key)  # type: ignore[no-untyped-call]


_AUTOCAST = torch.library.Library("detcore", "FRAGMENT")  # type: ignore[no-untyped-call]


def _under_autocast(rule: Callable[..., Any], device_type: str, key: str) -> Callable[..., Any]:
    keys = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, key))

    def run(*arguments: Any) -> Any:
        with torch._C._ExcludeDispatchKeyGuard(keys):
            return rule(torch.get_autocast_dtype(device_type), *arguments)

    return run


class NativeBuildError(RuntimeError):
    """The native operators are required, and cannot be had."""


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator, unused-ignore]
def serves(device_type: str) -> bool:
    """Whether the native operators of a kind of device are loaded; the first call builds and loads them.

    Raises:
        NativeBuildError: if DETCORE_NATIVE=require and they cannot be built or loaded.
        ValueError: if DETCORE_NATIVE is none of auto, require, off.
    """
    loaded = _LOADED.get(device_type)
    return load(device_type) if loaded is None else loaded


def load(device_type: str) -> bool:
    """`serves`, once a process: later changes of the environment have no effect."""
    with _LOCK:
        if device_type not in _LOADED:
            _LOADED[device_type] = _load(device_type)
        return _LOADED[device_type]


def _load(device_type: str) -> bool:
    mode = os.environ.get("DETCORE_NATIVE", "auto")
    if mode not in _MODES:
        raise ValueError(f"DETCORE_NATIVE={mode!r}: must be one of {', '.join(_MODES)}")
    if mode == "require" and not _SOURCES.is_dir():
        raise NativeBuildError(f"DETCORE_NATIVE=require: no sources at {_SOURCES}; install detcore from a checkout")
    if mode == "off" or not sources(device_type):
        return False
    try:
        library = build(device_type, again=False)
        torch.ops.load_library(library)  # type: ignore[no-untyped-call, unused-ignore]
    except (NativeBuildError, OSError) as error:
        if mode == "require":
            raise NativeBuildError(f"DETCORE_NATIVE=require: {error}") from error
        _LOG.warning("native operators (%s) are off, slower ones are used: %s", device_type, error)
        return False
    return True


def build(device_type: str, *, again: bool) -> Path:
    """The library of a device, from the cache or newly built. Processes that need the same one build it once.

    Args:
        device_type: "cpu" or "cuda".
        again: whether to try what failed before.

    Raises:
        NativeBuildError: if a tool is missing or the compiler fails.
    """
    folder = cache_folder() / _key(device_type)
    library, failure = folder / f"libdetcore_{device_type}.so", folder / "failure.log"
    if library.exists():
        return library
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise NativeBuildError(f"the cache {folder} cannot be written ({error}); set DETCORE_CACHE") from error
    with _exclusive(folder / "lock"):
        if library.exists():
            return library
        if failure.exists() and not again:
            raise NativeBuildError(f"an earlier build failed, see {failure}; `make native` tries again")
        cmake, ninja = _tool("cmake"), _tool("ninja")
        if device_type == "cuda" and shutil.which("nvcc") is None:
            raise NativeBuildError("no nvcc found")
        if shutil.which(os.environ.get("CXX", "c++")) is None:
            raise NativeBuildError("no C++ compiler found (set CXX or install g++)")
        _LOG.warning("building the native operators for %s, once, into %s", device_type, folder)
        _compile(device_type, cmake, ninja, library, failure)
    return library


def _compile(device_type: str, cmake: str, ninja: str, library: Path, failure: Path) -> None:
    torch_folder = Path(torch.__file__).parent
    with TemporaryDirectory(prefix="build-", dir=library.parent) as build_folder:
        configure = [cmake, "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}", f"-DDETCORE_DEVICE={device_type}"]
        configure += [f"-DDETCORE_TORCH={torch_folder}", f"-DDETCORE_MARCH={_march()}"]
        configure += ["-S", str(_SOURCES), "-B", build_folder]
        jobs = os.environ.get("MAX_JOBS", str(os.cpu_count() or 1))
        output = ""
        for command in (configure, [ninja, "-C", build_folder, "-j", jobs]):
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
            output += done.stdout
            if done.returncode:
                failure.write_text(output)
                raise NativeBuildError(f"{Path(command[0]).name} failed, see {failure}")
        failure.unlink(missing_ok=True)
        if _key(device_type) != library.parent.name:
            raise NativeBuildError("the sources changed while they were compiled; build again")
        os.replace(Path(build_folder) / library.name, library)


def cache_folder() -> Path:
    """Where libraries are kept, a folder for each key."""
    if "DETCORE_CACHE" in os.environ:
        return Path(os.environ["DETCORE_CACHE"]) / "native"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "detcore" / "native"


def _key(device_type: str) -> str:
    """Hash of all that the binary depends on."""
    digest = hashlib.sha256(f"{torch.__version__} {device_type} {platform.platform()}".encode())
    digest.update(" ".join(os.environ.get(name, "") for name in ("CXX", "CXXFLAGS", "CUDAARCHS")).encode())
    digest.update(f"{_march()} {_cpu() if _march() == 'native' else ''}".encode())
    for path in sources(device_type):
        digest.update(f"\0{path.relative_to(_SOURCES)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def sources(device_type: str) -> list[Path]:
    """What the library of a device is made of; empty if csrc/ has nothing for it."""
    suffix = {"cpu": "_cpu.cpp", "cuda": "_cuda.cu"}.get(device_type)
    if suffix is None or not any(_SOURCES.glob(f"*/*{suffix}")):
        return []
    own = (path for path in _SOURCES.glob("*/*") if path.suffix == ".h" or path.name.endswith(suffix))
    return [*sorted(own), _SOURCES / "CMakeLists.txt"]


def _march() -> str:
    return os.environ.get("DETCORE_MARCH", "native")


def _cpu() -> str:
    """The model and its instruction sets, since -march=native means this very CPU."""
    try:
        with open("/proc/cpuinfo") as file:
            first = file.read(8192).split("\n\n")[0]
    except OSError:
        return platform.machine() + platform.processor()
    return "".join(line for line in first.splitlines() if line.startswith(("model", "flags", "Features", "CPU")))


def _tool(name: str) -> str:
    """cmake or ninja, from their PyPI packages or from the PATH."""
    beside = Path(sys.executable).parent / name
    if beside.exists() and find_spec(name) is not None:
        return str(beside)
    found = shutil.which(name)
    if found is None:
        raise NativeBuildError(f"no {name} found (pip install {name})")
    return found


@contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
