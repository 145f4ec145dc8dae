"""Who holds up a training whose ranks wait for each other: found in seconds, and named.

A rank that hangs leaves the others in a collective operation, which they cannot leave by themselves and which says
nothing for many minutes. So every rank tells a store how far it has come and where its training thread is, once a
second and from another thread, and reads the same of the others.
"""

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from types import FrameType

import psutil
import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]

_INTERVAL_SECONDS = 1.0
_RANKS_A_SECOND = 32
"""Larger worlds look less often: rank 0's store answers each rank with the signs of all."""
_STORE_SECONDS = 5
_LONGER_THAN_EVER = 5.0
"""A step is allowed so many times what the longest one has taken."""
_UNBOUNDED = 10.0
"""What has no usual length, such as saving, is allowed so many times more while it does something."""
_BUSY_CPU_SHARE, _BUSY_BYTES = 0.2, 1 << 20
"""What a process must use in a second, or write, to be doing something: threads that only look around use less."""
_TORCH = str(Path(torch.__file__).parent)
_WAITING = tuple(f"{_TORCH}/{part}" for part in ("distributed/", "nn/parallel/distributed.py", "autograd/graph.py"))
_PYTHON = str(Path(os.__file__).parent)


class StalledError(TimeoutError):
    """A rank has stopped going on. The message names it, its step and its place in the code."""


@dataclass(frozen=True, kw_only=True)
class Sign:
    """What a rank says of itself.

    Attributes:
        step: optimiser steps done.
        beats: how often it has said that it goes on.
        bounded: whether what it does now takes about as long as it did before.
        waits: whether it is in a collective operation.
        busy: whether its process computes, writes or waits for a disk, or has just begun.
        where: the place in the code.
        process: a name for people.
        count: of these signs, so that two that are alike can be told apart.
    """

    step: int
    beats: int
    bounded: bool
    waits: bool
    busy: bool
    where: str
    process: str
    count: int


@dataclass
class _Seen:
    """What is known of a rank, and since when by this process's clock: other clocks are never compared."""

    sign: Sign
    heard: float
    beaten: float
    alive: float


class StallWatch:
    """Watches the ranks of a training: between `start` and `stop` a thread exchanges signs.

    Args:
        rank, world_size: of this process.
        store: one that all ranks reach, or None where there is one rank; used by no one else, for it may block.
        timeout_s: what a rank may take to go on.
        place: of this process, for people.
    """

    def __init__(self, *, rank: int, world_size: int, store: Store | None, timeout_s: float, place: str) -> None:
        self._rank, self._world_size, self._timeout = rank, world_size, timeout_s
        self._store = None if store is None else PrefixStore("detcore-stall", store)
        self._interval = _INTERVAL_SECONDS * max(1.0, world_size / _RANKS_A_SECOND)
        self._process = f"process {os.getpid()} on {place}"
        self._beat = (0, 0, False, time.monotonic())
        self._longest = 0.0
        self._usage = _usage()
        self._seen: dict[int, _Seen] = {}
        self._exchanged = time.monotonic()
        self._thread: threading.Thread | None = None
        self._ended = threading.Event()

    def beat(self, step: int, *, bounded: bool) -> None:
        """This rank goes on; called by the thread that trains, and costs nothing."""
        now = time.monotonic()
        _, beats, was_bounded, since = self._beat
        if was_bounded:
            self._longest = max(self._longest, now - since)
        self._beat = (step, beats + 1, bounded, now)

    def start(self, trains: threading.Thread) -> None:
        """Begins to exchange signs of the thread that trains."""
        self._thread = trains
        threading.Thread(target=self._exchange, name="detcore-stall", daemon=True).start()

    def stop(self) -> None:
        self._ended.set()

    def check(self) -> None:
        """Called now and then by a thread that never blocks.

        Raises:
            StalledError: if no rank has gone on for too long.
        """
        now, seen = time.monotonic(), dict(self._seen)
        limit = max(self._timeout, _LONGER_THAN_EVER * self._longest)
        if now - self._exchanged > limit:
            where = seen[0].sign.process if 0 in seen else "which was never heard"
            raise StalledError(f"rank 0 ({where}) has not answered for {limit:.0f} s: {_GONE}")
        if not seen or now - max(rank.alive for rank in seen.values()) <= limit:
            return
        raise StalledError(_verdict(seen, now=now, limit=limit))

    def _exchange(self) -> None:
        count = 0
        # Quickly until all are known: one that is lost right after its first steps is to be named, too.
        while not self._ended.wait(self._interval if len(self._seen) == self._world_size else self._interval / 10):
            count += 1
            try:
                signs = self._signs(self._sign(count))
            except (RuntimeError, OSError, ValueError):  # the store is gone or slow; `check` sees for how long
                continue
            now = time.monotonic()
            self._exchanged = now
            for rank, sign in signs.items():
                self._seen[rank] = _follow(self._seen.get(rank), sign, now=now, timeout=self._timeout)

    def _sign(self, count: int) -> Sign:
        step, beats, bounded, _ = self._beat
        begun = self._longest > 0.0  # the first step waits for data and operators to be there, or captures graphs
        usage, before = _usage(), self._usage
        self._usage = usage
        cpu, written = usage[0] - before[0], usage[1] - before[1]
        busy = not begun or cpu > _BUSY_CPU_SHARE * self._interval or written > _BUSY_BYTES or _waits_for_disk()
        waits, where = _place(self._thread)
        return Sign(
            step=step,
            beats=beats,
            bounded=bounded and begun,
            waits=waits,
            busy=busy,
            where=where,
            process=self._process,
            count=count,
        )

    def _signs(self, own: Sign) -> dict[int, Sign]:
        """Of all ranks, once all have given one, after giving one's own."""
        if self._store is None:
            return {self._rank: own}
        self._store.set(str(self._rank), json.dumps(asdict(own)))
        ranks = [str(rank) for rank in range(self._world_size)]
        if not self._store.check(ranks):
            return {self._rank: own}
        return {rank: Sign(**json.loads(sign)) for rank, sign in enumerate(self._store.multi_get(ranks))}


_GONE = "its process is stopped, or its machine or network is gone"


def own_store() -> Store | None:
    """A connection of its own to the store that torch.distributed's ranks met in; None where there is one rank."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return None
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return TCPStore(address, port, is_master=False, timeout=timedelta(seconds=_STORE_SECONDS))


def host_name(address: str) -> str:
    """A machine for people: its name, and the address by which the cluster knows it."""
    return f"{socket.gethostname()} ({address})"


def _follow(seen: _Seen | None, sign: Sign, *, now: float, timeout: float) -> _Seen:
    if seen is None:
        return _Seen(sign=sign, heard=now, beaten=now, alive=now)
    fresh = sign.count != seen.sign.count
    beaten = now if sign.beats != seen.sign.beats else seen.beaten
    working = fresh and sign.busy and not sign.bounded and not sign.waits and now - beaten < _UNBOUNDED * timeout
    alive = now if working else max(beaten, seen.alive)
    return _Seen(sign=sign, heard=now if fresh else seen.heard, beaten=beaten, alive=alive)


def _verdict(seen: Mapping[int, _Seen], *, now: float, limit: float) -> str:
    """Who of ranks that all stand still is to blame: the silent, else the furthest behind that does not wait."""
    silent = {rank: one for rank, one in seen.items() if now - one.heard > limit / 2}
    behind = min(one.sign.step for one in seen.values())
    last = {rank: one for rank, one in seen.items() if one.sign.step == behind}
    working = {rank: one for rank, one in last.items() if not one.sign.waits}
    told = []
    for rank, one in sorted((silent or working or last).items()):
        still = f"not gone on after step {one.sign.step} for {now - one.alive:.0f} s"
        if rank in silent:
            still = f"not been heard of for {now - one.heard:.0f} s, last after step {one.sign.step}"
        told.append(
            f"rank {rank} ({one.sign.process}) has {still}: {_GONE if rank in silent else 'it is in ' + one.sign.where}"
        )
    others = "" if len(told) == len(seen) else "; the other ranks wait"
    return f"{'; '.join(told)}{others}. Stopped, with the last checkpoint kept (cluster.stall_timeout_s)"


def _place(thread: threading.Thread | None) -> tuple[bool, str]:
    """Whether a thread is in a collective operation, and the innermost place in code not Python's or torch's."""
    frame: FrameType | None = sys._current_frames().get(thread.ident or 0) if thread is not None else None
    if frame is None:
        return False, "no code"
    innermost = frame
    waits = innermost.f_code.co_filename.startswith(_WAITING)
    while frame is not None and frame.f_code.co_filename.startswith((_TORCH, _PYTHON, "<")):
        frame = frame.f_back
    found = frame or innermost
    return waits, f"{Path(found.f_code.co_filename).name}:{found.f_lineno} {found.f_code.co_name}"


def _usage() -> tuple[float, int]:
    """CPU seconds and bytes written of this process so far."""
    process = psutil.Process()
    times = process.cpu_times()
    try:
        written = process.io_counters().write_chars
    except (AttributeError, psutil.Error):  # of systems that do not tell
        written = 0
    return times.user + times.system, written


def _waits_for_disk() -> bool:
    """Whether a thread of this process is in an uninterruptible sleep, as in syncing a file."""
    for stat in Path("/proc/self/task").glob("*/stat"):
        with suppress(OSError):  # of a thread that has just ended
            if stat.read_text().rpartition(") ")[2].startswith("D"):
                return True
    return False
