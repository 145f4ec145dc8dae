"""Commands about this machine."""

import argparse

from detcore.cli.commands import Answer, Commands

_DOCTOR = """\
  detcore doctor
  detcore doctor --json"""


def declare(commands: Commands) -> None:
    """Adds the commands."""
    summary = "show what is installed, which devices there are, and which operators run natively"
    commands.add("doctor", summary, _doctor, examples=_DOCTOR, answers=True)


def _doctor(options: argparse.Namespace) -> Answer:
    from detcore.doctor import facts, show

    found = facts()
    return Answer(facts=found, text=show(found))
