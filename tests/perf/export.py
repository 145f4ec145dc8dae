"""Exported files beside the model in PyTorch, on a CPU.

    python tests/perf/export.py MODEL FILE... --images FOLDER [--batch-size 1] [--rounds 5] [--json FILE]
        [--clock wall|processor]

MODEL is a published model, each FILE one that `detcore export` made of it: .onnx, .xml or .pt2. All detect in the same
batches, ready in memory: nothing is read, decoded or resized meanwhile. They take turns, batch by batch, and medians of
the rounds are compared. Beside the time stands the file's size.

--clock processor counts processor seconds of all threads instead, for a machine that others use; then give all of them
one core (taskset -c 0), as threads that wait for others count too.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from detcore.inference import Predictor, load_exported, load_folder
from detcore.inference.sources import expand, in_chunks, read_rgb
from detcore.structures.batch import Batch


def batches_of(predictor: Predictor, images: list[Any], batch_size: int) -> list[Batch]:
    """The images in batches of one padded size."""
    batches = []
    for chunk in in_chunks(images, batch_size):
        groups: dict[tuple[int, ...], list[Any]] = {}
        for image in chunk:
            groups.setdefault(predictor.preprocessing.padded_size(image), []).append(image)
        batches += [predictor.preprocessing.batch(group, torch.device("cpu")) for group in groups.values()]
    return batches


def measure(
    predictors: dict[str, Predictor], images: list[Any], batch_size: int, rounds: int, clock: Callable[[], float]
) -> dict[str, float]:
    """Milliseconds an image of each."""
    batches = {name: batches_of(predictor, images, batch_size) for name, predictor in predictors.items()}
    totals: dict[str, list[float]] = {name: [] for name in predictors}
    for number in range(rounds + 1):
        spent = dict.fromkeys(predictors, 0.0)
        for place in range(len(batches[next(iter(batches))])):
            for name, predictor in predictors.items():
                start = clock()
                with torch.inference_mode():
                    predictor.model.detect(batches[name][place])  # type: ignore[operator]
                spent[name] += clock() - start
        if number:  # the first round warms up
            for name, value in spent.items():
                totals[name].append(value)
    return {name: 1000 * statistics.median(values) / len(images) for name, values in totals.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--images", required=True)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clock", choices=("wall", "processor"), default="wall")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    predictors = {"PyTorch": load_folder(options.model, device="cpu")}
    predictors |= {str(file): load_exported(file, device="cpu", trusted=True) for file in options.files}
    sources: list[Any] = expand(options.images)[0]
    images = [read_rgb(source) for source in sources]
    clock = time.process_time if options.clock == "processor" else time.perf_counter
    spent = measure(predictors, images, options.batch_size, options.rounds, clock)
    unit = "ms/image" if options.clock == "wall" else "processor ms/image"
    rows = [
        {
            "case": f"{file.name}, batch {options.batch_size}, {file.stat().st_size / 1e6:.1f} MB",
            "unit": unit,
            "ours": spent[str(file)],
            "theirs": spent["PyTorch"],
            "ratio": spent[str(file)] / spent["PyTorch"],
            "bar": None,
            "met": None,
        }
        for file in options.files
    ]
    print(f"{'case':48} {unit:>20} {'PyTorch':>9} {'ratio':>7}")
    for row in rows:
        print(f"{row['case']:48} {row['ours']:20.2f} {row['theirs']:9.2f} {row['ratio']:7.3f}")
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
