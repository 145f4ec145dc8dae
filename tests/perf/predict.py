"""Prediction on a folder of photographs beside the bare model.

    python tests/perf/predict.py MODEL FOLDER [--images 500] [--batch-size 8] [--device cpu|cuda] [--json FILE]
        [--clock wall|processor]

MODEL is a published model, FOLDER holds photographs; fewer than --images are looked at again from the front. The bare
model's rate is that of `model.detect` on the batches of the same images, ready on the device; prediction reads the
files, decodes, resizes, detects, and brings the detections into the images' pixels. They take turns, chunk by chunk of
the images, and the medians of the rounds' whole times are compared. The second row is without reading ahead.

--clock processor counts processor seconds of all threads instead, for a machine that others use: where the model alone
keeps all cores busy, as it does on a few of them, that ratio is the same.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from detcore.inference import Predictor, load_folder
from detcore.inference.reading import read_ahead
from detcore.inference.seen import class_thresholds
from detcore.inference.sources import expand, in_chunks, read_rgb
from detcore.structures.batch import Batch

BAR = 0.9
_CHUNK = 48
"""Images of one turn: short, so that what else the machine does falls on both alike."""


def batches_of(predictor: Predictor, images: list[Path], batch_size: int) -> list[Batch]:
    """The batches that prediction makes of them: only images of one padded size share one."""
    batches = []
    for chunk in in_chunks(images, batch_size):
        groups: dict[tuple[int, ...], list[Any]] = {}
        for image in map(read_rgb, chunk):
            groups.setdefault(predictor.preprocessing.padded_size(image), []).append(image)
        batches += [predictor.preprocessing.batch(group, predictor.device) for group in groups.values()]
    return batches


def seconds(action: Callable[[], object], clock: str) -> float:
    now = time.process_time if clock == "processor" else time.perf_counter
    start = now()
    action()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return now() - start


def bare(predictor: Predictor, batches: list[Batch]) -> None:
    with torch.inference_mode():
        for batch in batches:
            predictor._detect(batch)


def unhurried(predictor: Predictor, images: list[Path], batch_size: int) -> int:
    """Prediction that reads a batch's images when it needs them."""
    thresholds = class_thresholds(predictor.labels, score_threshold=0.5)
    read = read_ahead(images, None, ahead=0)
    chunks: Any = in_chunks(read, batch_size)
    return sum(len(predictor._predict_some(some, thresholds)) for some in chunks)


def measure(predictor: Predictor, images: list[Path], batch_size: int, rounds: int, clock: str) -> dict[str, float]:
    """Images a second of each."""
    chunks = list(in_chunks(images, _CHUNK))
    totals: dict[str, list[float]] = {"bare": [], "predict": [], "whole": []}
    for number in range(rounds + 1):
        spent = dict.fromkeys(totals, 0.0)
        for chunk in chunks[: 1 if number == 0 else None]:  # the first round warms up
            batches = batches_of(predictor, chunk, batch_size)
            spent["bare"] += seconds(lambda batches=batches: bare(predictor, batches), clock)  # type: ignore[misc]
            spent["predict"] += seconds(
                lambda chunk=chunk: list(predictor.stream(chunk, batch_size=batch_size)),  # type: ignore[misc]
                clock,
            )
            spent["whole"] += seconds(lambda chunk=chunk: unhurried(predictor, chunk, batch_size), clock)  # type: ignore[misc]
        if number:
            for name, value in spent.items():
                totals[name].append(value)
    return {name: len(images) / statistics.median(values) for name, values in totals.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("folder")
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clock", choices=("wall", "processor"), default="wall")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    predictor = load_folder(options.model, device=options.device)
    files: list[Any] = expand(options.folder)[0]
    images = (files * -(-options.images // len(files)))[: options.images]
    rates = measure(predictor, images, options.batch_size, options.rounds, options.clock)
    rows = [
        {
            "case": f"{name}, {len(images)} photographs, {options.device}, batch {options.batch_size}",
            "unit": "images/s" if options.clock == "wall" else "images/processor s",
            "ours": rates[key],
            "theirs": rates["bare"],
            "ratio": rates[key] / rates["bare"],
            "bar": bar,
            "met": None if bar is None else rates[key] / rates["bare"] >= bar,
        }
        for name, key, bar in (("predict", "predict", BAR), ("predict, not reading ahead", "whole", None))
    ]
    print(f"{'case':64} {'predict':>9} {'bare model':>11} {'ratio':>7} {'bar':>5}")
    for row in rows:
        print(f"{row['case']:64} {row['ours']:9.2f} {row['theirs']:11.2f} {row['ratio']:7.3f} {row['bar'] or '':>5}")
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
