"""A search for better settings: trainings side by side on Ray, each a trial, under Ray Tune."""

from detcore.launch.tuning.sweep import SweepResult, tune

__all__ = ["SweepResult", "tune"]
