"""A detector that finds the same two objects in every image, to serve without a model."""

import io
import threading
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from detcore.config.transforms import ResizeFixed
from detcore.inference import Predictor
from detcore.inference.preprocessing import Preprocessing
from detcore.serving import ServedDetector, ServingMetrics, ServingSettings
from detcore.structures.batch import Batch, Detections

SIDE = 64
LABELS = ("cat", "dog")
POISON = 7
"""The grey of images that the model fails on."""


class FixedDetector(nn.Module):
    """A cat in the left half, 0.9, and a dog in the right half, 0.6, whose mask is its upper half.

    Attributes:
        sizes: of the batches seen.
        go: the model waits for it.
    """

    predicts = ("boxes", "masks")

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []
        self.go = threading.Event()
        self.go.set()

    def detect(self, batch: Batch) -> Detections:
        assert self.go.wait(20)
        self.sizes.append(len(batch.images))
        if (batch.images.mean(dim=(1, 2, 3)).round() == POISON).any():
            raise RuntimeError("the model's own secrets")
        count, half = len(batch.images), SIDE / 2
        boxes = torch.tensor([[0.0, 0.0, half, SIDE], [half, 0.0, SIDE, SIDE]])
        masks = torch.ones(2, 28, 28)
        masks[1, 14:] = 0
        return Detections(
            boxes_xyxy=boxes.expand(count, 2, 4),
            scores=torch.tensor([0.9, 0.6]).expand(count, 2),
            labels=torch.tensor([0, 1]).expand(count, 2),
            valid=torch.ones(count, 2, dtype=torch.bool),
            masks=masks.expand(count, 2, 28, 28),
        )


def served(model: FixedDetector, **settings: Any) -> tuple[ServedDetector, ServingSettings, ServingMetrics]:
    """What an application is made of."""
    preprocessing = Preprocessing(
        transform=ResizeFixed(height=SIDE, width=SIDE), image_mean=(0, 0, 0), image_std=(1, 1, 1), size_divisor=1
    )
    predictor = Predictor(model=model, labels=LABELS, preprocessing=preprocessing, device=torch.device("cpu"))
    chosen, metrics = ServingSettings(model="pets", **settings), ServingMetrics(replica="0")
    return ServedDetector(predictor, chosen, on_batch=metrics.batch), chosen, metrics


def picture(height: int = 20, width: int = 40, *, grey: int | None = None, format: str = "PNG") -> bytes:
    """An image file, of noise if it is not to be grey."""
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    pixels = noise if grey is None else np.full((height, width, 3), grey, np.uint8)
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, format)
    return encoded.getvalue()
