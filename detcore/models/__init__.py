"""Images to predictions: backbones, necks, heads, and one file for each detector."""

from detcore.models.build import build_model

__all__ = ["build_model"]
