"""The command that writes a model for other programs."""

import argparse
from pathlib import Path

from detcore.cli.commands import Answer, Commands

_EXPORT = """\
  detcore export digits-mask-rcnn@champion --images photos/ --out digits.onnx
  detcore predict digits.onnx scene.jpg
  detcore export runs/digits/model --format openvino --images photos/ --out digits.xml
  detcore export digits-mask-rcnn@champion --int8 --data data=digits --out digits.onnx --register"""
_FORMATS = ("onnx", "torch", "openvino", "aoti")


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
        help="an image, a folder or a glob: the file is only written if it sees in them what the model sees "
        "(default: some of the data's val split)",
    )
    command.add_argument("--data", metavar="WORD", nargs="+", help="a folder of data, or data=NAME of conf/data")
    command.add_argument(
        "--int8", action="store_true", help="quantise: calibrated on the data's train split, measured on its val split"
    )
    command.add_argument(
        "--max-ap-loss",
        metavar="POINTS",
        type=float,
        default=1.0,
        help="write no int8 file whose AP is lower by more (default: 1.0)",
    )
    command.add_argument(
        "--out", metavar="FILE", type=Path, required=True, help=".onnx, .xml (openvino) or .pt2 (torch, aoti)"
    )
    command.add_argument(
        "--register", action="store_true", help="also keep the file with the registered version that MODEL names"
    )


def _export(options: argparse.Namespace) -> Answer:
    from dataclasses import asdict

    from detcore.data.locate import locate
    from detcore.launch.exporting import export_model, register_export
    from detcore.loading import published_folder

    folder = published_folder(options.model)
    if options.register and folder == Path(options.model):
        raise ValueError(
            f"--register: {options.model} is a folder; name a registered model, as NAME@ALIAS or NAME/VERSION"
        )
    exported = export_model(
        folder,
        options.out,
        format=options.format,
        images=options.images,
        data=None if options.data is None else locate(options.data),
        int8=options.int8,
        max_ap_loss=options.max_ap_loss,
    )
    facts = {"file": str(options.out), "format": options.format, **asdict(exported)}
    text = f"{options.out}: {exported}"
    if options.register:
        facts["registered"] = register_export(options.model, options.out, format=options.format, exported=exported)
        text += f"\nkept with {facts['registered']}"
    return Answer(facts=facts, text=text)
