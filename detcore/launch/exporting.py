"""A published model to a file for other programs: measured in int8 on data, kept in the registry."""

import json
import shutil
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from detcore.config import Config
from detcore.data import ShardedSplit
from detcore.data.decoding import decode
from detcore.engine.atomic import write_file
from detcore.export import QUANTIZED, SUFFIX, Exported, Format, Int8, export
from detcore.inference import Predictor
from detcore.inference.sources import Source
from detcore.launch.evaluation import evaluate_predictor
from detcore.launch.registration import FILE_NAME as REGISTERED
from detcore.launch.training import ensure_shards
from detcore.tracking import keep_export
from detcore.tracking.client import tracking_uri

FOLDER = "exported"
CALIBRATION_IMAGES = 100
COMPARED_IMAGES = 8
_STEM: dict[Format, str] = {"aoti": "model-aoti"}
"""Where another format has the same suffix."""


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


def register_export(name: str, file: Path, *, format: Format, exported: Exported, uri: str | None = None) -> str:
    """Keeps a file that `export_model` wrote with the registered version it was made of; gives that as `name/version`.

    Args:
        uri: of the registry; None takes MLFLOW_TRACKING_URI, else the database in the working folder.

    Raises:
        ValueError, ConnectionError: as `keep_export`.
    """
    files = [file, *([file.with_suffix(".bin")] if format == "openvino" else [])]
    return keep_export(name, files, format=format, facts=asdict(exported), uri=uri)


def export_published(config: Config) -> list[str]:
    """Writes `<run_dir>/exported/model.*` in each of `export.formats`, and `export.json`, what was measured of them.

    Where `<run_dir>/registered.json` says which version the model is, that keeps them.

    Returns:
        A line for each format.

    Raises:
        ValueError: as `export_model`, or nothing is registered under that name any more.
        ConnectionError: MLflow is out of reach.
    """
    run_dir, settings = Path(config.run_dir), config.export
    folder, registered = run_dir / FOLDER, run_dir / REGISTERED
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    measured, lines = {}, []
    for format in settings.formats:
        file = folder / f"{_STEM.get(format, 'model')}{SUFFIX[format]}"
        exported = export_model(
            run_dir / "model",
            file,
            format=format,
            data=config,
            int8=settings.int8 and format in QUANTIZED,
            max_ap_loss=settings.max_ap_loss,
        )
        measured[format] = asdict(exported)
        lines.append(f"{file}: {exported}")
        if registered.is_file():
            version = json.loads(registered.read_text())
            title = f"{version['name']}/{version['version']}"
            uri = tracking_uri(config.tracking)
            lines.append(f"kept with {register_export(title, file, format=format, exported=exported, uri=uri)}")
    write_file(folder / "export.json", (json.dumps(measured, indent=2) + "\n").encode())
    return lines


def _on_val(data: Config) -> Callable[[Predictor], dict[str, float]]:
    """Gives the figures, on the val split, of anything that predicts."""
    engine = data.engine.model_copy(update={"device": "cpu", "precision": "fp32", "tta": None})
    config = data.model_copy(update={"engine": engine})
    return lambda predictor: evaluate_predictor(predictor, config, split="val").metrics


def _pictures(data: Config, split: str, count: int) -> list[Any]:
    """(h, w, 3) uint8, spread over the split."""
    with closing(ShardedSplit.open(data.data.shards, split, store=data.data.store)) as opened:
        return [decode(opened.read(index)) for index in opened.spread(count)]
