"""Builds a library of csrc/ once and keeps it, in a folder named by a hash of all that it depends on."""

import fcntl
import hashlib
import json
import logging
import os
import platform
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from detcore.toolchain import targets, tools
from detcore.toolchain.targets import Target, processor, sources
from detcore.toolchain.tools import MissingToolError, NativeBuildError

_LOG = logging.getLogger(__name__)
_FAILURE = "failure.log"
AGAIN = "`make native`, or `python -m detcore.toolchain`, tries again"


def build(target: Target, *, again: bool) -> Path:
    """The library, from the cache or newly built. Processes that need the same one build it once.

    Args:
        target: what to build.
        again: whether to try what failed before.

    Raises:
        MissingToolError: if something that it needs is not installed.
        NativeBuildError: if the compiler fails, or the cache cannot be written.
    """
    if (library := cached(target)) is not None:
        return library
    folder = folder_of(target)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _exclusive(folder / "lock", meanwhile=f"another process builds the native library for {target.product}"):
            if (library := cached(target)) is not None:
                return library
            if why := obstacle(target, again=again):
                raise why
            _LOG.warning("building the native library for %s, once, into %s", target.product, folder)
            return _compile(target, folder)
    except OSError as error:
        raise NativeBuildError(f"the cache {folder} cannot be written ({error}); set DETCORE_CACHE") from error


def cached(target: Target) -> Path | None:
    """The library, if it was built; one of another size than was written is taken for not built."""
    library = folder_of(target) / target.file_name
    return library if record(library) else None


def record(library: Path) -> dict[str, Any]:
    """What a library was built for (product, march, architectures, cuda, python, bytes); empty if it is not whole."""
    try:
        facts: dict[str, Any] = json.loads(_record_file(library).read_text())
        return facts if library.stat().st_size == facts["bytes"] else {}
    except (OSError, ValueError, KeyError):
        return {}


def _record_file(library: Path) -> Path:
    return library.with_name(f"{library.name}.json")


def reject(library: Path, error: Exception, *, for_good: bool) -> None:
    """Takes a library that does not load out of the cache.

    Args:
        library: of the cache.
        error: what loading it gave.
        for_good: newly built it does not load either, so other processes need not try.
    """
    library.unlink(missing_ok=True)
    if for_good:
        (library.parent / _FAILURE).write_text(f"it was built, but does not load: {error}\n")


def obstacle(target: Target, *, again: bool = False) -> NativeBuildError | None:
    """Why a target cannot be built here, as far as is known without trying."""
    if not sources(target.product):
        return MissingToolError(f"no sources for {target.product} in {targets.SOURCES}")
    failure = folder_of(target) / _FAILURE
    if failure.exists() and not again:
        return NativeBuildError(f"an earlier build failed, see {failure}; {AGAIN}")
    try:
        tools.check(target)
    except NativeBuildError as error:
        return error
    return None


def _compile(target: Target, folder: Path) -> Path:
    library, failure = folder / target.file_name, folder / _FAILURE
    with TemporaryDirectory(prefix="build-", dir=folder) as build_folder:
        jobs = os.environ.get("MAX_JOBS") or str(len(os.sched_getaffinity(0)))
        environment = dict(os.environ)
        if target.product == "cuda":
            # The headers of nvidia-* packages, often of another version, must not come before nvcc's own.
            for name in ("CPATH", "C_INCLUDE_PATH", "CPLUS_INCLUDE_PATH"):
                environment.pop(name, None)
        output = ""
        for command in (_configure(target, build_folder), [tools.ninja(), "-C", build_folder, "-j", jobs]):
            done = subprocess.run(
                command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, env=environment
            )
            output += done.stdout
            if done.returncode:
                failure.write_text(output)
                raise NativeBuildError(f"{Path(command[0]).name} failed, see {failure}")
        failure.unlink(missing_ok=True)
        if folder_of(target) != folder:
            raise NativeBuildError("the sources changed while they were compiled; build again")
        built = Path(build_folder) / target.file_name
        _record_file(library).write_text(json.dumps({**tools.describe(target), "bytes": built.stat().st_size}))
        with open(built, "rb") as file:
            os.fsync(file.fileno())  # before it gets its name: a crash must not leave a name with half a library
        os.replace(built, library)
    return library


def _configure(target: Target, build_folder: str) -> list[str]:
    settings = {"CMAKE_MAKE_PROGRAM": tools.ninja(), "DETCORE_PRODUCT": target.product, "DETCORE_MARCH": target.march}
    if target.python is None:
        settings["DETCORE_TORCH"] = str(tools.torch_folder())
    else:
        settings["DETCORE_PYTHON_INCLUDE"] = target.python.include
        settings["DETCORE_PYTHON_SUFFIX"] = target.python.suffix
        settings["DETCORE_PYBIND11_INCLUDE"] = str(tools.pybind11_include())
    if target.product == "cuda":
        settings["CMAKE_CUDA_COMPILER"] = tools.nvcc()
        settings["CMAKE_CUDA_ARCHITECTURES"] = target.architectures
    defined = [f"-D{name}={value}" for name, value in settings.items()]
    return [tools.cmake(), "-G", "Ninja", *defined, "-S", str(targets.SOURCES), "-B", build_folder]


def cache_folder() -> Path:
    """Where libraries are kept, a folder for each."""
    if "DETCORE_CACHE" in os.environ:
        return Path(os.environ["DETCORE_CACHE"]) / "native"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "detcore" / "native"


def folder_of(target: Target) -> Path:
    """The folder of one library.

    Its name hashes all that the binary depends on. The version of torch is not of it: operators use the stable ABI of
    torch 2.11 alone, and a library built with any version from that on serves every other.
    """
    libc = "".join(platform.libc_ver())
    digest = hashlib.sha256(f"{target.product} {target.march} {target.architectures}".encode())
    digest.update(f"{platform.system()} {platform.machine()} {libc}".encode())
    settings = ("CXX", "CXXFLAGS", "CUDAHOSTCXX", "CUDAFLAGS", "LDFLAGS")
    digest.update("\0".join(os.environ.get(name, "") for name in settings).encode())
    if target.march == "native":
        digest.update(json.dumps(processor()).encode())
    if target.product == "cuda":
        # nvcc may be as new as torch's CUDA: an environment of an older one, or of none, takes another library.
        digest.update(f"CUDA {(tools.torch_cuda_version() or (0, 0))[0]}".encode())
    if target.python is not None:
        digest.update(f"{target.python.suffix} {tools.pybind11_version()}".encode())
    for path in sources(target.product):
        digest.update(f"\0{path.relative_to(targets.SOURCES)}\0".encode() + path.read_bytes())
    return cache_folder() / digest.hexdigest()[:16]


@contextmanager
def _exclusive(path: Path, *, meanwhile: str) -> Iterator[None]:
    with open(path, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _LOG.warning("%s: waiting for it, some minutes at most", meanwhile)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
