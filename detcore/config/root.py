"""The whole configuration."""

from typing import Any, Self
from urllib.parse import urlsplit

from pydantic import model_validator

from detcore.config.cluster import ClusterConfig
from detcore.config.data import DataConfig
from detcore.config.export import ExportConfig
from detcore.config.model import ModelConfig
from detcore.config.section import Section
from detcore.config.stores import is_url
from detcore.config.training import EngineConfig, OptimConfig, TrackingConfig
from detcore.config.transforms import most_images
from detcore.config.tune import TuneConfig

_REFUSED = "/:.%'\""
"""What MLflow takes in no name of a model."""


class Config(Section):
    name: str
    """The run's name; its folder and its registered model are called after it."""
    seed: int = 0
    run_dir: str
    """Checkpoints, the published model, metrics and logs of this run."""
    model: ModelConfig
    data: DataConfig
    optim: OptimConfig
    engine: EngineConfig
    cluster: ClusterConfig
    tracking: TrackingConfig
    export: ExportConfig = ExportConfig()
    tune: TuneConfig | None = None

    def shareable(self) -> dict[str, Any]:
        """Plain values for files that others may read: a tracking address with a password is left out."""
        values = self.model_dump(mode="json")
        if "@" in urlsplit(self.tracking.uri or "").netloc:
            values["tracking"]["uri"] = None  # MLFLOW_TRACKING_URI says it
        return values

    @model_validator(mode="after")
    def _named(self) -> Self:
        if not self.run_dir.strip():
            raise ValueError("run_dir is empty")
        if is_url(self.run_dir):
            raise ValueError(f"run_dir = {self.run_dir} is no folder: checkpoints need one, which all nodes share")
        for key, value in (("name", self.name), ("tracking.registered_name", self.tracking.registered_name)):
            if not value.strip() or set(value) & set(_REFUSED):
                raise ValueError(
                    f"{key} = {value!r} is empty or has one of {' '.join(_REFUSED)} in it; "
                    "unless you set it, it is made of data.name and model.name"
                )
        return self

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        micro_batch, cluster = self.engine.batch_size // self.engine.accumulate, self.cluster
        uneven = not cluster.elastic and micro_batch % cluster.most_workers
        if uneven or micro_batch < cluster.most_workers:
            wrong = "do not divide evenly over" if uneven else "are too few for"
            raise ValueError(
                f"engine.batch_size / engine.accumulate = {micro_batch} images a pass {wrong} "
                f"cluster.num_workers = {cluster.most_workers}"
            )
        if (self.engine.monitor or "").startswith("mask") and self.model.type == "faster_rcnn":
            raise ValueError(f"engine.monitor = {self.engine.monitor}, but {self.model.type} predicts no masks")
        if most_images(self.data.train_transforms) > 1 and self.data.unmixed_last_steps >= self.engine.steps:
            raise ValueError(
                f"data.unmixed_last_steps = {self.data.unmixed_last_steps} of engine.steps = {self.engine.steps}: no "
                "step would mix images; leave the mixtures out of data.train_transforms, or lower it"
            )
        return self
