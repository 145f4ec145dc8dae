"""Training through pipelines/train.py, with real JPEG files, logging and checkpoints, beside its bare step.

    python tests/perf/front_door.py --root COCO_FOLDER [--workers 1,2] [--repeats 160] [--json FILE] [overrides…]

COCO_FOLDER has annotations/instances_train.json and images/; its images are repeated so that an epoch has thousands.
The rate is the log's, of all steps but the first fifth; the bare step's is measured afterwards on batches of the same
loader that lie on the device already. With several numbers of workers each is compared with as many times the first's
(weak scaling: every worker has a whole batch).
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from detcore.config import load
from detcore.engine import LocalWorker
from detcore.engine.build import open_run
from detcore.engine.step import train_step
from detcore.models import build_model

BATCH, STEPS, HELD = 16, 240, 32
RECIPE = [
    "model=mask_rcnn_r50_fpn",
    "engine=fast",
    f"engine.steps={STEPS}",
    "engine.eval_every=null",
    "engine.validation_loss=false",
    "engine.checkpoint_every=80",
    "engine.log_every=20",
    "optim=sgd",
    "optim.lr=0.001",
    "optim.warmup_steps=100",
    "data=coco_mini",
    "data.num_buckets=10",
    "data.train_transforms=[{type: resize_shortest_edge, sizes: [640, 672, 704, 736, 768, 800], max_size: 1333}, "
    "{type: horizontal_flip}]",
    "data.test_transforms=[{type: resize_shortest_edge, sizes: [800], max_size: 1333}]",
]


def repeated(root: Path, folder: Path, times: int) -> Path:
    """A COCO data set with every training image of `root` so often; files are links."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / "annotations").mkdir(exist_ok=True)
    for split, count in (("train", times), ("val", 1)):
        source = json.loads((root / "annotations" / f"instances_{split}.json").read_text())
        images, annotations = [], []
        for number in range(count):
            first = number * 10**8  # above COCO's own ids
            for image in source["images"]:
                name = f"{split}_{number:03d}_{image['file_name']}"
                if not (folder / "images" / name).exists():
                    os.link(root / "images" / image["file_name"], folder / "images" / name)
                images.append({**image, "id": image["id"] + first, "file_name": name})
            for annotation in source["annotations"]:
                own = {"id": len(annotations) + 1, "image_id": annotation["image_id"] + first}
                annotations.append({**annotation, **own})
        content = {**source, "images": images, "annotations": annotations}
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return folder


def logged_rate(overrides: list[str], run: Path) -> float:
    """Images a second of a training by command."""
    started = time.perf_counter()
    command = [sys.executable, "pipelines/train.py", *overrides, f"run_dir={run}", f"tracking.uri=sqlite:///{run}.db"]
    subprocess.run(command, check=True)
    history = np.genfromtxt(run / "history.csv", delimiter=",", names=True)
    late = history[len(history) // 5 :]
    waited = late["data_wait_seconds"].mean()
    print(f"{run.name}: {time.perf_counter() - started:.0f} s in all, {waited * 1e3:.2f} ms a step waiting for data")
    return float(1 / np.mean(1 / late["images_per_second"]))


def step_rate(overrides: list[str], run: Path) -> float:
    """Images a second of the same steps on batches that are there already."""
    config = load([*overrides, f"run_dir={run}"])
    shards = Path(config.data.shards)
    model = build_model(config.model, num_classes=80)
    opened = open_run(model, config=config, shards=shards, worker=LocalWorker(device=torch.device("cuda")))
    batches = [next(opened.batches) for _ in range(HELD)]
    opened.close()

    class Held:
        wait_seconds = 0.0
        skipped = 0

        def __init__(self) -> None:
            self.taken = 0

        def __iter__(self) -> "Held":
            return self

        def __next__(self) -> Any:
            self.taken += 1
            return batches[self.taken % HELD]

    held, seconds = Held(), []
    for turn in range(4):
        torch.cuda.synchronize()
        started = time.perf_counter()
        for step in range(HELD):
            train_step(opened.training, held, HELD * turn + step)
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return HELD * BATCH / float(np.median(seconds[1:]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--workers", default="1")
    parser.add_argument("--repeats", type=int, default=160)
    parser.add_argument("--folder", type=Path, default=Path("runs/front_door"), help="for data and runs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the table's rows to FILE")
    arguments, overrides = parser.parse_known_args()
    folder = arguments.folder.absolute()
    data = repeated(arguments.root, folder / "raw", arguments.repeats)
    common = [*RECIPE, f"data.root={data}", f"data.shards={folder / 'shards'}", *overrides]
    counts = [int(count) for count in arguments.workers.split(",")]
    rates = {}
    for count in counts:
        own = [f"cluster.num_workers={count}", f"engine.batch_size={BATCH * count}"]
        rates[count] = logged_rate([*common, *own], folder / f"workers{count}")
    bare = step_rate([*common, f"engine.batch_size={BATCH}"], folder / "bare")
    rows = [
        {"case": "front door, 1 worker", "unit": "images/s", "ours": rates[counts[0]], "theirs": bare, "bar": 0.92}
    ] + [
        {
            "case": f"{count} workers, each a batch",
            "unit": "images/s",
            "ours": rates[count],
            "theirs": rates[counts[0]] * count / counts[0],
            "bar": 0.95,
        }
        for count in counts[1:]
    ]
    print(f"{'case':<28}{'images/s':>10}{'of':>10}{'ratio':>8}{'bar':>7}  met")
    for row in rows:
        row["ratio"] = row["ours"] / row["theirs"]
        row["met"] = row["ratio"] >= row["bar"]
        values = f"{row['ours']:>10.1f}{row['theirs']:>10.1f}{row['ratio']:>8.3f}{row['bar']:>7}"
        print(f"{row['case']:<28}{values}  {row['met']}")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
