"""Commands about data."""

from detcore.cli.commands import Commands


def declare(commands: Commands) -> None:
    """Adds the commands."""
