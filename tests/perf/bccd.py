"""Training on BCCD: accuracy and time beside Detectron2's.

    python tests/perf/bccd.py [--recipe finetune|scratch] [--seeds 0,1,2] [--root FOLDER] [--json FILE] [overrides…]

finetune: Faster R-CNN on a pretrained lite0, on the processors of this machine; the best checkpoint of the validation
split is measured. scratch: R50-FPN with group norms from random weights, for a GPU, with the settings that Detectron2
was measured with; the last checkpoint is measured. Either measures the test split once a seed. FOLDER is a copy of the
data set (conf/data/bccd.yaml says where it is from); without it the files are fetched.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from detcore.config import load
from detcore.launch import evaluate_published, train

COMMON = ["data=bccd", "cluster=local", "tracking.enabled=false"]
RECIPES = {
    "finetune": ["model=faster_rcnn_lite0", "engine=finetune"],
    "scratch": [
        "model=faster_rcnn_r50_fpn",
        "model.neck.norm=gn",
        "engine=fast",
        "engine.steps=1000",
        "engine.batch_size=16",
        "engine.eval_every=null",
        "engine.checkpoint_every=1000",
        "engine.validation_loss=false",
        "optim=sgd",
        "optim.lr=0.02",
        "optim.weight_decay_bias=1e-4",
        "optim.warmup_steps=200",
        "data.train_transforms=[{type: resize_shortest_edge, sizes: [480, 512, 544, 576, 608, 640], max_size: 1000}, "
        "{type: horizontal_flip}]",
        "data.test_transforms=[{type: resize_shortest_edge, sizes: [640], max_size: 1000}]",
        # 205 images: more buckets would leave most batches of an epoch short.
        "data.num_buckets=1",
    ],
}
# R50-FPN with GN from scratch for 1000 x 16 images, on an H100.
DETECTRON2 = {"box_ap": 59.80, "box_ap50": 91.35, "seconds": 324.7}
BARS = {"finetune": {"box_ap50": 85.0, "seconds": 1800.0}, "scratch": {"box_ap": 59.3, "seconds": 95.0}}


def measure(recipe: str, seed: int, overrides: list[str]) -> dict[str, float]:
    """Test metrics, the seconds of the steps and those of everything else in the training."""
    config = load([*COMMON, *RECIPES[recipe], f"seed={seed}", f"run_dir=runs/bccd-{recipe}-{seed}", *overrides])
    start = time.perf_counter()
    result = train(config)
    if result.model_dir is None:
        raise SystemExit(f"stopped by {result.stopped}; the same command goes on")
    wall = time.perf_counter() - start
    history = np.atleast_1d(np.genfromtxt(Path(config.run_dir) / "history.csv", delimiter=",", names=True))
    stepping = float(np.diff(history["step"], prepend=0) @ (config.engine.batch_size / history["images_per_second"]))
    test = evaluate_published(config)
    return {"box_ap": test["box_ap"], "box_ap50": test["box_ap50"], "seconds": stepping, "wall": wall}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", choices=tuple(RECIPES), default="finetune")
    parser.add_argument("--seeds", default="0", help="comma-separated; the table shows their mean")
    parser.add_argument("--root", help="a local copy of the data set")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the table's rows to FILE")
    arguments, overrides = parser.parse_known_args()
    if arguments.root:
        overrides.append(f"data.root={arguments.root}")
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    runs = [measure(arguments.recipe, seed, overrides) for seed in seeds]
    for seed, run in zip(seeds, runs, strict=True):
        print(f"seed {seed}: " + ", ".join(f"{name} {value:.2f}" for name, value in run.items()))
    rows = [_row(arguments.recipe, case, float(np.mean([run[case] for run in runs]))) for case in runs[0]]
    print(f"{'case':<10}{'ours':>10}{'Detectron2':>12}{'ratio':>8}{'bar':>8}  met")
    for row in rows:
        cells = (("ours", 10), ("theirs", 12), ("ratio", 8), ("bar", 8))
        line = "".join(f"{'' if row[key] is None else format(row[key], '.2f'):>{width}}" for key, width in cells)
        print(f"{row['case']:<10}{line}  {row['met'] if row['met'] is not None else ''}")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


def _row(recipe: str, case: str, ours: float) -> dict[str, Any]:
    theirs, bar = DETECTRON2.get(case), BARS[recipe].get(case)
    lower = case == "seconds"
    return {
        "case": case,
        "unit": "s" if case in ("seconds", "wall") else "%",
        "ours": ours,
        "theirs": theirs,
        "ratio": None if theirs is None else (theirs / ours if lower else ours / theirs),
        "bar": bar,
        "met": None if bar is None else (ours <= bar if lower else ours >= bar),
    }


if __name__ == "__main__":
    main()
