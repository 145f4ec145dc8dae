"""The folder that a training hands on: weights and all that is needed to use them."""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

from torch import Tensor, nn

from detcore.config import Config
from detcore.data import ShardedSplit
from detcore.engine.atomic import write_folder
from detcore.engine.checkpoint import to_safetensors
from detcore.engine.evaluate import predictions

FORMAT_VERSION = 1


def image_statistics(model: nn.Module) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation (RGB, scale 0..255) by which a model wants its images; a user's may state none."""
    mean = getattr(model, "image_mean", (0.0, 0.0, 0.0))
    std = getattr(model, "image_std", (255.0, 255.0, 255.0))
    return tuple(float(value) for value in mean), tuple(float(value) for value in std)


def class_names(model: nn.Module, split: ShardedSplit) -> tuple[str, ...]:
    """What the model's classes are called: those of the objects, or of the pixels where it predicts nothing else."""
    return split.semantic_classes if predictions(model) == ("semantic",) else split.categories


def publish(
    folder: Path,
    weights: Mapping[str, Tensor],
    *,
    model: nn.Module,
    config: Config,
    split: ShardedSplit,
    metrics: Mapping[str, float],
) -> Path:
    """Writes `weights.safetensors` and `model.json` in one step; whoever reads the folder needs nothing else.

    Args:
        folder: replaced if it is there.
        weights: the model's state, as the one to be published.
        model: says how it wants its images.
        split: names the classes.
        metrics: on val, of these weights.

    Raises:
        OSError: as writing does; what was there before is untouched.
    """
    image_mean, image_std = image_statistics(model)
    labels, kinds = class_names(model, split), predictions(model)
    keypoints = split.keypoints if "keypoints" in kinds else None

    def files() -> Iterator[tuple[str, bytes]]:
        data = to_safetensors(weights)
        yield "weights.safetensors", data
        description = {
            "format_version": FORMAT_VERSION,
            "model": {**config.model.model_dump(mode="json"), "num_classes": len(labels)},
            "num_classes": len(labels),
            "labels": list(labels),
            **({"semantic_labels": list(split.semantic_classes)} if "semantic" in kinds else {}),
            **({} if keypoints is None else {"keypoints": {"names": keypoints.names, "skeleton": keypoints.skeleton}}),
            "preprocessing": {
                "image_mean": image_mean,
                "image_std": image_std,
                "transform": config.data.test_transforms[0].model_dump(mode="json"),
                # What the loader made the training's heights and widths multiples of.
                "size_divisor": math.lcm(config.data.size_divisor, getattr(model, "size_divisor", None) or 1),
            },
            "metrics": {name: value for name, value in metrics.items() if math.isfinite(value)},
            "data": {"name": split.name, "content_hash": split.content_hash},
            "weights_sha256": hashlib.sha256(data).hexdigest(),
        }
        yield "model.json", (json.dumps(description, indent=2) + "\n").encode()

    write_folder(folder, files())
    return folder
