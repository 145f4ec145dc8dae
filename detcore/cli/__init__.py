"""The `detcore` command. What a sub-command needs is imported when it runs: `detcore --help` must be quick."""

from detcore.cli.main import main

__all__ = ["main"]
