"""The settings of a command that works as conf/ says: a run, data or overrides by their words."""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from detcore.config import Config


def configured(parser: argparse.ArgumentParser, *, metavar: str = "DIR | KEY=VALUE", also: str = "") -> None:
    """Adds the words that settings are told in, and --params.

    Args:
        metavar: of the words.
        also: what else they may be, as the help begins.
    """
    parser.add_argument(
        "overrides",
        metavar=metavar,
        nargs="*",
        help=f"{also}a folder: raw, of shards, or of a run, which keeps its settings; and settings of conf/, such as "
        "model=mask_rcnn_r50_fpn optim.lr=0.01",
    )
    parser.add_argument("--params", metavar="FILE", help="a composed configuration, such as params.yaml, instead")


def config_of(options: argparse.Namespace) -> "Config":
    """The settings that the words, or --params, tell.

    Raises:
        ValueError: as `detcore.launch.stages.settings` does.
    """
    from detcore.launch import stages

    return stages.settings(*options.overrides, params=options.params)
