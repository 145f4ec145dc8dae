"""Predictions and targets to scalars. Every divisor is global: see `global_mean_divisor`."""

from detcore.losses.normalizer import global_mean_divisor

__all__ = ["global_mean_divisor"]
