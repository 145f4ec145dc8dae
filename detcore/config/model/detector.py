"""What all built-in detectors' sections have, and the section that stands for a model trained before."""

import json
import re
from pathlib import Path
from typing import Any, Literal

from pydantic import model_validator

from detcore.config.section import Count, Section


class Detector(Section):
    name: str
    """The recipe's name; part of the run's."""
    num_classes: Count | None = None
    """Of objects, or of pixels where there are no objects; None takes the data set's."""
    weights: str | None = None
    """A whole model's safetensors file to start from, instead of the backbone's; tensors whose shape differs, such as
    those of other classes, keep their start."""
    weights_sha256: str | None = None
    """The hash that `weights` must have; model=published sets it. By it the registry finds a model's ancestors."""


class Published(Section):
    """A published model to train on from: at launch its architecture, with its weights to start from, replaces it."""

    type: Literal["published"] = "published"
    source: str
    """A published folder, or a registered model as `name@alias`, `name/version` or `name`."""
    name: str
    num_classes: Count | None = None
    """None takes the data set's, whatever the source's is."""

    @model_validator(mode="before")
    @classmethod
    def _nothing_else_is_set(cls, values: Any) -> Any:
        if isinstance(values, dict) and (others := sorted(map(str, values.keys() - cls.model_fields.keys()))):
            raise ValueError(
                f"a published model keeps its architecture: model.{others[0]} cannot be set with model=published, only "
                "model.source, model.name and model.num_classes"
            )
        return values


def published_name(source: str) -> str:
    """What a model of `source` is called unless a name is set: as its folder's model.json says, or as it is registered.

    Reads no registry, and complains of nothing: that is left to whoever needs the model.
    """
    try:
        name = str(json.loads((Path(source) / "model.json").read_text())["model"]["name"])
    except (OSError, ValueError, KeyError, TypeError):
        registered = re.fullmatch(r"(?:models:/)?([^/@]+)(?:@[^/]*|/\d+)?", source)
        name = registered[1] if registered else Path(source).name
    return re.sub(r"[/:.%'\"]+", "-", name).strip("-") or "published"
