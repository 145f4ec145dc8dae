"""No room for a checkpoint: one clear line, and the checkpoint before it stays valid.

The kernel refuses the write: a limit on the size of files stands in for a full disk, and gives EFBIG instead of ENOSPC.
"""

import os
import resource
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from fault_table import FaultTable
from tiny_training import TinyDetector, train

from detcore.engine import CheckpointError
from detcore.engine.checkpoint import CheckpointFolder


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


class FillTheDisk:
    """A callback after whose first log, and the checkpoint before it, nothing larger than a few kB can be written."""

    def __init__(self, before: Path) -> None:
        self.before = before
        self.limit = files_of_at_most(6000)

    def on_start(self, start: object) -> None: ...

    def on_log(self, step: int, metrics: Mapping[str, float]) -> None:
        if step == 4:
            while not self.before.exists():  # it is written in the background
                time.sleep(0.01)
            self.limit.__enter__()

    def on_evaluate(self, *_: object) -> None: ...

    def on_end(self, result: object) -> None: ...


def test_the_checkpoint_before_stays_valid(configure, table: FaultTable) -> None:
    config = configure(engine__eval_every=None)  # checkpoints at 3 and 6
    folder = Path(config.run_dir) / "checkpoints"
    full = FillTheDisk(folder / "step-00000003")
    try:
        with pytest.raises(CheckpointError) as caught:
            train(TinyDetector(), config, callbacks=[full])
    finally:
        full.limit.__exit__(None, None, None)
    assert str(caught.value) == (
        f"{folder / 'step-00000006'}: cannot save this checkpoint ({os.strerror(27)}); the one of step 3 still stands"
    )
    assert [path.name for path in folder.iterdir()] == ["step-00000003"]  # and nothing half-written
    assert CheckpointFolder(folder, keep=2, say=pytest.fail).newest() is not None
    model = TinyDetector()
    assert train(model, config).step == 10
    assert model.passes == 7
    table.add("no room for a checkpoint", "stopped: cannot save this checkpoint; the one before stands", steps_lost=3)


def test_a_full_disk_is_called_so(configure, monkeypatch: pytest.MonkeyPatch) -> None:
    fsync = os.fsync

    def full(descriptor: int) -> None:
        if "checkpoints" in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(28, os.strerror(28))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        CheckpointError, match=r"\(No space left on device\): make room, then run the same command again"
    ):
        train(TinyDetector(), configure())
