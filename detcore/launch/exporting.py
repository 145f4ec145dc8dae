"""A published model to a file for other programs: measured in int8 on data, kept in the registry."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from detcore.config import Config
from detcore.data import ShardedSplit
from detcore.data.decoding import decode
from detcore.export import Exported, Format, Int8, export
from detcore.inference import Predictor
from detcore.inference.sources import Source
from detcore.launch.evaluation import evaluate_predictor
from detcore.launch.training import ensure_shards
from detcore.tracking import keep_export

CALIBRATION_IMAGES = 100
COMPARED_IMAGES = 8


def export_model(
    folder: Path,
    file: Path,
    *,
    format: Format,
    images: Source | None = None,
    data: Config | None = None,
    int8: bool = False,
    max_ap_loss: float = 1.0,
) -> Exported:
    """`detcore.export.export`, with images and figures from prepared data.

    Args:
        folder: of the published model.
        file: to be written.
        format: what runs it.
        images: to compare on; None takes some of the data's val split.
        data: is prepared where it was not. Its train split calibrates int8, its val split tells what that costs.
        int8: quantise.
        max_ap_loss: what int8 may cost at most, in points of AP.

    Raises:
        ValueError: as `export`; or neither images nor data, or int8 without data.
    """
    if int8 and data is None:
        raise ValueError("int8 is calibrated and measured on data with ground truth: name it (--data)")
    if images is None and data is None:
        raise ValueError("the file is compared with the model on images: name some (--images), or data (--data)")
    settings = None
    if data is not None:
        ensure_shards(data)
    if images is None:
        assert data is not None
        images = _pictures(data, "val", COMPARED_IMAGES)
    if int8:
        assert data is not None
        settings = Int8(
            pictures=_pictures(data, "train", CALIBRATION_IMAGES), measure=_on_val(data), max_loss=max_ap_loss
        )
    return export(folder, file, format=format, images=images, int8=settings)


def register_export(name: str, file: Path, *, format: Format, exported: Exported) -> str:
    """Keeps a file that `export_model` wrote with the registered version it was made of; gives that as `name/version`.

    Raises:
        ValueError, ConnectionError: as `keep_export`.
    """
    files = [file, *([file.with_suffix(".bin")] if format == "openvino" else [])]
    return keep_export(name, files, format=format, facts=asdict(exported))


def _on_val(data: Config) -> Callable[[Predictor], dict[str, float]]:
    """Gives the figures, on the val split, of anything that predicts."""
    engine = data.engine.model_copy(update={"device": "cpu", "precision": "fp32", "tta": None})
    config = data.model_copy(update={"engine": engine})
    return lambda predictor: evaluate_predictor(predictor, config, split="val").metrics


def _pictures(data: Config, split: str, count: int) -> list[Any]:
    """(h, w, 3) uint8, spread over the split."""
    with closing(ShardedSplit.open(data.data.shards, split, store=data.data.store)) as opened:
        return [decode(opened.read(index)).numpy() for index in opened.spread(count)]
