"""What the machine does meanwhile, under MLflow's names for it, so that its UI shows it as system metrics."""

import logging
import os
import threading
from collections.abc import Callable
from typing import Any

import psutil
import torch

from detcore.tracking.client import one_line

_log = logging.getLogger(__name__)


class SystemSampler:
    """Samples CPU, memory, disk, network and GPUs of rank 0's machine in a thread.

    Only MLflow's gauges are used: its own monitor ends for good at the first request that fails.

    Args:
        report: takes the number of a sample, from 0, and its values by name.
        seconds: from one sample to the next; None takes MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL, else 10.
    """

    def __init__(self, report: Callable[[int, dict[str, float]], None], *, seconds: float | None = None) -> None:
        self._report = report
        self._seconds = seconds or float(os.environ.get("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", 10))
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="detcore-system-metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Takes a last sample."""
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            gauges, process = _gauges(), psutil.Process()
            count, ended = 0, False
            while not ended:
                ended = self._ended.wait(self._seconds)
                values = {"process_memory_megabytes": process.memory_info().rss / 1e6}
                if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
                    values["process_gpu_memory_peak_megabytes"] = torch.cuda.max_memory_allocated() / 1e6
                for gauge in gauges:
                    gauge.collect_metrics()
                    values |= gauge.aggregate_metrics()
                    gauge.clear_metrics()
                self._report(count, {f"system/{name}": float(value) for name, value in values.items()})
                count += 1
        except Exception as error:  # a container may hide anything from psutil; training does not need it
            _log.warning("no system metrics: %s", one_line(error))


def _gauges() -> list[Any]:
    from mlflow.system_metrics.metrics import cpu_monitor, disk_monitor, gpu_monitor, network_monitor

    # MLflow has no types for them.
    always: list[Any] = [cpu_monitor.CPUMonitor, disk_monitor.DiskMonitor, network_monitor.NetworkMonitor]
    gauges = [gauge() for gauge in always]
    gpu: Any = gpu_monitor.GPUMonitor
    try:
        return [*gauges, gpu()]
    except (ImportError, RuntimeError):  # no nvidia-ml-py, or no GPU
        return gauges
