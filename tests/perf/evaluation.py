"""Detections to COCO's metrics: ours against pycocotools, and what evaluating costs a training.

    python tests/perf/evaluation.py [--images 5000] [--case boxes|masks] [--clock wall|processor] [--json FILE]

Both get the same ground truth (7 objects an image, 80 classes, 2 % of them crowd regions; polygons where masks are
compared) and the same detections: 100 boxes, or 30 masks, an image. Ours begins with arrays and run lengths, as the
evaluator holds them; pycocotools with a list of dictionaries, the making of which is not counted. Both have
loaded the ground truth. The time is that from there to the precision and recall arrays; pycocotools runs once, between
runs of ours, of which the median counts. The second row of a case is with loading the truth, on both sides. A case
meets its bar only if all metrics are equal to 12 digits. The bars are for 5,000 images: with fewer, what does not grow
with them weighs more. --clock processor counts the processor seconds of all threads, for a machine that others use.
"""

import argparse
import contextlib
import io
import json
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detcore.evaluation import Evaluation, Evaluator, GroundTruth, ImageDetections, Results
from detcore.evaluation.coco import Accumulated, IouType, LoadedTruth, accumulate, as_pycocotools_takes
from detcore.evaluation.metrics import average_precision
from detcore.ops import paste_masks_rle
from detcore.ops.mask_rle import paste_masks_rle_reference

HEIGHT, WIDTH, CLASSES, OBJECTS = 480, 640, 80, 7
VERTICES = 24
RUNS = 3
"""Of ours, before and after pycocotools."""
CASES: dict[IouType, tuple[str, int, float]] = {"bbox": ("boxes", 100, 80.0), "segm": ("masks", 30, 40.0)}
"""Of each: name, detections an image, bar."""
EPOCH_IMAGES, IMAGES_PER_SECOND = 118_287, 260.0
"""COCO's train2017, and the rate that tests/perf/train.py asks of Faster R-CNN on a GPU: a short epoch."""
OVERHEAD_BAR = 3.0

CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}
now = CLOCKS["wall"]

Boxes = NDArray[np.float64]


def synthetic(images: int, iou_type: IouType, per_image: int) -> tuple[dict[str, Any], Results]:
    """Objects of COCO's spread of sizes; detections are shifted objects, half of them of another class."""
    rng = np.random.default_rng(0)
    low = rng.uniform(0, (WIDTH - 60, HEIGHT - 60), (images, OBJECTS, 2))
    size = np.minimum(rng.lognormal(3.6, 1, low.shape), (WIDTH, HEIGHT) - low)
    classes = rng.integers(1, CLASSES + 1, low.shape[:2])
    truth = {
        "images": [{"id": i + 1, "height": HEIGHT, "width": WIDTH} for i in range(images)],
        "categories": [{"id": i + 1, "name": f"class {i + 1}"} for i in range(CLASSES)],
        "annotations": list(_annotations(rng, low, size, classes, outlines=iou_type == "segm")),
    }
    chosen = rng.integers(0, OBJECTS, (images, per_image))
    rows = np.arange(images)[:, None]
    start = low[rows, chosen] + rng.normal(0, 4, (images, per_image, 2))
    end = start + size[rows, chosen] * rng.lognormal(0, 0.1, start.shape)
    boxes = np.concatenate((start, end), axis=2).clip(0, (WIDTH, HEIGHT, WIDTH, HEIGHT))
    own = np.where(rng.random(chosen.shape) < 0.5, classes[rows, chosen], rng.integers(1, CLASSES + 1, chosen.shape))
    scores = -np.sort(-rng.random(chosen.shape), axis=1)
    results = Results(
        image_ids=np.repeat(np.arange(1, images + 1), per_image),
        category_ids=own.ravel(),
        boxes_xyxy=boxes.reshape(-1, 4),
        scores=scores.ravel(),
        sizes=np.tile((HEIGHT, WIDTH), (images * per_image, 1)),
        rles=encoded(boxes, paste_masks_rle) if iou_type == "segm" else None,
    )
    return truth, results


def _annotations(
    rng: np.random.Generator, low: Boxes, size: Boxes, classes: NDArray[np.int64], *, outlines: bool
) -> Iterator[dict[str, Any]]:
    crowd = rng.random(classes.shape) < 0.02
    angles = np.arange(VERTICES) * (2 * np.pi / VERTICES)
    unit = 0.5 + 0.5 * np.stack((np.cos(angles), np.sin(angles)), axis=1)
    for number, place in enumerate(np.ndindex(classes.shape), start=1):
        (x, y), (width, height) = low[place].tolist(), size[place].tolist()
        outline = {"segmentation": [(low[place] + unit * size[place]).ravel().tolist()]} if outlines else {}
        yield {
            "id": number,
            "image_id": place[0] + 1,
            "category_id": int(classes[place]),
            "bbox": [x, y, width, height],
            "area": width * height * (np.pi / 4 if outlines else 1.0),
            "iscrowd": int(crowd[place]),
            **outline,
        }


def encoded(boxes: Boxes, encode: Callable[..., list[dict[str, Any]]]) -> list[bytes]:
    """Run lengths of an ellipse in each of (images, n, 4) boxes, pasted from 28 x 28 as a mask head gives them."""
    along = (torch.arange(28) - 13.5) / 14
    ellipse = torch.sigmoid(8 * (1 - along[:, None] ** 2 - along**2))
    masks = ellipse.expand(boxes.shape[1], 28, 28).contiguous()
    counts = []
    for own in torch.from_numpy(boxes).float():
        counts += [rle["counts"] for rle in encode(masks, own, (HEIGHT, WIDTH), 0.5)]
    return counts


def pycocotools_arrays(
    truth: dict[str, Any], rows: list[dict[str, Any]], iou_type: IouType
) -> tuple[float, float, Accumulated]:
    """The seconds of loading the truth, those after it, and what they give."""
    with contextlib.redirect_stdout(io.StringIO()):
        began = now()
        ground_truth = COCO()
        ground_truth.dataset = truth
        ground_truth.createIndex()
        if iou_type == "segm":
            for annotation in truth["annotations"]:
                annotation["segmentation"] = ground_truth.annToRLE(annotation)
        started = now()
        evaluation = COCOeval(ground_truth, ground_truth.loadRes(rows), iou_type)
        evaluation.evaluate()
        evaluation.accumulate()
        ended = now()
    return started - began, ended - started, Accumulated(evaluation.eval["precision"], evaluation.eval["recall"])


def seconds_of(call: Callable[[], Any]) -> tuple[float, Any]:
    started = now()
    given = call()
    return now() - started, given


def compare(iou_type: IouType, images: int) -> list[dict[str, Any]]:
    name, per_image, bar = CASES[iou_type]
    truth, results = synthetic(images, iou_type, per_image)
    rows = results.box_results() if iou_type == "bbox" else results.mask_results()
    theirs_truth = {**truth, "annotations": as_pycocotools_takes(truth["annotations"], iou_type)}
    loaded = LoadedTruth(truth)

    def run(truth: LoadedTruth) -> tuple[float, Accumulated]:
        return seconds_of(lambda: accumulate(truth, results, iou_type))

    def both() -> tuple[float, float]:
        return run(loaded)[0], run(LoadedTruth(truth))[0]

    _, arrays = run(loaded)  # loads the truth
    before = [both() for _ in range(RUNS)]
    loading, theirs, expected = pycocotools_arrays(theirs_truth, rows, iou_type)
    after = [both() for _ in range(RUNS)]
    names = [category["name"] for category in truth["categories"]]
    own, reference = (average_precision(a, names, prefix="", recall="ar100").metrics for a in (arrays, expected))
    equal = own.keys() == reference.keys() and all(f"{own[k]:.12g}" == f"{reference[k]:.12g}" for k in own)
    ours, first = (statistics.median(values) for values in zip(*before, *after, strict=True))
    found = []
    for case, own, other in (("", ours, theirs), (", truth loaded", first, theirs + loading)):
        row = _row(f"{name}, {images:,} images x {per_image}{case}", "s", own, other, bar)
        found.append({**row, "met": bool(row["met"] and equal), "equal_to_12_digits": equal})
    return found


def compare_encoding(images: int) -> dict[str, Any]:
    """Of 30 masks an image: our operator against pasting, then pycocotools' encode. No bar of its own."""
    rng = np.random.default_rng(0)
    low = rng.uniform(0, (WIDTH - 60, HEIGHT - 60), (images, 30, 2))
    boxes = np.concatenate((low, np.minimum(low + rng.lognormal(3.6, 1, low.shape), (WIDTH, HEIGHT))), axis=2)
    ours, own = seconds_of(lambda: encoded(boxes, paste_masks_rle))
    theirs, expected = seconds_of(lambda: encoded(boxes, paste_masks_rle_reference))
    row = _row(f"run lengths of {images:,} images x 30 masks", "s", ours, theirs, None)
    return {**row, "equal_to_12_digits": own == expected}


def overhead(images: int) -> dict[str, Any]:
    """What boxes on val2017 take of an epoch beside the model's own forward pass, in percent.

    Measured: an evaluator takes over each image's detections and gives all metrics, the truth having been loaded by an
    evaluation before. Computed: the epoch's seconds, and with fewer images those of 5,000.
    """
    synthesised, results = synthetic(images, "bbox", 100)
    truth = GroundTruth(coco=synthesised)
    classes, starts = results.category_ids - 1, range(0, len(results.scores), 100)
    found = [
        ImageDetections(
            image_id=start // 100 + 1,
            boxes_xyxy=results.boxes_xyxy[start : start + 100],
            scores=results.scores[start : start + 100],
            labels=classes[start : start + 100],
        )
        for start in starts
    ]

    def evaluation() -> Evaluation:
        evaluator = Evaluator(truth)
        for image in found:
            evaluator.add_image(image)
        return evaluator.compute()

    evaluation()
    seconds = statistics.median(seconds_of(evaluation)[0] for _ in range(RUNS)) * 5_000 / images
    share = 100.0 * seconds / (EPOCH_IMAGES / IMAGES_PER_SECOND)
    case = f"5,000 images ({seconds:.2f} s), epoch of {EPOCH_IMAGES:,} at {IMAGES_PER_SECOND:g}/s"
    return {"case": case, "unit": "%", "ours": share, "theirs": None, "ratio": None, "bar": OVERHEAD_BAR,
            "met": share <= OVERHEAD_BAR}  # fmt: skip


def _row(case: str, unit: str, ours: float, theirs: float, bar: float | None) -> dict[str, Any]:
    ratio = theirs / ours
    return {"case": case, "unit": unit, "ours": ours, "theirs": theirs, "ratio": ratio, "bar": bar,
            "met": bar is None or ratio >= bar}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5_000)
    parser.add_argument("--case", choices=("boxes", "masks"), default=None)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--json", metavar="FILE")
    arguments = parser.parse_args()
    global now
    now = CLOCKS[arguments.clock]
    rows = []
    print(f"{'case':62} {'ours':>9} {'theirs':>9} {'ratio':>7} {'bar':>5}")

    def show(row: dict[str, Any]) -> None:
        rows.append(row)
        values = (row["theirs"], row["ratio"], row["bar"])
        theirs, ratio, bar = ("" if value is None else f"{value:.1f}" for value in values)
        notes = ("" if row["met"] else "  missed") + ("" if row.get("equal_to_12_digits", True) else "  UNEQUAL")
        print(
            f"{row['case']:62} {row['ours']:7.2f} {row['unit']} {theirs:>9} {ratio:>7} {bar:>5}{notes}",
            flush=True,
        )

    if arguments.case != "masks":
        for row in compare("bbox", arguments.images):
            show(row)
        show(overhead(arguments.images))
    if arguments.case != "boxes":
        for row in compare("segm", arguments.images):
            show(row)
        show(compare_encoding(max(1, arguments.images // 50)))
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump(rows, file, indent=1)


if __name__ == "__main__":
    main()
