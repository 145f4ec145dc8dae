"""What drawing and composing a training sample's augmentation costs, beside reading, decoding and warping it.

`python tests/perf/augmentation.py --shards FOLDER [--json FILE] [--case NAME]`; FOLDER holds prepared data.
A time is the median over the split's samples of the thread's own time for one sample, so that a busy machine does not
count. Pictures are decoded beforehand, also those that are mixed in.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from detcore.config.transforms import (
    Affine,
    ColorJitter,
    CopyPaste,
    FixedSizeCrop,
    HorizontalFlip,
    HSVJitter,
    MinIoUCrop,
    MixUp,
    Mosaic,
    RandomCrop,
    ResizeFixed,
    ResizeScale,
    ResizeShortestEdge,
    Transform,
)
from detcore.data import ShardedSplit
from detcore.data.augmentation.canvas import Picture
from detcore.data.augmentation.draws import Draws
from detcore.data.augmentation.objects import Limits, PlacedObjects
from detcore.data.augmentation.pipeline import Pipeline
from detcore.data.augmentation.sizes import num_size_choices
from detcore.data.decoding import decode
from detcore.ops import native

BAR_MS = 0.3
"""The Python share of a sample that the design allows; mixtures have none."""

MULTI_SCALE = ResizeShortestEdge(sizes=(640, 672, 704, 736, 768, 800), max_size=1333)
JITTERED = (ResizeScale(height=1024, width=1024), FixedSizeCrop(height=1024, width=1024), HorizontalFlip())
CANVAS = Mosaic(height=640, width=640)
CASES: dict[str, tuple[float | None, tuple[Transform, ...]]] = {
    "multi-scale, flip": (BAR_MS, (MULTI_SCALE, HorizontalFlip())),
    "multi-scale, flip, affine, colours": (
        BAR_MS,
        (MULTI_SCALE, HorizontalFlip(), Affine(degrees=10.0), ColorJitter(brightness=0.2, contrast=0.2)),
    ),
    "crop, multi-scale, flip": (BAR_MS, (RandomCrop(size=(0.5, 0.5)), MULTI_SCALE, HorizontalFlip())),
    "large-scale jitter": (BAR_MS, JITTERED),
    "min-IoU crop": (BAR_MS, (MinIoUCrop(), ResizeFixed(height=512, width=512), HorizontalFlip(), HSVJitter())),
    "large-scale jitter, copy-paste": (None, (*JITTERED, CopyPaste(probability=1.0))),
    "mosaic": (None, (ResizeScale(height=640, width=640), CANVAS, Affine(scale=(0.5, 1.5)), HorizontalFlip())),
    "mosaic, mixup": (None, (ResizeScale(height=640, width=640), CANVAS, MixUp(probability=1.0), HorizontalFlip())),
}


def median_ms(call: Callable[[int], object], number: int, repeats: int = 20) -> float:
    """Of call(0), ..., call(number - 1), each several times."""
    times = []
    for index in range(number):
        call(index)
    for _ in range(repeats):
        for index in range(number):
            started = time.thread_time()
            call(index)
            times.append((time.thread_time() - started) * 1e3)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=Path, required=True)
    parser.add_argument("--case", default="", help="only cases whose name contains this")
    parser.add_argument("--json", metavar="FILE")
    arguments = parser.parse_args()
    split = ShardedSplit.open(arguments.shards, "train")
    number = min(len(split), 64)
    images = [torch.from_numpy(decode(split.read(sample))) for sample in range(number)]

    def picture(sample: int) -> Picture:
        """As the loader makes it, but for the pixels."""
        found = split.objects(sample)
        kept = [row for row, crowd in enumerate(found.crowd.tolist()) if not crowd]
        polygons = [found.polygons[row] for row in kept] if split.has_masks else []
        objects = PlacedObjects.of(boxes_xyxy=found.boxes_xyxy[kept], labels=found.labels[kept], polygons=polygons)
        return Picture(images[sample], objects)

    print(f"{split.name}, {number} images; host functions {'built' if native.host() else 'not built'}")
    print(f"{'case':40} {'ours ms':>9} {'bar':>6}")
    rows = []
    for name, (bar, transforms) in CASES.items():
        if arguments.case not in name:
            continue
        pipeline = Pipeline(
            transforms,
            limits=Limits(min_size=1e-3, min_visible=0.1),
            num_samples=number,
            load=lambda sample, draws: picture(sample),
        )
        choices = num_size_choices(transforms)

        def sample(index: int, pipeline: Pipeline = pipeline, choices: int = choices) -> object:
            draws = Draws(0, 0, index)
            return pipeline(picture(index), choice=index * 7919 % choices, draws=draws, within=(2048, 2048))

        ours = round(median_ms(sample, number), 4)
        row = {"case": name, "unit": "ms", "ours": ours, "theirs": None, "ratio": None, "bar": bar}
        rows.append({**row, "met": bar is None or ours <= bar})
        missed = bar is not None and ours > bar
        print(f"{name:40} {ours:9.3f} {'' if bar is None else bar:>6}{'  missed' if missed else ''}", flush=True)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
