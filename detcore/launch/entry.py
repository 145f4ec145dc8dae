"""What the pipeline scripts share: a configuration out of the arguments, and errors as one line."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from detcore.config import Config, load
from detcore.config.variation import load_with


def parser(description: str | None) -> argparse.ArgumentParser:
    """The arguments that every pipeline takes."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--params", metavar="FILE", help="a composed configuration, as DVC's stages use")
    parser.add_argument(
        "--best", metavar="FILE", help="with --params: settings that a search found, to be used over it"
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as in model=mask_rcnn_r50_fpn optim.lr=0.01")
    return parser


def read_config(arguments: argparse.Namespace) -> Config:
    """The configuration that the arguments of `parser` ask for.

    Raises:
        ValueError: one line for each fault in it.
    """
    if arguments.best is None:
        return load(arguments.overrides, file=arguments.params)
    if arguments.params is None or arguments.overrides:
        raise ValueError(f"--best goes with --params alone; with words it is one of them: overrides={arguments.best}")
    return load_with(arguments.params, best=arguments.best)


def run_main(main: Callable[[Sequence[str]], int]) -> NoReturn:
    """Runs a script's `main` with the command line's arguments and exits with what it returns.

    What a user can mend (ValueError, OSError) is one line on standard error and exit status 2; with DETCORE_DEBUG=1 it
    is a traceback, as other errors are always.
    """
    try:
        status = main(sys.argv[1:])
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = 130
    except (ValueError, OSError) as error:
        if os.environ.get("DETCORE_DEBUG") == "1":
            raise
        print(f"error: {error}", file=sys.stderr)
        status = 2
    sys.exit(status)
