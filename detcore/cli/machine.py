"""Commands about this machine."""

import argparse
import json

from detcore.cli.commands import Commands

_DOCTOR = """\
  detcore doctor
  detcore doctor --json"""


def declare(commands: Commands) -> None:
    """Adds the commands."""
    summary = "show what is installed, which devices there are, and which operators run natively"
    doctor = commands.add("doctor", summary, _doctor, examples=_DOCTOR)
    doctor.add_argument("--json", action="store_true", help="as JSON")


def _doctor(options: argparse.Namespace) -> None:
    from detcore.doctor import facts, show

    found = facts()
    print(json.dumps(found, indent=1) if options.json else show(found))
