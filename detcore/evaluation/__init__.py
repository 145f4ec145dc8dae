"""Detections and ground truth to metrics and curves."""

from detcore.evaluation.evaluator import Evaluation, Evaluator, evaluate_results
from detcore.evaluation.metrics import PRCurve
from detcore.evaluation.plots import save_pr_curve
from detcore.evaluation.results import ImageDetections, Results
from detcore.evaluation.truth import GroundTruth

__all__ = [
    "Evaluation",
    "Evaluator",
    "GroundTruth",
    "ImageDetections",
    "PRCurve",
    "Results",
    "evaluate_results",
    "save_pr_curve",
]
