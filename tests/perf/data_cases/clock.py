"""Rates that a noisy machine leaves comparable: images over seconds of processor time, cases taking turns."""

import statistics
import time
from collections.abc import Callable

Work = Callable[[], int]
"""Handles some images and says how many."""


def cpu_rates(cases: dict[str, Work], *, rounds: int) -> dict[str, float]:
    """Images a second of one core: the median over rounds in which the cases take turns, after one that warms up.

    Processor time is that of all threads of this process, the kernel's share included, so that neighbours on the
    machine, who take time away, do not count.
    """
    found: dict[str, list[float]] = {name: [] for name in cases}
    for turn in range(rounds + 1):
        for name, work in cases.items():
            before = time.process_time()
            images = work()
            if turn:
                found[name].append(images / (time.process_time() - before))
    return {name: statistics.median(rates) for name, rates in found.items()}
