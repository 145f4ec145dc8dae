"""The libraries that a wheel carries, and whether this machine can run them."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from detcore.toolchain import targets, tools
from detcore.toolchain.library import record
from detcore.toolchain.targets import Target, interpreter, processor_runs, runs_on, sources

PREBUILT = Path(__file__).resolve().parents[1] / "_native"


def prebuilt(product: str, capabilities: Sequence[tuple[int, int]] = ()) -> tuple[Path | None, str]:
    """The library of a wheel that serves here: of this package, or of one that is installed besides, of the same csrc/.

    The latter is how a checkout that a job brings to an image's nodes, which need no compiler then, finds them.

    Args:
        product: one of PRODUCTS.
        capabilities: of the GPUs of this machine.

    Returns:
        The library, or None and why not; the reason is empty where no wheel is installed.
    """
    target = Target(product, python=interpreter() if product == "host" else None)
    folder = PREBUILT if PREBUILT.is_dir() else _installed()
    if folder is None:
        return None, ""
    library = folder / target.file_name
    if not library.exists():
        missing = f"Python {target.python.version}" if target.python else product
        return None, f"this wheel has no library for {missing}"
    if folder != PREBUILT and not _same_sources(product, folder.with_name("csrc")):
        return None, f"{library} is of another csrc/ than {targets.SOURCES}"
    facts = record(library)
    why = _refusal(facts, capabilities) if facts else f"{library} is damaged; install detcore again"
    return (None, why) if why else (library, "")


def _installed() -> Path | None:
    """The libraries of a wheel that is on Python's path behind this package."""
    folders = (Path(entry, PREBUILT.parent.name, PREBUILT.name) for entry in sys.path)
    return next((folder for folder in folders if folder.is_dir()), None)


def _same_sources(product: str, csrc: Path) -> bool:
    others = (csrc / path.relative_to(targets.SOURCES) for path in sources(product))
    return all(
        other.is_file() and other.read_bytes() == own.read_bytes()
        for own, other in zip(sources(product), others, strict=True)
    )


def _refusal(facts: dict[str, str], capabilities: Sequence[tuple[int, int]]) -> str:
    """What keeps a library from running here, or what the user asked for instead."""
    march, architectures = facts.get("march", ""), facts.get("architectures", "")
    if march and os.environ.get("DETCORE_MARCH", march) != march:
        return f"the wheel's is for {march}, not DETCORE_MARCH"
    if march and not processor_runs(march):
        return f"the wheel's needs a processor of {march}"
    if architectures and os.environ.get("CUDAARCHS", architectures) != architectures:
        return f"the wheel's is for {architectures}, not CUDAARCHS"
    if architectures and not runs_on(architectures, capabilities):
        return f"the wheel's is for GPUs of {architectures}"
    if "cuda" in facts:
        cuda = tools.torch_cuda_version()
        if cuda is None or cuda[0] < int(facts["cuda"].partition(".")[0]):
            return f"the wheel's needs torch for CUDA {facts['cuda']}"
    return ""
