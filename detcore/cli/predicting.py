"""Commands that look at images with a model."""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import detcore
from detcore.cli.commands import Commands

if TYPE_CHECKING:
    from detcore.config import TTAConfig
    from detcore.inference.sources import ImageSource

_INCOMPLETE = 1

_PREDICT = """\
  detcore predict digits-mask-rcnn@champion scene.jpg
  detcore predict runs/digits/model photos/ 'scans/*.png' --out drawn --score 0.7
  detcore predict bccd-faster-rcnn/2 photos/ --json found.json
  detcore predict bccd-faster-rcnn/2 photos/ --tta --tta-sizes 480,640,800"""


def declare(commands: Commands) -> None:
    """Adds the commands."""
    predict = commands.add("predict", "find objects in images", _predict, examples=_PREDICT)
    predict.add_argument("model", metavar="MODEL", help="a registered name, a published folder, or an exported file")
    predict.add_argument("sources", metavar="SOURCE", nargs="+", help="an image, a folder of images, or a glob")
    predict.add_argument("--out", metavar="DIR", type=Path, help="write the images with what was found drawn on them")
    predict.add_argument("--json", metavar="FILE", help="write boxes, scores, names and masks; - for the terminal")
    predict.add_argument("--score", type=float, default=0.5, help="leave out detections below it (default: 0.5)")
    predict.add_argument("--batch-size", type=int, default=8, help="images at once (default: 8)")
    predict.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 … (default: auto)")
    predict.add_argument("--tta", action="store_true", help="look at several sizes, and mirrored, and merge: slower")
    predict.add_argument(
        "--tta-sizes",
        metavar="PIXELS",
        help="shortest sides, such as 640,800,960 (default: 0.75, 1 and 1.25 times the model's)",
    )
    predict.add_argument("--tta-no-flip", action="store_true", help="do not look at mirrored images")


def _predict(options: argparse.Namespace) -> int:
    from detcore.inference.sources import expand

    sources = expand(options.sources)[0]  # a misspelt path is told before a model is loaded
    tta = _tta(options)
    predictor = detcore.load(options.model, device=options.device)
    if tta is not None:
        predictor = predictor.augmented(tta)
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
    if options.json not in (None, "-"):  # told before hours of work, not after
        file = Path(options.json)
        if file.is_dir() or not os.access(file if file.exists() else file.parent, os.W_OK):
            raise ValueError(f"--json {file}: no file can be written there")
    taken: set[str] = set()
    unreadable = 0

    def skip(_: "ImageSource", error: ValueError) -> None:
        nonlocal unreadable
        unreadable += 1
        print(f"detcore predict: skipped {' '.join(str(error).split())}", file=sys.stderr)

    rows = []
    table = sys.stderr if options.json == "-" else sys.stdout
    found = predictor.stream(sources, score_threshold=options.score, batch_size=options.batch_size, on_unreadable=skip)
    for prediction in found:
        print(f"{prediction.name}: {prediction.in_words()}", file=table)
        if options.out is not None:
            prediction.draw().save(options.out / _file_name(prediction.source, taken), quality=92)
        if options.json is not None:
            rows.append(prediction.to_dict())
    if options.json == "-":
        print(json.dumps(rows, indent=1))
    elif options.json is not None:
        Path(options.json).write_text(json.dumps(rows, indent=1) + "\n")
    if unreadable:
        print(f"detcore predict: {unreadable} of {len(sources)} images could not be read", file=sys.stderr)
        return _INCOMPLETE
    return 0


def _tta(options: argparse.Namespace) -> "TTAConfig | None":
    from detcore.config import TTAConfig

    if not options.tta:
        if options.tta_sizes or options.tta_no_flip:
            raise ValueError("--tta-sizes and --tta-no-flip are settings of --tta: give that too")
        return None
    sizes = (options.tta_sizes or "").replace(",", " ").split()
    if not all(size.isdecimal() and int(size) for size in sizes):
        raise ValueError(f"--tta-sizes {options.tta_sizes}: give sides in pixels, such as 640,800,960")
    return TTAConfig(sizes=tuple(map(int, sizes)), flip=not options.tta_no_flip)


def _file_name(source: Any, taken: set[str]) -> str:
    """A file name not in `taken`, which it joins: a.jpg and b/a.png give a.jpg and a-2.jpg."""
    stem, number = Path(source).stem, 2
    name = stem
    while name in taken:
        name, number = f"{stem}-{number}", number + 1
    taken.add(name)
    return f"{name}.jpg"
