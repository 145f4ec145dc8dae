"""The threads of a loader."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import torch


def own_cores() -> int:
    """Cores of this process: Ray and torchrun tell a worker its share through OMP_NUM_THREADS, which torch follows."""
    return min(len(os.sched_getaffinity(0)), torch.get_num_threads())


def start_threads(number: int) -> ThreadPoolExecutor:
    """A pool whose threads each run torch's operators on themselves alone: parallelism is over samples and batches.

    torch.set_num_threads sets the calling thread's number, and the default that other threads take over when they first
    ask: so a thread asks before it sets its own, and the default is put back.
    """
    of_caller = torch.get_num_threads()
    executor = ThreadPoolExecutor(number, thread_name_prefix="detcore-loader")
    started = threading.Barrier(number + 1)

    def settle() -> None:
        torch.get_num_threads()
        torch.set_num_threads(1)
        started.wait()

    for _ in range(number):
        executor.submit(settle)
    started.wait()
    torch.set_num_threads(of_caller)
    return executor
