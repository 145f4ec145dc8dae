"""A published model to predictions and pictures."""

from detcore.inference.draw import Drawing, compare, draw, truth_drawing
from detcore.inference.exported import load_exported
from detcore.inference.folder import PublishedModel, load_folder, read_description
from detcore.inference.prediction import Prediction
from detcore.inference.predictions import Predictions
from detcore.inference.predictor import Predictor
from detcore.inference.regions import Regions

__all__ = [
    "Drawing",
    "Prediction",
    "Predictions",
    "Predictor",
    "PublishedModel",
    "Regions",
    "compare",
    "draw",
    "load_exported",
    "load_folder",
    "read_description",
    "truth_drawing",
]
