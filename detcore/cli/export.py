"""The command that writes a model for other programs."""

import argparse
from pathlib import Path

from detcore.cli.commands import Answer, Commands

_EXPORT = """\
  detcore export digits-mask-rcnn@champion --images photos/ --out digits.onnx
  detcore predict digits.onnx scene.jpg
  detcore export runs/digits/model --format openvino --images photos/ --out digits.xml"""
_FORMATS = ("onnx", "torch", "openvino")


def declare(commands: Commands) -> None:
    """Adds the command."""
    summary = "write a model, NMS and all, as a file that other programs run"
    command = commands.add("export", summary, _export, examples=_EXPORT, answers=True)
    command.add_argument("model", metavar="MODEL", help="a registered name, or a published folder")
    command.add_argument("--format", choices=_FORMATS, default="onnx", help="what runs it (default: onnx)")
    command.add_argument(
        "--images",
        metavar="SOURCE",
        nargs="+",
        required=True,
        help="an image, a folder or a glob: the file is only written if it sees in them what the model sees",
    )
    command.add_argument("--out", metavar="FILE", type=Path, required=True, help=".onnx, .pt2 (torch) or .xml")


def _export(options: argparse.Namespace) -> Answer:
    from dataclasses import asdict

    from detcore.export import export
    from detcore.loading import published_folder

    difference = export(published_folder(options.model), options.out, format=options.format, images=options.images)
    facts = {"file": str(options.out), "format": options.format, "difference": asdict(difference)}
    return Answer(facts=facts, text=f"{options.out}: {difference}")
