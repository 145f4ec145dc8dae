"""Detections and ground truth to metrics and curves."""

from detcore.evaluation.evaluator import Evaluation, Evaluator, ImageDetections
from detcore.evaluation.metrics import PRCurve
from detcore.evaluation.plots import save_pr_curve

__all__ = ["Evaluation", "Evaluator", "ImageDetections", "PRCurve", "save_pr_curve"]
