"""The `detcore` command. What a sub-command needs is imported when it runs: `detcore --help` must be quick."""

import argparse
import json
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import detcore

if TYPE_CHECKING:
    from detcore.config import TTAConfig
    from detcore.inference.sources import ImageSource

_INCOMPLETE = 1
_USER_ERROR = 2
_INTERRUPTED = 130

_STORY = """\
Object detection from raw images to a registered model.

  train      python pipelines/train.py model=faster_rcnn_lite0 data=coco data.root=DIR
  predict    detcore predict digits-mask-rcnn@champion scene.jpg --out drawn
  in Python  detcore.load("digits-mask-rcnn@champion").predict("scene.jpg")

MODEL is a registered name (name@alias, name/3, or name for the latest version) or a published folder."""

_EXAMPLES = {
    "predict": """\
examples:
  detcore predict digits-mask-rcnn@champion scene.jpg
  detcore predict runs/digits/model photos/ 'scans/*.png' --out drawn --score 0.7
  detcore predict bccd-faster-rcnn/2 photos/ --json found.json
  detcore predict bccd-faster-rcnn/2 photos/ --tta --tta-sizes 480,640,800""",
    "pull": """\
examples:
  detcore pull digits-mask-rcnn@champion ./digits
  detcore predict ./digits scene.jpg""",
    "models": """\
examples:
  detcore models
  detcore models mask_rcnn_r50_fpn --size 640x640
  detcore models --json > recipes.json
  python pipelines/train.py model=mask_rcnn_r50_fpn data=coco data.root=DIR""",
    "convert": """\
examples:
  detcore convert detectron2 model_final_f10217.pkl --out mask-rcnn
  detcore convert detectron2 output/model_final.pth --config output/config.yaml --labels names.txt --out mine
  python pipelines/train.py model=published model.source=mine data=coco data.root=DIR
  detcore convert mine --to detectron2 --out back.pth
  detcore convert torchvision maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth --out mask-rcnn""",
    "doctor": """\
examples:
  detcore doctor
  detcore doctor --json""",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command.

    Returns:
        The exit code: 0, 1 where images were left out, 2 for what the user can mend (in one line), 130 for Ctrl-C.
    """
    options = _parser().parse_args(arguments)
    commands: dict[str, Callable[[argparse.Namespace], int | None]] = {
        "predict": _predict,
        "pull": _pull,
        "models": _models,
        "convert": _convert,
        "doctor": _doctor,
    }
    try:
        return commands[options.command](options) or 0
    except (ValueError, OSError) as error:
        if options.traceback:
            raise
        print(f"detcore {options.command}: {' '.join(str(error).split())}", file=sys.stderr)
        return _USER_ERROR
    except KeyboardInterrupt:
        return _INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="detcore", description=_STORY, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"detcore {detcore.__version__}")
    parser.add_argument("--traceback", action="store_true", help="show where an error comes from")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def command(name: str, summary: str) -> argparse.ArgumentParser:
        return commands.add_parser(
            name,
            help=summary,
            description=summary[0].upper() + summary[1:] + ".",
            epilog=_EXAMPLES[name],
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    predict = command("predict", "find objects in images")
    predict.add_argument("model", metavar="MODEL", help="a registered name, or a published folder")
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

    pull = command("pull", "copy a published model into a folder of its own")
    pull.add_argument("model", metavar="NAME", help="a registered name, or a published folder")
    pull.add_argument("folder", metavar="DIR", type=Path, help="a new or empty folder")

    models = command("models", "list the recipes of conf/model: their size, their arithmetic, what they reached")
    models.add_argument("names", metavar="NAME", nargs="*", help="only these")
    models.add_argument("--size", default="800x1216", help="height and width that arithmetic is counted at")
    models.add_argument("--json", action="store_true", help="as JSON")

    convert = command("convert", "turn a checkpoint of Detectron2 or torchvision into a published model, or one back")
    convert.add_argument(
        "source", metavar="[FORMAT] SOURCE", nargs="+", help="detectron2 or torchvision, and its .pth or .pkl"
    )
    convert.add_argument("--out", metavar="PATH", type=Path, required=True, help="a new folder; a .pth file with --to")
    convert.add_argument("--config", metavar="FILE", type=Path, help="the model's config.yaml (default: beside SOURCE)")
    convert.add_argument("--labels", metavar="FILE", type=Path, help="names of the classes, one a line")
    convert.add_argument("--to", choices=("detectron2",), help="the other way: from a published model")

    doctor = command("doctor", "show what is installed, which devices there are, and which operators run natively")
    doctor.add_argument("--json", action="store_true", help="as JSON")
    return parser


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


def _pull(options: argparse.Namespace) -> None:
    from detcore.inference.folder import DESCRIPTION, WEIGHTS, read_description, read_weights
    from detcore.loading import published_folder

    target: Path = options.folder
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"{target} exists and is not an empty folder")
    source = published_folder(options.model)
    description = read_description(source)
    read_weights(source, description)
    # Whole or not at all: a copy that is cut off must not look like a model.
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    temporary.mkdir(parents=True)
    try:
        for name in (DESCRIPTION, WEIGHTS):
            shutil.copyfile(source / name, temporary / name)
        temporary.replace(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    print(f"{target}: {description.model.name}, {len(description.labels)} classes")


def _models(options: argparse.Namespace) -> None:
    from dataclasses import asdict

    from rich.console import Console
    from rich.progress import track

    from detcore import recipes

    size = recipes.parsed_size(options.size)
    progress = Console(stderr=True)
    files = track(recipes.files(options.names), "counting", console=progress, transient=True)
    found = [recipes.read(path, size=size) for path in files]
    if options.json:
        print(json.dumps([asdict(recipe) for recipe in found], indent=1))
    else:
        Console().print(recipes.table(found, size=size))


def _convert(options: argparse.Namespace) -> None:
    from detcore.convert import convert_detectron2, convert_to_detectron2, convert_torchvision

    *origin, source = options.source
    if origin not in ([[]] if options.to else [["detectron2"], ["torchvision"]]):
        raise ValueError(
            "say from where: detcore convert detectron2 SOURCE, detcore convert torchvision SOURCE, or detcore convert "
            "SOURCE --to detectron2"
        )
    if options.to is not None:
        if options.config is not None or options.labels is not None:
            raise ValueError("--config and --labels say what a checkpoint does not; they have no use with --to")
        number = convert_to_detectron2(Path(source), options.out)
        print(f"{options.out}: {number} tensors under Detectron2's names")
        return
    labels = None if options.labels is None else options.labels.read_text().split("\n")
    if labels is not None:
        labels = [label.strip() for label in labels if label.strip()]
    if origin == ["torchvision"]:
        if options.config is not None:
            raise ValueError("--config is of Detectron2: torchvision's checkpoints have no configuration")
        done = convert_torchvision(Path(source), options.out, labels=labels)
    else:
        done = convert_detectron2(Path(source), options.out, settings_file=options.config, labels=labels)
    for note in done.notes:
        print(f"detcore convert: {note}", file=sys.stderr)
    print(
        f"{done.folder}: {done.config.type}, {done.num_parameters / 1e6:.1f} M parameters in {done.num_tensors} tensors"
    )


def _doctor(options: argparse.Namespace) -> None:
    from detcore.doctor import facts, show

    found = facts()
    print(json.dumps(found, indent=1) if options.json else show(found))


if __name__ == "__main__":
    sys.exit(main())
