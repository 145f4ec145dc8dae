"""Commands about models: the recipes, published folders, checkpoints of others."""

import argparse
import sys
from pathlib import Path

from detcore.cli.commands import Answer, Commands
from detcore.cli.zoo import list_registry

_PULL = """\
  detcore pull digits-mask-rcnn@champion ./digits
  detcore predict ./digits scene.jpg"""
_MODELS = """\
  detcore models
  detcore models mask_rcnn_r50_fpn --size 640x640
  detcore models --json > recipes.json
  detcore models --registry
  detcore models --registry 'digits-*' --alias champion
  detcore train DIR model=mask_rcnn_r50_fpn"""
_CONVERT = """\
  detcore convert detectron2 model_final_f10217.pkl --out mask-rcnn
  detcore convert detectron2 output/model_final.pth --config output/config.yaml --labels names.txt --out mine
  detcore train DIR model=published model.source=mine
  detcore convert mine --to detectron2 --out back.pth
  detcore convert torchvision maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth --out mask-rcnn"""


def declare(commands: Commands) -> None:
    """Adds the commands."""
    pull = commands.add("pull", "copy a published model into a folder of its own", _pull, examples=_PULL, answers=True)
    pull.add_argument("model", metavar="NAME", help="a registered name, or a published folder")
    pull.add_argument("folder", metavar="DIR", type=Path, help="a new or empty folder")

    summary = "list the recipes of conf/model (size, arithmetic, what they reached), or the registry's models"
    models = commands.add("models", summary, _models, examples=_MODELS, answers=True)
    models.add_argument("names", metavar="NAME", nargs="*", help="only these")
    models.add_argument("--size", default="800x1216", help="height and width that arithmetic is counted at")
    models.add_argument("--registry", action="store_true", help="list registered models; with NAME, its versions")
    models.add_argument("--versions", action="store_true", help="with --registry: all versions of all models")
    models.add_argument("--alias", help="with --registry: only what has this alias")
    models.add_argument("--data", metavar="NAME", help="with --registry: only versions trained on this data set")
    models.add_argument("--archived", action="store_true", help="with --registry: also archived versions")

    summary = "turn a checkpoint of Detectron2 or torchvision into a published model, or one back"
    convert = commands.add("convert", summary, _convert, examples=_CONVERT, answers=True)
    convert.add_argument(
        "source", metavar="[FORMAT] SOURCE", nargs="+", help="detectron2 or torchvision, and its .pth or .pkl"
    )
    convert.add_argument("--out", metavar="PATH", type=Path, required=True, help="a new folder; a .pth file with --to")
    convert.add_argument("--config", metavar="FILE", type=Path, help="the model's config.yaml (default: beside SOURCE)")
    convert.add_argument("--labels", metavar="FILE", type=Path, help="names of the classes, one a line")
    convert.add_argument("--to", choices=("detectron2",), help="the other way: from a published model")


def _pull(options: argparse.Namespace) -> Answer:
    import detcore

    pulled = detcore.pull(options.model, options.folder)
    facts = {"folder": str(options.folder), "model": pulled.model.name, "labels": pulled.labels}
    return Answer(facts=facts, text=f"{options.folder}: {pulled.model.name}, {len(pulled.labels)} classes")


def _models(options: argparse.Namespace) -> Answer:
    if options.registry:
        return list_registry(options)
    if options.versions or options.archived or options.alias is not None or options.data is not None:
        raise ValueError("--versions, --alias, --data and --archived are of the registry: add --registry")
    from dataclasses import asdict

    from rich.console import Console
    from rich.progress import track

    from detcore import recipes

    size = recipes.parsed_size(options.size)
    progress = Console(stderr=True)
    files = track(recipes.files(options.names), "counting", console=progress, transient=True)
    found = [recipes.read(path, size=size) for path in files]
    return Answer(facts=[asdict(recipe) for recipe in found], text=recipes.table(found, size=size))


def _convert(options: argparse.Namespace) -> Answer:
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
        facts = {"file": str(options.out), "tensors": number}
        return Answer(facts=facts, text=f"{options.out}: {number} tensors under Detectron2's names")
    labels = None if options.labels is None else _lines(options.labels)
    if origin == ["torchvision"]:
        if options.config is not None:
            raise ValueError("--config is of Detectron2: torchvision's checkpoints have no configuration")
        done = convert_torchvision(Path(source), options.out, labels=labels)
    else:
        done = convert_detectron2(Path(source), options.out, settings_file=options.config, labels=labels)
    for note in done.notes:
        print(f"detcore convert: {note}", file=sys.stderr)
    facts = {
        "folder": str(done.folder),
        "type": done.config.type,
        "parameters": done.num_parameters,
        "tensors": done.num_tensors,
        "notes": list(done.notes),
    }
    text = (
        f"{done.folder}: {done.config.type}, {done.num_parameters / 1e6:.1f} M parameters in {done.num_tensors} tensors"
    )
    return Answer(facts=facts, text=text)


def _lines(file: Path) -> list[str]:
    try:
        return [line.strip() for line in file.read_text(encoding="utf-8").split("\n") if line.strip()]
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: is not text in UTF-8 ({error})") from error
