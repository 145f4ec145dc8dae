"""What all tests share: quiet libraries, the optional folder of reference data, and the slow switch."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

# Before torch, ray, mlflow or dvc are imported by a test.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DVC_NO_ANALYTICS", "true")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# A server or a job of the developer's must not receive the tests' runs.
os.environ.pop("MLFLOW_TRACKING_URI", None)
os.environ.pop("RAY_ADDRESS", None)

import torch
from node_cluster import NodeCluster, missing


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run the tests marked slow")
    parser.addoption("--faults", action="store_true", help="also run the tests marked faults, as root")
    parser.addoption("--update-golden", action="store_true", help="record the golden losses anew")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    slow, faults, cuda = config.getoption("--slow"), config.getoption("--faults"), torch.cuda.is_available()
    for item in items:
        if "slow" in item.keywords and not slow:
            item.add_marker(pytest.mark.skip(reason="slow: run with --slow"))
        if item.get_closest_marker("faults") and not faults:  # the keywords have the folder's name, too
            item.add_marker(pytest.mark.skip(reason="a cluster of several nodes: run make test-faults"))
        if "gpu" in item.keywords and not cuda:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session")
def repository() -> Path:
    return Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared(repository: Path) -> Path:
    """Reference data sets and known answers, which the project does not contain; tests that need them skip."""
    folder = Path(os.environ.get("DETCORE_SHARED", repository.parent / "shared"))
    if not (folder / "fixtures").is_dir():
        pytest.skip(f"no reference data at {folder} (set DETCORE_SHARED)")
    return folder


@pytest.fixture(scope="session")
def nodes() -> Iterator[NodeCluster]:
    """A Ray cluster of a head and four nodes with a CPU each, for all tests that want one."""
    if why := missing():
        pytest.skip(why)
    patch = pytest.MonkeyPatch()
    with NodeCluster() as cluster:
        cluster.start(1, 2, 3, 4)
        for name in ("RAY_ADDRESS", "RAY_AUTH_MODE"):
            patch.setenv(name, cluster.environment[name])
        yield cluster
        patch.undo()
