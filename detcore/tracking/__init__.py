"""Runs, metrics and the model registry: the only room that knows MLflow."""

from detcore.tracking.buffer import flush_buffer
from detcore.tracking.callback import TrackingCallback
from detcore.tracking.handle import RunHandle
from detcore.tracking.lookup import resolve
from detcore.tracking.pictures import Pictures
from detcore.tracking.registry import RegisteredVersion, register
from detcore.tracking.runs import close_run, log_evaluation, open_run

__all__ = [
    "Pictures",
    "RegisteredVersion",
    "RunHandle",
    "TrackingCallback",
    "close_run",
    "flush_buffer",
    "log_evaluation",
    "open_run",
    "register",
    "resolve",
]
