"""The parser of the whole command, and what its errors look like."""

import argparse
import sys
from collections.abc import Sequence

import detcore
from detcore.cli import bench, checkpoints, data, export, machine, models, predicting
from detcore.cli.commands import USER_ERROR, Commands

_INTERRUPTED = 130

_STORY = """\
Object detection from raw images to a registered model.

  look       detcore data check DIR
  train      python pipelines/train.py model=faster_rcnn_lite0 data=coco data.root=DIR
  predict    detcore predict digits-mask-rcnn@champion scene.jpg --out drawn
  port       detcore export digits-mask-rcnn@champion --images photos/ --out digits.onnx
  in Python  detcore.load("digits-mask-rcnn@champion").predict("scene.jpg")

MODEL is a registered name (name@alias, name/3, or name for the latest version) or a published folder; to predict,
also a file that `detcore export` wrote."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command.

    Returns:
        The exit code: 0, 1 where images were left out or data has errors, 2 for what the user can mend (in one line),
        130 for Ctrl-C.
    """
    options = _parsed(arguments)
    try:
        return options.run(options) or 0
    except (ValueError, OSError) as error:
        if options.traceback:
            raise
        print(f"{options.called}: {' '.join(str(error).split())}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        return _INTERRUPTED


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options. Overrides of the configuration may stand anywhere, which argparse alone does not let them."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    takes_overrides = hasattr(options, "overrides")
    unknown = [word for word in rest if word.startswith("-") or "=" not in word or not takes_overrides]
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    if rest:
        options.overrides += rest
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="detcore", description=_STORY, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"detcore {detcore.__version__}")
    parser.add_argument("--traceback", action="store_true", help="show where an error comes from")
    commands = Commands(parser)
    for group in (predicting, models, checkpoints, export, data, bench, machine):
        group.declare(commands)
    return parser
