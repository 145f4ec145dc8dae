"""JPEG files in shards to augmented, normalised batches with polygons: images a second, and what they cost.

    python tests/perf/data.py --root COCO_MINI [--device cpu|cuda] [--soak IMAGES] [--json FILE]

COCO_MINI is a folder of data=coco_mini; its val images, over and over, are resized to a short side of 640 to 800 and
flipped. Rates are of one core: images over seconds of processor time of one loader thread, the cases taking turns in
one run. Bars are shares of the rate at which the loader's own decoder alone runs, which no loader can exceed; on the
core where Detectron2's mapper made 29.4 images/s, decoding made 230 to 239; `theirs` of Detectron2 is that figure,
taken to this core by decoding. With --device cuda, `into device memory` is the clock's rate of a loader with all cores,
bfloat16 batches of 16.
"""

import argparse
import json
import os
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from data_cases.clock import cpu_rates
from data_cases.corpus import data_config, repeated
from data_cases.decoding import decoders
from data_cases.loading import batches, loader, python_milliseconds, without_warp
from data_cases.peers import torchvision_samples
from data_cases.soak import soak

from detcore.config import DataConfig
from detcore.data import ShardedSplit
from detcore.ops import native

DETECTRON2 = 29.4 / 234.5
"""Images/s of its mapper over those of decoding alone, on one core of the machine where both were measured."""
ALL_BAR, DECODES_BAR, PYTHON_BAR, DEVICE_BAR, DRIFT_BAR = 0.575, 0.87, 0.3, 2000.0, 2.0
DECODING, ALL, HALF = "decoding alone, ours", "CPU does all, float32", "CPU does all, bfloat16"
DECODES, PEER = "CPU only decodes", "torchvision v2, boxes only"


@dataclass(frozen=True, kw_only=True)
class Row:
    """A line of the table; the bar is for the ratio where there is one, else for ours."""

    case: str
    unit: str
    ours: float
    theirs: float | None = None
    ratio: float | None = None
    bar: float | None = None
    met: bool | None = None

    def __str__(self) -> str:
        numbers = (self.ours, self.theirs, self.ratio, self.bar)
        shown = " ".join(f"{'' if number is None else f'{number:.3f}':>10}" for number in numbers)
        return f"{self.case:58} {self.unit:>14} {shown}{'  missed' if self.met is False else ''}"


def against(case: str, rate: float, theirs: float, bar: float | None = None) -> Row:
    ratio = rate / theirs
    met = None if bar is None else ratio >= bar
    return Row(case=case, unit="images/s/core", ours=rate, theirs=theirs, ratio=ratio, bar=bar, met=met)


def core_rows(split: ShardedSplit, config: DataConfig, *, images: int, rounds: int) -> list[Row]:
    makers = {
        name: loader(split, config, device="cpu", dtype=dtype)
        for name, dtype in ((ALL, torch.float32), (HALF, torch.bfloat16), (DECODES, torch.bfloat16))
    }
    without_warp(makers[DECODES])
    cases = decoders(split, images=images) | {name: batches(source, images=images) for name, source in makers.items()}
    cases[PEER] = torchvision_samples(split, images=images // 4)
    rates = cpu_rates(cases, rounds=rounds)
    for source in makers.values():
        source.close()
    decoding = rates[DECODING]
    rows = [Row(case=name, unit="images/s/core", ours=rate) for name, rate in rates.items() if name.startswith("decod")]
    for name, bar in ((ALL, ALL_BAR), (HALF, None), (DECODES, DECODES_BAR)):
        rows.append(against(f"{name}, against decoding alone", rates[name], decoding, bar))
    for name in (ALL, DECODES):
        rows.append(against(f"{name}, against Detectron2's mapper", rates[name], decoding * DETECTRON2))
    rows.append(against(f"{ALL}, against {PEER}", rates[ALL], rates[PEER]))
    with loader(split, config, device="cpu", dtype=torch.float32) as source:
        python = python_milliseconds(source, split, images=images)
    rows.append(Row(case="Python's share", unit="ms/image", ours=python, bar=PYTHON_BAR, met=python <= PYTHON_BAR))
    return rows


def device_rows(split: ShardedSplit, root: Path, folder: Path, *, seconds: float) -> list[Row]:
    """The clock's rate into the GPU's memory, with all cores, for each decoder."""
    rows = []
    threads = len(os.sched_getaffinity(0))
    for decoder in ("cpu", "cuda"):
        config = data_config(root, folder, f"data.threads={threads}", f"data.decode={decoder}")
        with loader(split, config, device="cuda", dtype=torch.bfloat16, batch_size=16) as source:
            for _ in range(40):
                next(source)
            torch.cuda.synchronize()
            done, started, processor = 0, time.perf_counter(), time.process_time()
            while time.perf_counter() - started < seconds:
                done += next(source).images.shape[0]
            torch.cuda.synchronize()
            rate = done / (time.perf_counter() - started)
            core = done / (time.process_time() - processor)
        case = f"into device memory, {threads} threads, decode={decoder}"
        rows.append(Row(case=case, unit="images/s", ours=rate, bar=DEVICE_BAR, met=rate >= DEVICE_BAR))
        rows.append(Row(case=f"{case}, of one core", unit="images/s/core", ours=core))
    return rows


def soak_rows(split: ShardedSplit, config: DataConfig, *, images: int, device: str) -> list[Row]:
    found = soak(split, config, images=images, device=device)
    drift, left = abs(found.drift_percent), float(found.files_left)
    name = f"soak, {found.images} images"
    return [
        Row(case=f"{name}: memory's drift", unit="%", ours=drift, bar=DRIFT_BAR, met=drift <= DRIFT_BAR),
        Row(case=f"{name}: files left open", unit="", ours=left, bar=0.0, met=left <= 0),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, metavar="COCO_MINI")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--images", type=int, default=200, help="of a case in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--soak", type=int, default=0, metavar="IMAGES", help="only this, with so many images")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    built = "built" if native.serves("cpu") else "not built"
    print(f"torch {torch.__version__}, {len(os.sched_getaffinity(0))} cores, native operators {built}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        split = repeated(arguments.root, folder, images=1000)
        config = data_config(arguments.root, folder)
        if arguments.soak:
            rows = soak_rows(split, config, images=arguments.soak, device=arguments.device)
        else:
            rows = core_rows(split, config, images=arguments.images, rounds=arguments.rounds)
            if arguments.device == "cuda":
                rows += device_rows(split, arguments.root, folder, seconds=10.0)
        split.close()
    print(f"{'case':58} {'unit':>14} {'ours':>10} {'theirs':>10} {'ratio':>10} {'bar':>10}")
    for row in rows:
        print(row)
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))


if __name__ == "__main__":
    main()
