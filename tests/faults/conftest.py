from pathlib import Path
from typing import Any, Protocol

import pytest
from tiny_training import tiny_config, write_shards

from detcore.config import Config


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
