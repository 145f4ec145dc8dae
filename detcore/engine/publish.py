"""The folder that a training hands on: weights and all that is needed to use them."""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Literal

from torch import Tensor, nn

from detcore.config import Config
from detcore.data import ShardedSplit
from detcore.engine.atomic import Contents, HashingFile, write_folder
from detcore.engine.checkpoint import CheckpointFolder
from detcore.engine.evaluate import predictions
from detcore.engine.weights_file import write_weights

FORMAT_VERSION = 1


def image_statistics(model: nn.Module) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation (RGB, scale 0..255) by which a model wants its images; a user's may state none."""
    mean = getattr(model, "image_mean", (0.0, 0.0, 0.0))
    std = getattr(model, "image_std", (255.0, 255.0, 255.0))
    return tuple(float(value) for value in mean), tuple(float(value) for value in std)


def class_names(model: nn.Module, split: ShardedSplit) -> tuple[str, ...]:
    """What the model's classes are called: those of the objects, or of the pixels where it predicts nothing else."""
    return split.semantic_classes if predictions(model) == ("semantic",) else split.categories


def describe(model: nn.Module, *, config: Config, split: ShardedSplit) -> dict[str, Any]:
    """What `model.json` says of a model, whatever its weights.

    Args:
        model: says how it wants its images.
        split: names the classes.
    """
    image_mean, image_std = image_statistics(model)
    labels, kinds = class_names(model, split), predictions(model)
    keypoints = split.keypoints if "keypoints" in kinds else None
    return {
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
        "data": {"name": split.name, "content_hash": split.content_hash},
    }


def publish(
    folder: Path, weights: Mapping[str, Tensor], *, description: Mapping[str, Any], metrics: Mapping[str, float]
) -> Path:
    """Writes `weights.safetensors` and `model.json` in one step; whoever reads the folder needs nothing else.

    Args:
        folder: replaced if it is there.
        weights: the model's state, as the one to be published.
        description: as `describe` gives it.
        metrics: on val, of these weights.

    Raises:
        OSError: as writing does; what was there before is untouched.
    """

    def files() -> Iterator[tuple[str, Contents]]:
        digest = ""

        def write(file: BinaryIO) -> None:
            nonlocal digest
            with HashingFile(file) as hashing:
                write_weights(weights, hashing)
            digest = hashing.hexdigest()

        yield "weights.safetensors", write
        finite = {name: value for name, value in metrics.items() if math.isfinite(value)}
        whole = {**description, "metrics": finite, "weights_sha256": digest}
        yield "model.json", (json.dumps(whole, indent=2) + "\n").encode()

    write_folder(folder, files())
    return folder


def publish_checkpoint(checkpoints: CheckpointFolder, which: int | Literal["best", "last"], folder: Path) -> int:
    """Publishes a checkpoint as a finished training publishes its best: averaged weights where there are any.

    Its metrics are those of an evaluation at its step, {} where there was none.

    Args:
        checkpoints: of a training, which may be running.
        which: a step, the newest, or the best that the newest knows of.
        folder: new, or replaced.

    Returns:
        The step.

    Raises:
        ValueError: there is no such checkpoint, it is broken, or of a version that left out what is needed.
        OSError: if something cannot be read or written.
    """
    if not (steps := checkpoints.steps()):
        raise ValueError(f"{checkpoints.path} has no checkpoint")
    step = steps[-1] if which in ("best", "last") else which
    if step not in steps:
        raise ValueError(f"{checkpoints.path} has no checkpoint of step {step}; there are {', '.join(map(str, steps))}")
    checkpoint = checkpoints.read(step)
    if which == "best":
        step = checkpoint.record["state"]["best_step"]
        if step is None:
            raise ValueError(f"{checkpoints.path}: nothing was evaluated up to step {steps[-1]}; say --step last")
        checkpoint = checkpoints.read(step)
    state, description = checkpoint.record["state"], checkpoint.record.get("description")
    if description is None:
        raise ValueError(f"{checkpoints.folder(step)} is of an earlier detcore, and does not say what it is a model of")
    metrics = state["metrics"] if state["evaluated_step"] == step else {}
    publish(folder, checkpoint.average or checkpoint.weights, description=description, metrics=metrics)
    return step
