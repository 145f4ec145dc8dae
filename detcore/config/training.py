"""What drives training and records it: the optim, engine and tracking sections."""

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from detcore.config.section import Count, CountOrZero, Fraction, NonNegative, Positive, Section
from detcore.config.stores import checked_place, without_secrets


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


class TTAConfig(Section):
    """Test-time augmentation: the views of an image whose detections are merged."""

    sizes: tuple[Count, ...] = ()
    """Shortest sides of the views in pixels; none takes 0.75, 1 and 1.25 times the model's own."""
    max_size: Count | None = None
    """Longest side of a view; None scales the model's own with the sizes."""
    flip: bool = True
    """Every size mirrored as well."""


EvaluationProtocol = Literal["coco", "lvis", "open_images", "voc2007", "voc2010"]


class EvaluationConfig(Section):
    protocol: EvaluationProtocol = "coco"
    """By which boxes are measured; by lvis masks, too, by voc2007 and voc2010 rotated boxes. All else is in one way."""
    hierarchy: str | None = None
    """By open_images, a JSON file that says which classes are kinds of others, as Open Images publishes."""
    oks_sigmas: Annotated[tuple[Positive, ...], Field(min_length=1)] | None = None
    """How far apart annotators put each keypoint, as a share of the object's size; None is for COCO's 17."""
    boundary_iou: bool = False
    """Of semantic maps, also the IoU of the regions' boundaries; of masks, also COCO's AP by their boundaries."""
    in_background: bool = False
    """In training, go on while what an evaluation found is compared with the truth: its figures come some steps later.
    Each evaluation is a checkpoint then, and early stopping looks where the next evaluation is due."""
    raw_weights: bool = False
    """In training, where an average of the weights is kept, evaluate the weights themselves, too: metrics `raw_...`."""

    @model_validator(mode="after")
    def _hierarchy_is_of_open_images(self) -> Self:
        if self.hierarchy is not None and self.protocol != "open_images":
            raise ValueError(f"hierarchy is for protocol = open_images; by {self.protocol} classes have none")
        return self

    @model_validator(mode="after")
    def _boundaries_are_cocos(self) -> Self:
        if self.boundary_iou and self.protocol == "lvis":
            raise ValueError("boundary_iou is measured by COCO's rules: with protocol = lvis there is none")
        return self


Monitor = Literal[
    "box_ap", "box_ap50", "box_ap75", "mask_ap", "mask_ap50", "mask_ap75", "mask_boundary_ap", "keypoint_ap",
    "keypoint_ap50", "keypoint_ap75", "rotated_ap", "rotated_ap50", "rotated_ap75", "miou", "fwiou", "macc", "pacc",
    "boundary_iou", "pq", "sq", "rq", "pq_things", "pq_stuff", "proposal_ar100", "proposal_ar1000",
]  # fmt: skip
_HEADLINES: tuple[Monitor, ...] = (
    "pq", "keypoint_ap", "box_ap", "box_ap50", "rotated_ap", "miou", "proposal_ar1000",
)  # fmt: skip
"""What `monitor` is where none is set: the first of these that an evaluation gives."""
_KINDS = {
    "box": "boxes", "mask": "masks", "keypoint": "keypoints", "rotated": "rotated", "proposal": "proposals",
    "miou": "semantic", "fwiou": "semantic", "macc": "semantic", "pacc": "semantic", "boundary": "semantic",
    "pq": "panoptic", "sq": "panoptic", "rq": "panoptic",
}  # fmt: skip


def kind_of(monitor: Monitor) -> str:
    """The kind of prediction, as a model's `predicts` has it, that a metric is of."""
    return _KINDS[monitor.split("_")[0]]


class EngineConfig(Section):
    steps: Count
    """Optimiser steps: the only clock."""
    batch_size: Count
    """Images of an optimiser step over all workers and accumulation rounds."""
    accumulate: Count = 1
    precision: Literal["fp32", "bf16", "fp16", "fp64"] = "fp32"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    cuda_graphs: bool = False
    """On a GPU, forward and backward are captured for each bucket at the start, and launched as a whole."""
    gradient_exchange: Literal["full", "bf16"] = "full"
    """What gradients travel between workers as: bf16 halves the bytes and rounds."""
    ema_decay: Fraction | None = None
    """None keeps no average; otherwise the average is what is evaluated and published."""
    eval_every: Count | None = None
    """Steps between evaluations on val; None evaluates once, at the end."""
    eval_batch_size: Count = 8
    tta: TTAConfig | None = None
    """How the evaluate stage measures the published model; evaluations in training look at one view."""
    validation_loss: bool = True
    monitor: Monitor | None = None
    """What 'best' means, on val; higher is better. None takes the first that is evaluated of pq, keypoint_ap, box_ap,
    box_ap50 (which alone open_images has), rotated_ap, miou, proposal_ar1000."""
    evaluation: EvaluationConfig = EvaluationConfig()
    early_stop_patience: Count | None = None
    """Stop after so many evaluations in a row without a better one."""
    checkpoint_every: Count = 200
    keep_checkpoints: Count = 2
    """So many of the newest stay, and the best that each of them knows of."""
    keep_every: Count | None = None
    """Checkpoints at multiples of so many steps stay for good."""
    async_checkpoints: bool = True
    """Written while training goes on, from a copy of its state in the host's memory."""
    checkpoint_store: str | None = None
    """s3:// or gs://: checkpoints are copied to a folder of the run's name there, and a machine that has none goes on
    from them. How long the store is waited for is data.store's."""
    log_every: Count = 20
    deterministic: bool = False

    def monitored(self, metrics: Mapping[str, float]) -> str:
        """The name of the metric that decides what is best, of those that an evaluation has given."""
        return self.monitor or next((name for name in _HEADLINES if name in metrics), _HEADLINES[2])

    @field_validator("checkpoint_store")
    @classmethod
    def _writable_store(cls, place: str | None) -> str | None:
        if place is not None and not place.startswith(("s3://", "gs://")):
            raise ValueError(f"{without_secrets(place)} is neither s3:// nor gs://; a folder is run_dir's business")
        return place if place is None else checked_place(place)

    @model_validator(mode="after")
    def _boundary_is_evaluated(self) -> Self:
        if self.monitor in ("boundary_iou", "mask_boundary_ap") and not self.evaluation.boundary_iou:
            raise ValueError(f"monitor = {self.monitor} needs evaluation.boundary_iou = true")
        return self

    @model_validator(mode="after")
    def _monitor_is_of_protocol(self) -> Self:
        if self.evaluation.protocol == "open_images" and self.monitor in ("box_ap", "box_ap75"):
            raise ValueError(f"monitor = {self.monitor}: evaluation.protocol = open_images gives box_ap50 alone")
        return self

    @model_validator(mode="after")
    def _divisible(self) -> Self:
        if self.batch_size % self.accumulate:
            raise ValueError(f"batch_size {self.batch_size} is not a multiple of accumulate {self.accumulate}")
        return self


class CardConfig(Section):
    """What only people know of a model; the model card says where it was not stated."""

    intended_use: str | None = None
    limits: str | None = None
    """Besides those that the figures show, which the card finds itself."""
    weights_licence: str | None = None
    data_licence: str | None = None


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
    log_model: bool = True
    """At the end of a training, its published model goes to the run, too."""
    card: CardConfig = CardConfig()
