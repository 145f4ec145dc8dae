"""Checkpoints written in the background."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from detcore.engine.checkpoint import Checkpoint
from detcore.engine.saving import CheckpointWriter, HostCopy


def checkpoint(step: int) -> Checkpoint:
    return Checkpoint(
        step=step,
        weights={"weight": torch.full((2, 3), float(step)), "count": torch.tensor(step)},
        average={"weight": torch.full((2, 3), -float(step))},
        tensors={"optimizer": {"state": {0: [torch.full((4,), step)]}, "betas": (0.9, 0.99), "fused": None}},
        record={"state": {"best_step": None}},
    )


def test_a_copy_stays_when_the_training_goes_on() -> None:
    original, expected = checkpoint(1), checkpoint(1)
    copy = HostCopy().of(original)
    assert original.average is not None and copy.average is not None
    for tensor in (*original.weights.values(), *original.average.values()):
        tensor.zero_()
    original.tensors["optimizer"]["state"][0][0].zero_()
    original.tensors["optimizer"]["fused"] = True
    torch.testing.assert_close(dict(copy.weights), dict(expected.weights), rtol=0, atol=0)
    torch.testing.assert_close(copy.average["weight"], torch.full((2, 3), -1.0), rtol=0, atol=0)
    assert copy.tensors["optimizer"]["state"][0][0].tolist() == [1, 1, 1, 1]
    assert copy.tensors["optimizer"]["betas"] == (0.9, 0.99)
    assert copy.tensors["optimizer"]["fused"] is None
    assert copy.record == expected.record


def test_memory_is_used_again_where_it_fits() -> None:
    host, strided = HostCopy(), torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last)

    def of(*tensors: torch.Tensor) -> list[torch.Tensor]:
        weights = {str(index): tensor for index, tensor in enumerate(tensors)}
        return list(host.of(Checkpoint(step=1, weights=weights, average=None, tensors={}, record={})).weights.values())

    first = of(strided, torch.ones(3))
    again = of(strided + 1, torch.ones(3, dtype=torch.float64), torch.ones(1))
    assert first[0].data_ptr() == again[0].data_ptr() and first[0].stride() == strided.stride()
    assert torch.equal(again[0], strided + 1)
    assert again[1].dtype == torch.float64 and torch.equal(again[1], torch.ones(3, dtype=torch.float64))
    assert len(again) == 3


class SlowDisk:
    """Takes checkpoints one by one, each when it is let to."""

    def __init__(self) -> None:
        self.begun, self.may = threading.Semaphore(0), threading.Semaphore(0)
        self.written: list[tuple[int, float]] = []
        self.error: Exception | None = None

    def write(self, checkpoint: Checkpoint) -> None:
        self.begun.release()
        assert self.may.acquire(timeout=30)
        if self.error is not None:
            raise self.error
        self.written.append((checkpoint.step, float(checkpoint.weights["weight"][0, 0])))


@pytest.fixture
def disk() -> SlowDisk:
    return SlowDisk()


def test_one_at_a_time_and_the_next_waits(disk: SlowDisk) -> None:
    writer = CheckpointWriter(disk.write, background=True)
    writer.save(checkpoint(1), wait=False)  # returns: the disk has not let it yet
    with ThreadPoolExecutor(1) as training:
        second = training.submit(writer.save, checkpoint(2), wait=False)
        assert disk.begun.acquire(timeout=30)
        assert not disk.begun.acquire(timeout=0.2) and not second.done()
        disk.may.release()
        second.result(timeout=30)
    assert disk.written == [(1, 1.0)]
    disk.may.release()
    writer.wait()
    assert disk.written == [(1, 1.0), (2, 2.0)]
    assert writer.close() is None


def test_the_last_is_waited_for(disk: SlowDisk) -> None:
    writer = CheckpointWriter(disk.write, background=True)
    writer.save(checkpoint(1), wait=False)
    disk.may.release(2)
    writer.save(checkpoint(2), wait=True)
    assert [step for step, _ in disk.written] == [1, 2]


def test_without_a_thread(disk: SlowDisk) -> None:
    writer = CheckpointWriter(disk.write, background=False)
    disk.may.release()
    writer.save(checkpoint(1), wait=False)
    assert disk.written == [(1, 1.0)]


def test_what_failed_is_raised_once_and_by_the_next(disk: SlowDisk) -> None:
    writer, disk.error = CheckpointWriter(disk.write, background=True), OSError("no room")
    assert not writer.failed()
    writer.save(checkpoint(1), wait=False)
    assert not writer.failed()
    disk.may.release()
    with pytest.raises(OSError, match="no room"):
        writer.save(checkpoint(2), wait=False)
    assert not writer.failed()
    writer.wait()
    assert disk.written == []


def test_what_nobody_waited_for_is_told_at_the_end(disk: SlowDisk) -> None:
    writer, disk.error = CheckpointWriter(disk.write, background=True), OSError("no room")
    writer.save(checkpoint(1), wait=False)
    disk.may.release()
    assert writer.close() is disk.error
    assert writer.failed()
