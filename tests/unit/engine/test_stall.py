"""Who holds a training up: ranks as threads of this process, over a store as torch's own."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta

import pytest
import torch.distributed as dist

from detcore.engine import stall
from detcore.engine.stall import StalledError, StallWatch

TIMEOUT = 0.8


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stall, "_INTERVAL_SECONDS", 0.02)


@contextmanager
def watched(trains: threading.Thread | None = None, *, ranks: int = 2) -> Iterator[list[StallWatch]]:
    """A watch for each rank, all of which this thread or the given one trains."""
    store = dist.HashStore()
    watches = [
        StallWatch(rank=rank, world_size=ranks, store=store, timeout_s=TIMEOUT, place=f"node-{rank}")
        for rank in range(ranks)
    ]
    for watch in watches:
        watch.beat(6, bounded=True)
        watch.beat(7, bounded=True)  # so that it is known how long a step takes
        watch.start(trains or threading.current_thread())
    try:
        yield watches
    finally:
        for watch in watches:
            watch.stop()


def wait_until(condition: Callable[[], bool]) -> None:
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < 20
        time.sleep(0.01)


def stalled(watch: StallWatch) -> str:
    """What it says in the end."""
    said = []

    def asked() -> bool:
        try:
            watch.check()
        except StalledError as error:
            said.append(str(error))
        return bool(said)

    wait_until(asked)
    return said[0]


def test_ranks_that_go_on_are_left_alone() -> None:
    with watched() as watches:
        until = time.monotonic() + 3 * TIMEOUT
        while time.monotonic() < until:
            watches[0].beat(8, bounded=True)  # one is enough: the others may be in its collective operation
            for watch in watches:
                watch.check()
            time.sleep(0.01)


def test_the_rank_behind_is_named_by_all() -> None:
    with watched(ranks=3) as watches:
        for ahead in (0, 2):
            watches[ahead].beat(8, bounded=True)
        for watch in watches:
            said = stalled(watch)
            assert said.startswith("rank 1 (process ")
            assert "on node-1) has not gone on after step 7 for" in said
            assert "test_stall.py" in said and "; the other ranks wait." in said
            assert "rank 0" not in said and "rank 2" not in said


def test_a_rank_whose_process_stands_still_is_named() -> None:
    with watched() as watches:
        wait_until(lambda: all(len(watch._seen) == 2 for watch in watches))
        watches[1].stop()
        assert "rank 1" in stalled(watches[0])
        assert "its process is stopped, or its machine or network is gone" in stalled(watches[0])


def test_a_store_that_does_not_answer_is_rank_zeros(monkeypatch: pytest.MonkeyPatch) -> None:
    with watched() as watches:
        wait_until(lambda: len(watches[1]._seen) == 2)

        def gone(*_: object) -> None:
            raise dist.DistStoreError("timeout")

        monkeypatch.setattr(StallWatch, "_signs", gone)
        assert stalled(watches[1]).startswith("rank 0 (process ")


def test_what_has_no_usual_length_may_take_longer_while_it_computes() -> None:
    with watched(ranks=1) as (watch,):
        watch.beat(8, bounded=False)
        until = time.monotonic() + 3 * TIMEOUT
        while time.monotonic() < until:  # busy
            watch.check()
        assert "rank 0" in stalled(watch)  # idle now


def test_a_step_may_take_as_long_as_the_longest_before() -> None:
    watch = StallWatch(rank=0, world_size=1, store=None, timeout_s=TIMEOUT, place="here")
    watch.beat(0, bounded=True)
    time.sleep(TIMEOUT)
    watch.beat(1, bounded=True)
    watch.start(threading.current_thread())
    try:
        time.sleep(2 * TIMEOUT)
        watch.check()
        stalled(watch)
    finally:
        watch.stop()


def test_waiting_for_other_ranks_is_told_from_hanging() -> None:
    def meet() -> None:
        with suppress(dist.DistNetworkError, dist.DistStoreError):  # nobody comes
            next(dist.rendezvous("tcp://127.0.0.1:0", rank=0, world_size=2, timeout=timedelta(seconds=2)))

    def hang() -> None:
        time.sleep(1)

    for target, expected in ((meet, True), (hang, False)):
        thread = threading.Thread(target=target)
        thread.start()
        wait_until(lambda thread=thread: stall._place(thread)[1].endswith(("meet", "hang")))
        time.sleep(0.3)
        waits, where = stall._place(thread)
        assert waits is expected
        assert where.startswith("test_stall.py:")
        thread.join()
    assert stall._place(thread) == (False, "no code")
