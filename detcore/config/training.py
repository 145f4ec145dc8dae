"""What drives training and what surrounds it: optim, engine, cluster and tracking sections."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from detcore.config.section import Count, CountOrZero, Fraction, NonNegative, Positive, Section


class MultiStep(Section):
    type: Literal["multistep"] = "multistep"
    milestones: tuple[Fraction, ...] = (0.7, 0.9)
    """As fractions of engine.steps."""
    gamma: Fraction = 0.1


class Cosine(Section):
    type: Literal["cosine"] = "cosine"
    final_factor: Fraction = 0.0
    """The last step's learning rate over the highest."""


class OptimConfig(Section):
    type: Literal["sgd", "adamw"] = "sgd"
    lr: Positive
    weight_decay: NonNegative = 1e-4
    """Of weights; other parameters of one dimension, and absolute positions, are never decayed."""
    weight_decay_norm: NonNegative = 0.0
    weight_decay_bias: NonNegative = 0.0
    momentum: Fraction = 0.9
    nesterov: bool = False
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    backbone_lr_factor: Positive = 1.0
    layer_decay: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """The learning rate of each of the backbone's layers over that of the layer above it; 1 for those that do not tell
    their layers apart."""
    clip_norm: Positive | None = None
    """Global gradient norm."""
    warmup_steps: CountOrZero = 0
    warmup_factor: Fraction = 0.001
    schedule: Annotated[MultiStep | Cosine, Field(discriminator="type")] = MultiStep()


class EngineConfig(Section):
    steps: Count
    """Optimiser steps: the only clock."""
    batch_size: Count
    """Images of an optimiser step over all workers and accumulation rounds."""
    accumulate: Count = 1
    precision: Literal["fp32", "bf16", "fp16", "fp64"] = "fp32"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    ema_decay: Fraction | None = None
    """None keeps no average; otherwise the average is what is evaluated and published."""
    eval_every: Count | None = None
    """Steps between evaluations on val; None evaluates once, at the end."""
    eval_batch_size: Count = 8
    validation_loss: bool = True
    monitor: Literal["box_ap", "box_ap50", "mask_ap", "mask_ap50"] = "box_ap"
    """What 'best' means, on val; higher is better."""
    early_stop_patience: Count | None = None
    """Stop after so many evaluations in a row without a better one."""
    checkpoint_every: Count = 200
    keep_checkpoints: Count = 2
    log_every: Count = 20
    deterministic: bool = False

    @model_validator(mode="after")
    def _divisible(self) -> Self:
        if self.batch_size % self.accumulate:
            raise ValueError(f"batch_size {self.batch_size} is not a multiple of accumulate {self.accumulate}")
        return self


class ClusterConfig(Section):
    type: Literal["local", "ray"] = "ray"
    """'local' runs in this process, without Ray: for a debugger."""
    num_workers: Count = 1
    cpus_per_worker: Positive = 1.0
    gpus_per_worker: NonNegative | None = None
    """None takes one where the cluster has enough for all workers and engine.device allows it."""
    address: str | None = None
    """A Ray cluster to join; None takes RAY_ADDRESS, else starts one on this machine."""
    storage_path: str | None = None
    """Where Ray keeps a run's state; several nodes need a shared path."""
    max_failures: Annotated[int, Field(ge=-1)] = 0

    @model_validator(mode="after")
    def _local_is_one(self) -> Self:
        if self.type == "local" and self.num_workers != 1:
            raise ValueError(f"cluster=local runs one worker, got num_workers {self.num_workers}; use cluster=ray")
        return self


class TrackingConfig(Section):
    enabled: bool = True
    uri: str | None = None
    """None takes MLFLOW_TRACKING_URI, else sqlite:///mlflow.db."""
    experiment: str = "detcore"
    registered_name: str
    champion_alias: str = "champion"
    num_pictures: CountOrZero = 8
    """Validation images logged with predictions beside truth."""
    system_metrics: bool = True
