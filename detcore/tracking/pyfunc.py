"""The detector as MLflow sees it. MLflow copies this file into the model and runs the copy when it loads the model."""

import base64
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.protos.databricks_pb2 import BAD_REQUEST
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from detcore.data.images import read_image
from detcore.inference import Prediction, load_folder
from detcore.inference.sources import ImageSource

_SERVED = "_MLFLOW_IS_IN_SERVING_ENVIRONMENT"
"""MLflow sets it to true in the processes that it serves a model from."""
_LONGEST_PATH = 4096
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
            model_input: MLflow makes this table of what it is given: of a text or a list of texts, a column without a
                name, of paths or base64 images. A table has a column `path`, or a column `image` of base64 text, bytes
                or uint8 arrays (H, W, 3). Behind `mlflow models serve` paths are refused: a client's would be the
                server's own files.
            params: `score_threshold`.

        Returns:
            Columns image (row of the input, from 0), x_min, y_min, x_max, y_max, score, label (0-based class),
            class_name and mask (COCO's compressed run lengths as JSON, or None).

        Raises:
            ValueError: if a file does not exist or an image cannot be read.
            MlflowException: the same behind `mlflow models serve`, which sends a stack trace with all others.
        """
        served = os.environ.get(_SERVED) == "true"
        try:
            rows = self._rows(_images(model_input, served=served), params or {})
        except ValueError as error:
            if served:
                raise MlflowException(str(error), error_code=BAD_REQUEST) from None
            raise
        return pd.DataFrame(rows, columns=list(COLUMNS))

    def _rows(self, images: list[ImageSource], params: dict[str, Any]) -> list[tuple[Any, ...]]:
        predictions = self._predictor.stream(images, **params) if images else ()
        return [row for index, prediction in enumerate(predictions) for row in _rows(index, prediction)]


def _images(table: pd.DataFrame, *, served: bool) -> list[ImageSource]:
    if "image" in table:
        return [_decoded(cell) for cell in table["image"]]
    cells = list(table.iloc[:, 0]) if table.shape[1] else []
    if served:
        if "path" in table:
            raise ValueError("column path: a server reads no files for its clients; send a column image, in base64")
        return [_decoded(cell) for cell in cells]
    return [_existing(cell) if "path" in table else _either(cell) for cell in cells]


def _either(cell: Any) -> ImageSource:
    """A path if there is such a file, else base64."""
    if not isinstance(cell, str):
        return _decoded(cell)
    if len(cell) <= _LONGEST_PATH and Path(cell).is_file():
        return Path(cell)
    try:
        return _decoded(cell)
    except ValueError as error:
        raise ValueError(f"{cell[:200]}: no such file, and as base64: {error}") from None


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
    except ValueError:  # binascii's, or of characters beyond ASCII
        raise ValueError(f"{image[:40]!r} is not base64; paths go into a column path") from None
    if not isinstance(data, bytes):
        raise ValueError(f"{str(image)[:40]} is no base64 text, bytes or array")
    return read_image(data)[0]


def _rows(index: int, prediction: Prediction) -> list[tuple[Any, ...]]:
    rows = []
    for found in prediction.to_dict()["detections"]:
        mask = json.dumps(found["mask"]) if "mask" in found else None
        rows.append((index, *found["box_xyxy"], found["score"], found["label"], found["class_name"], mask))
    return rows


set_model(Detector())
