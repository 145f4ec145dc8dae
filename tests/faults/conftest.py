from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest
from fault_table import FaultTable
from fault_trial import STEPS, Trial
from node_cluster import NodeCluster
from recovery_phases import Recoveries
from tiny_training import tiny_config, write_shards

from detcore.config import ClusterConfig, Config

TABLE = pytest.StashKey[FaultTable]()
PHASES = pytest.StashKey[Recoveries]()
FAILED = pytest.StashKey[bool]()


class Configure(Protocol):
    def __call__(self, *, run: str = ..., **changes: Any) -> Config: ...


@pytest.fixture(scope="session")
def tiny_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("shards"))


@pytest.fixture
def configure(tmp_path: Path, tiny_shards: Path) -> Configure:
    """Makes configurations whose run folder is the test's own; see `tiny_config`."""

    def make(*, run: str = "run", **changes: Any) -> Config:
        return tiny_config(tmp_path / run, tiny_shards, **changes)

    return make


def pytest_configure(config: pytest.Config) -> None:
    config.stash[TABLE] = FaultTable()
    config.stash[PHASES] = Recoveries()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for lines in map(str, (config.stash[TABLE], config.stash[PHASES])):
        if config.getoption("--faults") and lines:
            terminalreporter.write_line(f"\n{lines}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    item.stash[FAILED] = item.stash.get(FAILED, False) or report.failed
    return report


@pytest.fixture
def table(request: pytest.FixtureRequest) -> Iterator[FaultTable]:
    """What happened to each fault; printed after all tests."""
    own = FaultTable()
    yield own
    failed = request.node.stash.get(FAILED, False)
    request.config.stash[TABLE].take(request.node.name, own.rows, passed=not failed)


@pytest.fixture
def recoveries(pytestconfig: pytest.Config) -> Recoveries:
    """Where the time of each recovery went; printed after all tests."""
    return pytestconfig.stash[PHASES]


@pytest.fixture(scope="session")
def joined(nodes: NodeCluster) -> Iterator[NodeCluster]:
    """This process as a driver on the head."""
    from detcore.launch.ray_cluster import ray_cluster, set_timeouts

    with nodes.within_head():
        set_timeouts(ClusterConfig())
        with ray_cluster(ClusterConfig(address=nodes.address)):
            yield nodes


@pytest.fixture(scope="session")
def undisturbed(joined: NodeCluster, tmp_path_factory: pytest.TempPathFactory, tiny_shards: Path) -> Config:
    trial = Trial(folder=tmp_path_factory.mktemp("undisturbed"), shards=tiny_shards, undisturbed=None)
    assert trial.train().step == STEPS
    assert trial.steps_lost() == 0
    return trial.config


@pytest.fixture
def trial(tmp_path: Path, tiny_shards: Path, undisturbed: Config) -> Trial:
    return Trial(folder=tmp_path, shards=tiny_shards, undisturbed=undisturbed)
