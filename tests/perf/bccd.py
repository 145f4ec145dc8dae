"""The BCCD fine-tuning run: Faster R-CNN on a pretrained lite0, on the processors of this machine.

    python tests/perf/bccd.py [--root FOLDER] [--json FILE] [overrides…]

FOLDER is a copy of the data set (conf/data/bccd.yaml says where it is from); without it the files are fetched. Trains
with the validation split to choose by, then measures the test split once.
"""

import argparse
import json
import time
from pathlib import Path

from detcore.config import load
from detcore.launch import evaluate_published, train

RECIPE = ["data=bccd", "model=faster_rcnn_lite0", "engine=finetune", "cluster=local", "tracking.enabled=false"]
# Detectron2 trains an R50-FPN with GN from scratch for 1000 x 16 images on an H100.
DETECTRON2 = {"box_ap": 59.80, "box_ap50": 91.35}
BARS = {"box_ap50": 85.0, "minutes": 30.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", help="a local copy of the data set")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the table's rows to FILE")
    arguments, overrides = parser.parse_known_args()
    root = [f"data.root={arguments.root}"] if arguments.root else []
    config = load([*RECIPE, *root, *overrides])
    start = time.perf_counter()
    result = train(config)
    if result.model_dir is None:
        raise SystemExit(f"stopped by {result.stopped}; the same command goes on")
    test = evaluate_published(config)
    minutes = (time.perf_counter() - start) / 60

    rows = []
    for case, unit, ours, theirs in (
        ("box_ap", "%", test["box_ap"], DETECTRON2["box_ap"]),
        ("box_ap50", "%", test["box_ap50"], DETECTRON2["box_ap50"]),
        ("minutes", "min", minutes, None),
    ):
        bar = BARS.get(case)
        met = None if bar is None else ours <= bar if case == "minutes" else ours >= bar
        ratio = None if theirs is None else ours / theirs
        rows.append(
            {"case": case, "unit": unit, "ours": ours, "theirs": theirs, "ratio": ratio, "bar": bar, "met": met}
        )
    print(f"{'case':<10}{'ours':>10}{'Detectron2':>12}{'ratio':>8}{'bar':>8}  met")
    for row in rows:
        cells = (("ours", 10), ("theirs", 12), ("ratio", 8), ("bar", 8))
        line = "".join(f"{'' if row[key] is None else format(row[key], '.2f'):>{width}}" for key, width in cells)
        print(f"{row['case']:<10}{line}  {row['met'] if row['met'] is not None else ''}")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
