"""Samples of your own, made or read by any Python code, and an augmentation of your own:
`python examples/own_data.py engine.steps=200`.
"""

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

import detcore
from detcore.data import Sample, write_split

SHARDS = Path("data/shards/rectangles")
COLOURS = {"red": (220, 40, 40), "green": (40, 180, 60), "blue": (50, 80, 220)}


def rectangles(number: int, *, seed: int) -> Iterator[Sample]:
    """Coloured rectangles on noise; yours would open a file and read its labels here."""
    rng = np.random.default_rng(seed)
    for _ in range(number):
        image = rng.integers(90, 160, (96, 96, 3), dtype=np.uint8)
        labels = rng.integers(0, len(COLOURS), rng.integers(1, 4))
        corners = rng.integers(0, 60, (len(labels), 2))
        boxes = np.hstack((corners, corners + rng.integers(16, 36, (len(labels), 2))))
        for label, (x1, y1, x2, y2) in zip(labels, boxes, strict=True):
            image[y1:y2, x1:x2] = list(COLOURS.values())[label]
        yield Sample(image=image, boxes_xyxy=boxes, labels=labels)


def darken(sample: Sample, random: np.random.Generator) -> Sample:
    """An augmentation: half of the images at dusk. Called from several threads."""
    return replace(sample, image=sample.image // 2) if random.random() < 0.5 else sample


if __name__ == "__main__":
    for split, number, seed in (("train", 200, 0), ("val", 40, 1), ("test", 40, 2)):
        write_split(rectangles(number, seed=seed), SHARDS, split=split, categories=list(COLOURS), name="rectangles")
    recipe = ["model=faster_rcnn_lite0", "data.train_transforms=[{type: resize_fixed, height: 96, width: 96}]"]
    recipe += ["data.test_transforms=[{type: resize_fixed, height: 96, width: 96}]"]
    result = detcore.fit(data=SHARDS, config=[*recipe, *sys.argv[1:]], transform=darken)
    print(result.best_metrics)
