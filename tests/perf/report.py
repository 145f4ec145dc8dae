"""A report of an evaluation of COCO's size: from a results file and an annotations file to the pages.

    python tests/perf/report.py [--images 5000] [--per-image 100] [--json FILE]

Synthetic: 80 classes, 7 objects an image, 100 boxes an image, half of them of another class, and photographs of noise.
Reading the files, evaluating, analysing, the bootstrap and writing all count; with a
second model to compare with, that one is read, evaluated and resampled, too. The bar is for 5,000 images.
"""

import argparse
import json
import os
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from evaluation import HEIGHT, WIDTH, synthetic
from PIL import Image

from detcore.report import find, measure_files, write_report

BAR = 60.0
PICTURES = 40
"""Different photographs, of which each stands for many."""


def files(folder: Path, *, images: int, per_image: int) -> tuple[Path, Path, Path, Path]:
    """Annotations, results, results of a worse model, and a folder of images."""
    truth, results = synthetic(images, "bbox", per_image)
    photographs = folder / "images"
    photographs.mkdir()
    noise = np.random.default_rng(0)
    for number in range(PICTURES):
        coarse = noise.integers(0, 255, (HEIGHT // 16, WIDTH // 16, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((WIDTH, HEIGHT)).save(photographs / f"{number}.jpg")
    for image in truth["images"]:
        image["file_name"] = f"{image['id'] % PICTURES}.jpg"
    for name, value in (
        ("truth.json", truth),
        ("found.json", results.box_results()),
        ("other.json", results.where(np.random.default_rng(1).random(len(results.scores)) < 0.9).box_results()),
    ):
        (folder / name).write_text(json.dumps(value))
    return folder / "truth.json", folder / "found.json", folder / "other.json", photographs


def report(folder: Path, *, images: int, per_image: int, compared: bool) -> dict[str, Any]:
    truth, found, other, photographs = files(folder, images=images, per_image=per_image)
    started, spent = time.perf_counter(), time.process_time()
    measured = measure_files(found, truth, images=photographs)
    against = measure_files(other, truth) if compared else None
    findings = find(measured, against=against)
    page = write_report(findings, folder / "out")
    seconds = time.perf_counter() - started
    print(
        f"{images:,} images, {len(measured.results.scores):,} detections{', against another' if compared else ''}: "  # type: ignore[union-attr]
        f"{seconds:.1f} s ({time.process_time() - spent:.1f} s of processor time, load {os.getloadavg()[0]:.1f}), "
        f"page {page.stat().st_size / 1e6:.1f} MB"
    )
    name = f"report of {images} images" + (", compared with another model" if compared else "")
    return {
        "case": name, "unit": "s", "ours": seconds, "theirs": None, "ratio": None,
        "bar": BAR, "met": seconds <= BAR and images >= 5000,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--per-image", type=int, default=100)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = []
    for compared in (False, True):
        with TemporaryDirectory() as folder:
            rows.append(report(Path(folder), images=options.images, per_image=options.per_image, compared=compared))
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
