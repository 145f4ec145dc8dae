"""Finds what a build needs: CMake, ninja, a C++ compiler, nvcc, and the headers of torch, Python and pybind11."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from detcore.toolchain.targets import Interpreter, Target, interpreter

# C++20, sm_90, and what the CUDA builds of torch 2.11 and later are compiled with.
_OLDEST_NVCC = (12, 4)


class NativeBuildError(RuntimeError):
    """A native library cannot be had."""


class MissingToolError(NativeBuildError):
    """It cannot be built on this machine, because something is not installed."""


def check(target: Target) -> None:
    """Looks for all that a target needs.

    Raises:
        MissingToolError: naming what is missing, and how to get it.
    """
    cmake(), ninja()
    if shutil.which(os.environ.get("CXX", "c++")) is None:
        raise MissingToolError("no C++ compiler found (set CXX or install g++)")
    if target.python is not None:
        pybind11_include()
        if not (Path(target.python.include) / "Python.h").is_file():
            raise MissingToolError(
                f"no Python.h in {target.python.include} (install python{target.python.version}-dev)"
            )
    else:
        torch_folder()
    if target.product == "cuda":
        nvcc()


def cmake() -> str:
    """The command."""
    return _tool("cmake")


def ninja() -> str:
    """The command."""
    return _tool("ninja")


def _tool(name: str) -> str:
    """From its PyPI package, else from the PATH."""
    beside = Path(sys.executable).parent / name
    if beside.exists() and find_spec(name) is not None:
        return str(beside)
    found = shutil.which(name)
    if found is None:
        raise MissingToolError(f"no {name} found (pip install {name})")
    return found


def nvcc() -> str:
    """The CUDA compiler: of CUDA_HOME, else on the PATH, else below /usr/local/cuda.

    Raises:
        MissingToolError: if there is none, or it does not fit torch.
    """
    cuda = torch_cuda_version()
    if cuda is None:
        raise MissingToolError("torch is installed without CUDA")
    home = os.environ.get("CUDA_HOME")
    places = [shutil.which("nvcc", path=f"{home}/bin")] if home else [shutil.which("nvcc")]
    found = next(filter(None, [*places, shutil.which("nvcc", path="/usr/local/cuda/bin")]), None)
    if found is None:
        raise MissingToolError(
            "no nvcc found on the PATH, in CUDA_HOME or in /usr/local/cuda (install the CUDA toolkit)"
        )
    own = nvcc_version(found)
    # Drivers run programs of an older CUDA, so torch's driver runs what an older nvcc made; not what a newer one made.
    if own < _OLDEST_NVCC or own[0] > cuda[0]:
        oldest = ".".join(map(str, _OLDEST_NVCC))
        raise MissingToolError(
            f"{found} is of CUDA {own[0]}.{own[1]}; torch for CUDA {cuda[0]}.{cuda[1]} needs {oldest} to {cuda[0]}.x"
        )
    return found


def nvcc_version(command: str) -> tuple[int, int]:
    """Major and minor version.

    Raises:
        MissingToolError: if the command does not say.
    """
    try:
        said = subprocess.run([command, "--version"], capture_output=True, text=True, check=False).stdout
    except OSError as error:
        raise MissingToolError(f"{command} does not run: {error}") from error
    matched = re.search(r"release (\d+)\.(\d+)", said)
    if matched is None:
        raise MissingToolError(f"{command} --version names no release")
    return int(matched[1]), int(matched[2])


def torch_folder() -> Path:
    """Of the installed package, which is not imported."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        raise MissingToolError("no torch found (pip install torch)")
    return Path(spec.origin).parent


def torch_cuda_version() -> tuple[int, int] | None:
    """That torch was built for; None for the CPU only."""
    matched = re.search(r"^cuda\b.*['\"](\d+)\.(\d+)", (torch_folder() / "version.py").read_text(), re.MULTILINE)
    return (int(matched[1]), int(matched[2])) if matched else None


def pybind11_version() -> str:
    """Of the installed package; empty if there is none."""
    try:
        return version("pybind11")
    except PackageNotFoundError:
        return ""


def pybind11_include() -> Path:
    """The folder of its headers."""
    spec = find_spec("pybind11")
    if spec is None or spec.origin is None:
        raise MissingToolError("no pybind11 found (pip install pybind11)")
    return Path(spec.origin).parent / "include"


def interpreters() -> list[Interpreter]:
    """The running Python, and those of the other supported versions that are found with their headers."""
    found = {interpreter().version: interpreter()}
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    for name in ("3.11", "3.12", "3.13"):
        candidates = [shutil.which(f"python{name}"), *sorted(pyenv.glob(f"versions/{name}.*/bin/python"), reverse=True)]
        for command in filter(None, candidates):
            if name not in found and (other := _ask(str(command))) is not None and other.version == name:
                found[name] = other
    return [found[name] for name in sorted(found)]


def _ask(command: str) -> Interpreter | None:
    """What a Python says of itself. It need not have detcore; a shim of pyenv may not even run."""
    code = (
        "import json, sys, sysconfig as s; json.dump(dict(version='%d.%d' % sys.version_info[:2],"
        "suffix=s.get_config_var('EXT_SUFFIX'), include=s.get_path('include')), sys.stdout)"
    )
    try:
        said = subprocess.run([command, "-I", "-c", code], capture_output=True, text=True, check=True).stdout
        other = Interpreter(**json.loads(said))
    except (OSError, subprocess.CalledProcessError, ValueError):
        return None
    return other if (Path(other.include) / "Python.h").is_file() else None


def describe(target: Target) -> dict[str, str]:
    """What a library was built for, to be kept beside it."""
    facts = {name: value for name, value in asdict(target).items() if value and name != "python"}
    if target.python is not None:
        facts["python"] = target.python.version
    if target.product == "cuda":
        facts["cuda"] = ".".join(map(str, nvcc_version(nvcc())))
    return facts
