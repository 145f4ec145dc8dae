"""The detector as MLflow sees it. MLflow copies this file into the model and runs the copy when it loads the model."""

import base64
import binascii
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from detcore.data.images import read_image
from detcore.inference import Prediction, load_folder
from detcore.inference.sources import ImageSource

COLUMNS = ("image", "x_min", "y_min", "x_max", "y_max", "score", "label", "class_name", "mask")


class Detector(PythonModel):
    """Images in, a table of detections out."""

    def load_context(self, context: PythonModelContext) -> None:
        """Loads the published folder, onto the GPU where there is one."""
        self._predictor = load_folder(Path(context.artifacts["model"]))

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Detections in all images, one row each, in original pixels.

        Args:
            model_input: MLflow makes this table of what it is given: of a path or a list of paths, a column without a
                name. A table has a column `path`, or a column `image` of base64 text, bytes or uint8 arrays (H, W, 3).
            params: `score_threshold`.

        Returns:
            Columns image (row of the input, from 0), x_min, y_min, x_max, y_max, score, label (0-based class),
            class_name and mask (COCO's compressed run lengths as JSON, or None).

        Raises:
            ValueError: if a file does not exist or an image cannot be read.
        """
        images: list[ImageSource]
        if "image" in model_input:
            images = [_decoded(cell) for cell in model_input["image"]]
        else:
            images = [_existing(cell) for cell in model_input.iloc[:, 0]]
        rows: list[tuple[Any, ...]] = []
        if images:
            for index, prediction in enumerate(self._predictor.stream(images, **(params or {}))):
                rows += _rows(index, prediction)
        return pd.DataFrame(rows, columns=list(COLUMNS))


def _existing(path: Any) -> Path:
    """Only files: a folder would give more images than the input has rows."""
    if not Path(path).is_file():
        raise ValueError(f"{path}: no such file")
    return Path(path)


def _decoded(image: Any) -> ImageSource:
    if isinstance(image, np.ndarray):
        return image
    try:
        data = base64.b64decode(image, validate=True) if isinstance(image, str) else image
    except binascii.Error:
        raise ValueError(f"column image: {image[:40]!r} is not base64; paths go into a column path") from None
    return read_image(data)[0]


def _rows(index: int, prediction: Prediction) -> list[tuple[Any, ...]]:
    rows = []
    for found in prediction.to_dict()["detections"]:
        mask = json.dumps(found["mask"]) if "mask" in found else None
        rows.append((index, *found["box_xyxy"], found["score"], found["label"], found["class_name"], mask))
    return rows


set_model(Detector())
