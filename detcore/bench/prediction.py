"""How fast a model predicts on this device: its dense layers, its detections, and images to masks in their pixels."""

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from detcore.bench.device import Work, captured, device_name, seconds_of
from detcore.bench.source import classes_of, random_model
from detcore.config import Config
from detcore.inference import Predictor
from detcore.inference.captured import Detect, DetectionGraph
from detcore.inference.predictor import Precision
from detcore.inference.preprocessing import Preprocessing
from detcore.structures.batch import Batch, Detections

DENSE, DETECTIONS, PREDICTOR = "dense layers", "detections", "predictor"
PLAIN, GRAPH, COMPILED, COMPILED_GRAPH = "plain", "CUDA graph", "compiled", "compiled, CUDA graph"
_WARM_UP = 3
Image = NDArray[np.uint8]
Make = Callable[[], Work]
PHOTOGRAPH = (480, 640)
"""Height and width of the image that is looked at where none is given: COCO's most frequent."""


@dataclass(frozen=True, kw_only=True)
class PredictionRow:
    """One way of predicting.

    Attributes:
        part: the dense layers alone; with proposals, heads and suppression, as `model.detect`; or all that
            `Predictor.predict` does, from images on the host to masks in their pixels there.
        way: how it is launched.
        batch_size: images at once.
        latency_ms: the median from an idle device until it is idle again.
        images_per_second: of calls one after the other.
        first_seconds: of the first call, in which it is compiled or captured.
    """

    part: str
    way: str
    batch_size: int
    latency_ms: float
    images_per_second: float
    first_seconds: float


@dataclass(frozen=True, kw_only=True)
class PredictionReport:
    """What was measured.

    Attributes:
        model, device, torch, precision: which.
        image, padded: 'HEIGHTxWIDTH' of the image, and of the network's input.
        detections: in the image, of the detector's own threshold: work for heads that follow boxes, and for pasting.
        calls: that a time is the median of.
        rows: by batch size, part and way.
    """

    model: str
    device: str
    torch: str
    precision: str
    image: str
    padded: str
    detections: int
    calls: int
    rows: tuple[PredictionRow, ...]


def random_predictor(config: Config, *, device: torch.device, precision: Precision) -> Predictor:
    """The configuration's detector with random weights, which looks at images as its first test transform says.

    Raises:
        ValueError: the model cannot be built from the configuration alone.
    """
    num_classes = classes_of(config, None)
    model: Any = random_model(config, num_classes=num_classes, device=device)
    transform = config.data.test_transforms[0]
    head = getattr(config.model, "keypoint_head", None)
    keypoints = 0 if head is None else head.num_keypoints
    return Predictor(
        model=model,
        labels=[str(label) for label in range(num_classes)],
        semantic_labels=[str(label) for label in range(getattr(config.model, "semantic_classes", None) or num_classes)],
        keypoint_names=[str(point) for point in range(keypoints)],
        preprocessing=Preprocessing(
            transform=transform,  # type: ignore[arg-type]  # the configuration takes only resizes for testing
            image_mean=tuple(model.image_mean),
            image_std=tuple(model.image_std),
            size_divisor=model.size_divisor,
        ),
        device=device,
        precision=precision,
    )


@torch.no_grad()
def bench_prediction(
    predictor: Predictor,
    *,
    name: str,
    image: Image | None = None,
    batch_sizes: Sequence[int] = (1, 8),
    compiled: bool = False,
    calls: int = 30,
) -> PredictionReport:
    """Measures a predictor on one image, as often as a batch has rows.

    Args:
        predictor: whose precision and way of launching are measured; on CUDA without and with graphs.
        name: of the model.
        image: (h, w, 3), RGB; None takes noise.
        batch_sizes: of the batches.
        compiled: also what torch.compile makes of it, which takes minutes.
        calls: that a time is the median of.
    """
    if image is None:
        image = np.random.default_rng(0).integers(0, 256, (*PHOTOGRAPH, 3), dtype=np.uint8)
    batch, detections = predictor.detect([image])
    rows = [
        _measured(part, way, size, call, predictor.device, calls)
        for size in batch_sizes
        for part, way, call in _ways(predictor, [image] * size, compiled=compiled)
    ]
    height, width = batch.images.shape[-2:]
    return PredictionReport(
        model=name,
        device=device_name(predictor.device),
        torch=torch.__version__,
        precision=predictor.precision,
        image=f"{image.shape[0]}x{image.shape[1]}",
        padded=f"{height}x{width}",
        detections=int(detections.valid.sum()),
        calls=calls,
        rows=tuple(rows),
    )


def _ways(predictor: Predictor, images: Sequence[Image], *, compiled: bool) -> Iterator[tuple[str, str, Make]]:
    """Part, way and maker of the call of what is measured for one batch size."""
    device, precision = predictor.device, predictor.precision
    on_cuda = device.type == "cuda"
    batch = predictor.preprocessing.batch(images, device)

    def dense() -> object:
        with predictor.autocast():
            return predictor.model.dense(batch.images)  # type: ignore[operator]

    def detect(batch: Batch) -> Detections:
        with predictor.autocast():
            return predictor.model.detect(batch)  # type: ignore[operator, no-any-return]

    if callable(getattr(predictor.model, "dense", None)):
        yield DENSE, PLAIN, lambda: dense
        if on_cuda:
            yield DENSE, GRAPH, lambda: captured(dense)
        if compiled:
            yield DENSE, COMPILED, lambda: torch.compile(dense, dynamic=False)
    yield DETECTIONS, PLAIN, lambda: partial(detect, batch)
    if on_cuda:
        yield DETECTIONS, GRAPH, lambda: partial(DetectionGraph(detect, batch), batch)
    if compiled:
        fused: Detect = torch.compile(detect, dynamic=False)
        yield DETECTIONS, COMPILED, lambda: partial(fused, batch)
        if on_cuda:
            yield DETECTIONS, COMPILED_GRAPH, lambda: partial(DetectionGraph(fused, batch), batch)
    for graphs in (False, True) if on_cuda else (False,):
        whole = predictor.with_options(precision=precision, cuda_graphs=graphs)
        call = partial(whole.predict, images, batch_size=len(images), score_threshold=0.0)
        yield PREDICTOR, GRAPH if graphs else PLAIN, partial(_itself, call)


def _itself(call: Work) -> Work:
    return call


def _measured(part: str, way: str, batch_size: int, make: Make, device: torch.device, calls: int) -> PredictionRow:
    made: list[Work] = []

    def first() -> None:
        made.append(make())
        made[0]()

    def all_calls() -> None:
        for _ in range(calls):
            made[0]()

    first_seconds = seconds_of(first, device)
    for _ in range(_WARM_UP):
        made[0]()
    latency = statistics.median(seconds_of(made[0], device) for _ in range(calls))
    return PredictionRow(
        part=part,
        way=way,
        batch_size=batch_size,
        latency_ms=latency * 1e3,
        images_per_second=calls * batch_size / seconds_of(all_calls, device),
        first_seconds=first_seconds,
    )
