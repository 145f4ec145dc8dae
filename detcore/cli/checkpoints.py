"""The command that makes a model of a training's checkpoint."""

import argparse
from pathlib import Path

from detcore.cli.commands import Answer, Commands

_PUBLISH = """\
  detcore publish runs/digits-mask-rcnn best-so-far
  detcore publish runs/digits-mask-rcnn early --step 200
  detcore predict early scene.jpg"""


def declare(commands: Commands) -> None:
    """Adds the command."""
    summary = "make a model folder of a checkpoint: of a training that is running, was stopped or went another way"
    command = commands.add("publish", summary, _publish, examples=_PUBLISH, answers=True)
    command.add_argument("training", metavar="RUN_DIR", type=Path, help="the training's folder")
    command.add_argument("folder", metavar="DIR", type=Path, help="a new or empty folder")
    command.add_argument("--step", default="best", help="best, last or the number of a step (default: best)")


def _publish(options: argparse.Namespace) -> Answer:
    from detcore.engine.checkpoint import CheckpointFolder
    from detcore.engine.publish import publish_checkpoint

    target: Path = options.folder
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"{target} exists and is not an empty folder")
    which = options.step
    if which not in ("best", "last"):
        if not which.isdecimal():
            raise ValueError(f"--step {which} is neither best, last nor a number")
        which = int(which)
    checkpoints = CheckpointFolder(options.training / "checkpoints", keep=1, say=print)
    step = publish_checkpoint(checkpoints, which, target)
    facts = {"folder": str(target), "run": str(options.training), "step": step}
    return Answer(facts=facts, text=f"{target}: step {step} of {options.training}")
