"""The loop: fit, and what it is made of. Knows neither what started it nor who keeps its records."""

from detcore.engine.callbacks import Callback, Start
from detcore.engine.checkpoint import CheckpointError
from detcore.engine.evaluate import Scores, evaluate, evaluator_of, ground_truth, predictions
from detcore.engine.fit import FitResult, fit
from detcore.engine.meter import NonFiniteLossError
from detcore.engine.precision import Precision
from detcore.engine.worker import LocalWorker, Worker, pick_device

__all__ = [
    "Callback",
    "CheckpointError",
    "FitResult",
    "LocalWorker",
    "NonFiniteLossError",
    "Precision",
    "Scores",
    "Start",
    "Worker",
    "evaluate",
    "evaluator_of",
    "fit",
    "ground_truth",
    "pick_device",
    "predictions",
]
