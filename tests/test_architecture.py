"""Imports point down (docs/architecture.md), and only one room knows each framework."""

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

# What each room may import besides itself and `config`. Rooms beside each other do not appear in each other's lines.
STRUCTURES: frozenset[str] = frozenset({"structures"})
TOOLCHAIN: frozenset[str] = frozenset({"toolchain"})
OPS = STRUCTURES | TOOLCHAIN | {"ops"}
LOSSES = OPS | {"losses"}
MODELS = LOSSES | {"models"}
DATA = OPS | {"data"}
EVALUATION = OPS | {"evaluation"}
ENGINE = MODELS | DATA | EVALUATION | {"engine"}
INFERENCE = MODELS | DATA | {"inference"}
REPORT = INFERENCE | EVALUATION | {"report"}
CONVERT = ENGINE | INFERENCE | {"convert"}
EXPORT = INFERENCE | {"export"}
TRACKING = INFERENCE | {"tracking"}
ZOO = EVALUATION | TRACKING | {"zoo"}
SERVING = TRACKING | {"serving"}
LAUNCH = ENGINE | EXPORT | REPORT | SERVING | ZOO | {"launch"}
BENCH = ENGINE | INFERENCE | {"bench"}
CLI = LAUNCH | CONVERT | BENCH | {"cli"}
ALLOWED: dict[str, frozenset[str]] = {
    "config": frozenset(),
    "structures": STRUCTURES,
    "toolchain": TOOLCHAIN,
    "ops": OPS,
    "losses": LOSSES,
    "models": MODELS,
    "data": DATA,
    "evaluation": EVALUATION,
    "engine": ENGINE,
    "convert": CONVERT,
    "inference": INFERENCE,
    "export": EXPORT,
    "report": REPORT,
    "tracking": TRACKING,
    "zoo": ZOO,
    "serving": SERVING,
    "launch": LAUNCH,
    "bench": BENCH,
    "cli": CLI,
}
ONLY_IMPORTER = {"mlflow": "tracking", "ray": "launch"}


def imported_modules(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def faults(room: str, source: str) -> list[str]:
    """What `source`, a file of `room`, imports and should not."""
    found = []
    for module in imported_modules(source):
        parts = module.split(".")
        if parts[0] == "detcore" and len(parts) > 1 and parts[1] in ALLOWED:
            if parts[1] != room and parts[1] != "config" and parts[1] not in ALLOWED[room]:
                found.append(f"{room} imports {module}")
        elif parts[0] == "torch" and room in ("config", "toolchain"):
            found.append(f"{room} imports {module}")
        elif ONLY_IMPORTER.get(parts[0], room) != room:
            found.append(f"{room} imports {module}, which only {ONLY_IMPORTER[parts[0]]} may")
    return found


def test_every_room_is_known(repository: Path) -> None:
    rooms = {path.parent.name for path in (repository / "detcore").glob("*/__init__.py")}
    assert rooms <= ALLOWED.keys(), f"rooms without a line in ALLOWED: {sorted(rooms - ALLOWED.keys())}"


def test_imports_point_down(repository: Path) -> None:
    package = repository / "detcore"
    found = [
        f"{path.relative_to(repository)}: {fault}"
        for room in ALLOWED
        for path in sorted((package / room).rglob("*.py"))
        for fault in faults(room, path.read_text())
    ]
    assert not found, "\n".join(found)


def test_test_files_have_names_of_their_own(repository: Path) -> None:
    """pytest imports each as a module of its bare name: of two alike, the second cannot be collected."""
    count = Counter(path.name for path in (repository / "tests").rglob("test_*.py"))
    assert not [name for name, times in count.items() if times > 1]


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("engine", "import ray"),
        ("engine", "def f():\n    from mlflow import log_metric"),
        ("ops", "from detcore.models import build_model"),
        ("evaluation", "from detcore.data.shards import ShardedSplit"),
        ("config", "import torch"),
        ("toolchain", "from torch.utils import cpp_extension"),
        ("tracking", "import detcore.export"),
        ("launch", "from detcore.cli import main"),
        ("cli", "import mlflow"),
    ],
)
def test_a_forbidden_import_is_found(room: str, source: str) -> None:
    assert faults(room, source)
