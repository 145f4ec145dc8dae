"""`model=published`: the architecture and the weights of a trained model, put where the configuration names it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detcore.config import Config
from detcore.config.loading import validate
from detcore.config.model import Published
from detcore.inference.folder import WEIGHTS, read_description, read_weights
from detcore.loading import published_folder
from detcore.tracking.client import tracking_uri


def with_architecture(config: Config, *, dataset: Mapping[str, Any]) -> Config:
    """The same configuration with a built-in detector's section where it named a published model.

    What follows from the data the source was trained on is left to the new data: the number of classes, of keypoints
    and of classes of pixels, and how often each class occurs.

    Args:
        dataset: what `dataset.json` of the prepared data says.

    Raises:
        ValueError: there is no such model, its files do not fit together, it is a user's own, or it is where this
            training writes; or the rest of the configuration does not go with it.
    """
    if not isinstance(config.model, Published):
        return config
    source = config.model.source
    folder = published_folder(source, uri=tracking_uri(config.tracking)).absolute()
    if folder.resolve().is_relative_to(Path(config.run_dir).resolve()):
        raise ValueError(
            f"model.source={source} lies in run_dir {config.run_dir}, where this training would write: "
            "set model.name=OTHER, or run_dir"
        )
    description = read_description(folder)
    if description.model.type in ("own", "published"):
        raise ValueError(
            f"model.source={source} is a model of your own: load its weights into your module, and hand that to "
            "detcore.fit(model=...)"
        )
    read_weights(folder, description)  # whole and as published, which is found out here and not on every rank
    model = _as_the_data_asks(description.model.model_dump(), dataset)
    stated = {
        "name": config.model.name,
        "num_classes": config.model.num_classes,
        "weights": str(folder / WEIGHTS),
        "weights_sha256": description.weights_sha256,
    }
    return validate({**config.model_dump(), "model": {**model, **stated}}, source=f"model.source={source}")


def _as_the_data_asks(model: dict[str, Any], dataset: Mapping[str, Any]) -> dict[str, Any]:
    federated = (model.get("box_head") or {}).get("federated")
    if federated is not None:
        federated["class_counts"] = None  # those of this data are counted
    if "semantic_classes" in model and dataset.get("semantic_classes"):
        model["semantic_classes"] = len(dataset["semantic_classes"])
    if "keypoint_head" in model and dataset.get("keypoints"):
        model["keypoint_head"]["num_keypoints"] = len(dataset["keypoints"]["names"])
    return model
