"""What csrc/ is built into: three products, each for a processor, some GPUs or a Python."""

import os
import platform
import re
import sys
import sysconfig
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

PRODUCTS = ("cpu", "cuda", "host")
_SUFFIX = {"cpu": "_cpu.cpp", "cuda": "_cuda.cu", "host": "_host.cpp"}
_PACKAGE = Path(__file__).resolve().parents[1]
# A wheel carries csrc inside the package; a checkout has it beside.
SOURCES = next(
    (folder for folder in (_PACKAGE / "csrc", _PACKAGE.parent / "csrc") if folder.is_dir()), _PACKAGE / "csrc"
)
# Ampere, and Hopper with code that later GPUs translate when they load it.
ARCHITECTURES = "80-real;90"
# What a wheel is compiled for, and the flags of /proc/cpuinfo that show a processor to be able to run it.
BASELINES = {"x86_64": "x86-64-v3", "aarch64": "armv8-a"}
_NEEDED_FLAGS = {
    "x86-64-v3": frozenset({"abm", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe"}),
    "armv8-a": frozenset({"asimd", "fp"}),
}


@dataclass(frozen=True)
class Interpreter:
    """The Python that a host module is for.

    Args:
        version: "3.12".
        suffix: of its extension modules, ".cpython-312-x86_64-linux-gnu.so".
        include: the folder of Python.h.
    """

    version: str
    suffix: str
    include: str


def interpreter() -> Interpreter:
    """The running one."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    return Interpreter(version, sysconfig.get_config_var("EXT_SUFFIX"), sysconfig.get_path("include"))


@dataclass(frozen=True)
class Target:
    """One library.

    Args:
        product: "cpu" and "cuda" hold operators, "host" is a Python module.
        march: the host compiler's -march; empty for cuda.
        architectures: compute capabilities as CMake writes them ("80-real;90"), for cuda.
        python: for host.
    """

    product: str
    march: str = ""
    architectures: str = ""
    python: Interpreter | None = None

    @property
    def file_name(self) -> str:
        """Of the library."""
        return f"detcore_host{self.python.suffix}" if self.python else f"libdetcore_{self.product}.so"


def targets_for(product: str, capabilities: Sequence[tuple[int, int]] = ()) -> list[Target]:
    """What may serve this machine, the most general first; the last is what is quickest to build.

    Args:
        product: one of PRODUCTS.
        capabilities: of the GPUs of this machine; empty if there are none, or if the library is for other machines too.
    """
    march = os.environ.get("DETCORE_MARCH", "native")
    if product == "host":
        return [Target("host", march, python=interpreter())]
    if product == "cpu":
        return [Target("cpu", march)]
    stated = os.environ.get("CUDAARCHS")
    if stated:
        return [Target("cuda", architectures=stated)]
    general = [Target("cuda", architectures=ARCHITECTURES)] if runs_on(ARCHITECTURES, capabilities) else []
    own = ";".join(f"{major}{minor}-real" for major, minor in sorted(set(capabilities)))
    return [*general, Target("cuda", architectures=own)] if own else general


def wheel_targets(product: str, pythons: Iterable[Interpreter]) -> list[Target]:
    """What a wheel carries: libraries that other machines can run.

    Raises:
        KeyError: if no baseline is known for this kind of processor.
    """
    march = BASELINES[platform.machine()]
    if product == "host":
        return [Target("host", march, python=python) for python in pythons]
    return [Target("cpu", march)] if product == "cpu" else targets_for("cuda")


def sources(product: str) -> list[Path]:
    """What a library is made of; empty if csrc/ has nothing for it."""
    suffix = _SUFFIX[product]
    if not any(SOURCES.glob(f"*/*{suffix}")):
        return []
    own = (path for path in SOURCES.glob("*/*") if path.suffix in (".h", ".cuh") or path.name.endswith(suffix))
    return [*sorted(own), SOURCES / "CMakeLists.txt"]


def runs_on(architectures: str, capabilities: Iterable[tuple[int, int]]) -> bool:
    """Whether a CUDA library holds code for every one of the GPUs. Words such as `all` and `native` are believed."""

    def serves(entry: str, capability: tuple[int, int]) -> bool:
        matched = re.fullmatch(r"(\d+)(\d)([a-z]?)(-real|-virtual)?", entry)
        if matched is None:
            return True
        major, minor = int(matched[1]), int(matched[2])
        if matched[3]:  # 90a: this GPU and no other
            return capability == (major, minor)
        within = capability[0] == major and capability[1] >= minor and matched[4] != "-virtual"
        return within or (matched[4] != "-real" and capability >= (major, minor))

    return all(any(serves(entry, capability) for entry in architectures.split(";")) for capability in capabilities)


def processor() -> dict[str, str]:
    """The first processor of /proc/cpuinfo: model, family and flags; empty where there is no such file."""
    try:
        with open("/proc/cpuinfo") as file:
            lines = file.read(16384).split("\n\n")[0].splitlines()
    except OSError:
        return {}
    pairs = (line.partition(":")[::2] for line in lines)
    return {
        name.strip(): value.strip() for name, value in pairs if name.startswith(("model", "flags", "Features", "CPU"))
    }


def processor_runs(march: str) -> bool:
    """Whether this machine's processor has all that a baseline needs; False for what is no baseline."""
    found = processor()
    flags = set((found.get("flags") or found.get("Features", "")).split())
    return march in _NEEDED_FLAGS and _NEEDED_FLAGS[march] <= flags
