"""Writes what was converted as a published folder."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor, nn

from detcore.config.model import KeypointRCNN, ModelConfig
from detcore.config.transforms import ResizeShortestEdge
from detcore.convert.coco_classes import COCO_KEYPOINTS, COCO_SKELETON
from detcore.engine.atomic import write_folder
from detcore.inference.folder import DESCRIPTION, FORMAT_VERSION, WEIGHTS


@dataclass(frozen=True, kw_only=True)
class Converted:
    """What was written, and what the user should know of it.

    Attributes:
        folder: the published model.
        config: its architecture.
        num_tensors, num_parameters: of the weights.
        notes: assumptions that were made.
    """

    folder: Path
    config: ModelConfig
    num_tensors: int
    num_parameters: int
    notes: tuple[str, ...]


def expect_new(folder: Path) -> None:
    """ValueError where `folder` is there and not empty."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} exists and is not an empty folder")


def name_of(file: Path) -> str:
    """What a model from `file` is called; a file called "model" says nothing, so its folder is named too."""
    stem = re.sub(r"\W+", "-", file.stem).strip("-")
    parent = re.sub(r"\W+", "-", file.absolute().parent.name).strip("-")
    return f"{parent}-{stem}" if stem.startswith("model") and parent else stem or "converted"


def with_counters(state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """With the batch norms' counters, which nothing depends on, as they start."""
    counters = {name: value for name, value in model.state_dict().items() if name.endswith(".num_batches_tracked")}
    return {**counters, **state}


def _keypoints(config: ModelConfig) -> dict[str, Any]:
    """Published models of 17 keypoints are of COCO's, of others nobody knows."""
    if not isinstance(config, KeypointRCNN) or config.keypoint_head.num_keypoints != len(COCO_KEYPOINTS):
        return {}
    return {"keypoints": {"names": COCO_KEYPOINTS, "skeleton": COCO_SKELETON}}


def write_published(
    folder: Path, model: nn.Module, *, config: ModelConfig, labels: Sequence[str], resize: ResizeShortestEdge
) -> None:
    """A published model, without metrics: nothing was measured here."""
    data = save({name: tensor.contiguous() for name, tensor in model.state_dict().items()})
    description: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "model": config.model_dump(mode="json"),
        "num_classes": len(labels),
        "labels": list(labels),
        "preprocessing": {
            "image_mean": model.image_mean,
            "image_std": model.image_std,
            "transform": resize.model_dump(mode="json"),
            "size_divisor": model.size_divisor,
        },
        **_keypoints(config),
        "metrics": {},
        "data": {"name": "converted", "content_hash": ""},
        "weights_sha256": hashlib.sha256(data).hexdigest(),
    }
    write_folder(folder, iter([(WEIGHTS, data), (DESCRIPTION, (json.dumps(description, indent=2) + "\n").encode())]))
