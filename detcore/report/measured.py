"""What a report is made of."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from detcore.config import EvaluationConfig
from detcore.data.images import read_image
from detcore.evaluation import Evaluator, GroundTruth, ImageDetections, Results
from detcore.evaluation.diagnosis import Kind
from detcore.report.coco_files import read_annotations, read_results

ReadImage = Callable[[int], Image.Image | None]
"""The picture of an image by its place among the truth's images; None where there is none."""
PREFIXES: dict[Kind, str] = {"boxes": "box", "rotated": "rotated", "masks": "mask", "keypoints": "keypoint"}
"""What the names of their metrics begin with; the order of a report."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A model's evaluation on a split.

    Attributes:
        title: what was evaluated.
        about: on what, and how, in one line.
        truth: what was to be found.
        results: what was; None where the model detects no objects.
        kinds: of the objects' predictions, those that were compared; errors are looked for in the first.
        metrics: in percent, as the evaluation gives them.
        per_class: class name -> metrics.
        read_image: the pictures.
        settings: how was compared.
        confusion: (classes, classes) pixels by true and by predicted class of the semantic maps, or None.
        pictures: of maps, true beside predicted.
    """

    title: str
    about: str
    truth: GroundTruth
    results: Results | None
    kinds: tuple[Kind, ...]
    metrics: Mapping[str, float]
    per_class: Mapping[str, Mapping[str, float]]
    read_image: ReadImage
    settings: EvaluationConfig = EvaluationConfig()  # noqa: RUF009 (it is frozen)
    confusion: NDArray[np.int64] | None = None
    pictures: Sequence[Image.Image] = ()


def measure(
    truth: GroundTruth,
    results: Results,
    *,
    predicts: Sequence[str],
    title: str,
    about: str,
    read_image: ReadImage,
    settings: EvaluationConfig = EvaluationConfig(),  # noqa: B008 (it is frozen)
) -> Measured:
    """Detections compared with their truth.

    Raises:
        ValueError: if the truth has nothing to compare them with.
    """
    evaluator = Evaluator(truth, predicts=predicts, settings=settings, operating_points=True)
    for found in by_image(truth, results):
        evaluator.add_image(found)
    evaluation = evaluator.compute()
    return Measured(
        title=title,
        about=about,
        truth=truth,
        results=evaluation.results,
        kinds=tuple(kind for kind in PREFIXES if kind in evaluator.kinds),
        metrics=evaluation.metrics,
        per_class=evaluation.per_class,
        read_image=read_image,
        settings=settings,
    )


def by_image(truth: GroundTruth, results: Results) -> list[ImageDetections]:
    """The detections of each image of the truth, also of those in which there is none."""
    label_of = {category["id"]: label for label, category in enumerate(truth.coco["categories"])}
    labels = np.array([label_of[category] for category in results.category_ids.tolist()], dtype=np.int64)
    order = np.argsort(results.image_ids, kind="stable")
    image_ids = [image["id"] for image in truth.coco["images"]]
    first, end = (np.searchsorted(results.image_ids[order], image_ids, side=side) for side in ("left", "right"))
    found = []
    for image_id, low, high in zip(image_ids, first.tolist(), end.tolist(), strict=True):
        rows = order[low:high]
        found.append(
            ImageDetections(
                image_id=image_id,
                boxes_xyxy=results.boxes_xyxy[rows],
                scores=results.scores[rows],
                labels=labels[rows],
                rles=None if results.rles is None else tuple(results.rles[row] for row in rows.tolist()),
                keypoints=None if results.keypoints is None else results.keypoints[rows],
                boxes_xywha=None if results.boxes_xywha is None else results.boxes_xywha[rows],
            )
        )
    return found


def measure_files(detections: Path, annotations: Path, *, images: Path | None = None) -> Measured:
    """A COCO results file compared with its COCO annotations file.

    Args:
        detections: a list of image_id, category_id, score, and bbox, segmentation or keypoints.
        annotations: images, annotations, categories.
        images: the folder that `file_name` of the images begins at; without it there are no pictures.

    Raises:
        ValueError: a file is not what it is taken for; the message names the entry.
    """
    if images is not None and not images.is_dir():
        raise ValueError(f"--images {images}: no such folder")
    truth = read_annotations(annotations)
    results, predicts = read_results(detections, truth)

    def read(place: int) -> Image.Image | None:
        image = truth.coco["images"][place]
        file = None if images is None else images / str(image.get("file_name"))
        if file is None or not file.is_file():
            return None
        return read_image(file.read_bytes(), declared=(image["height"], image["width"]))[0]

    return measure(
        truth,
        results,
        predicts=predicts,
        title=detections.stem,
        about=f"{detections.name} against {annotations.name}",
        read_image=read,
    )
