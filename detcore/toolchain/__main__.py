"""Builds the native libraries, whatever failed before."""

import argparse
import logging
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from detcore.toolchain.library import build
from detcore.toolchain.targets import PRODUCTS, Target, sources, targets_for, wheel_targets
from detcore.toolchain.tools import MissingToolError, NativeBuildError, interpreters


def main(arguments: Sequence[str] | None = None) -> int:
    """Builds what this machine can, and says what, where and how long it took.

    Returns:
        The exit code: 1 if something failed. Without nvcc, CUDA is left out and that is no failure, unless asked for.
    """
    parser = argparse.ArgumentParser(prog="python -m detcore.toolchain", description=__doc__)
    parser.add_argument("products", nargs="*", metavar="PRODUCT", help=f"of {', '.join(PRODUCTS)} (default: all)")
    parser.add_argument(
        "--wheel", type=Path, metavar="DIR", help="build for other machines, and copy the libraries here"
    )
    options = parser.parse_args(arguments)
    if unknown := set(options.products) - set(PRODUCTS):
        parser.error(f"{', '.join(sorted(unknown))}: not of {', '.join(PRODUCTS)}")
    logging.basicConfig(level=logging.ERROR, format="%(message)s")
    if options.wheel is not None:
        shutil.rmtree(options.wheel, ignore_errors=True)
        options.wheel.mkdir(parents=True)
    for product in options.products or PRODUCTS:
        if not sources(product) and not options.products:
            continue
        chosen = targets_for(product)[:1] if options.wheel is None else wheel_targets(product, interpreters())
        for target in chosen:
            try:
                library = _build(target)
            except MissingToolError as error:
                print(f"{_name(target)}: left out, {error}", file=sys.stderr)
                if product != "cuda" or options.products:
                    return 1
            except NativeBuildError as error:
                print(f"{_name(target)}: {error}", file=sys.stderr)
                return 1
            else:
                for path in library.parent.glob(f"{library.name}*") if options.wheel is not None else ():
                    shutil.copy2(path, options.wheel)
    return 0


def _build(target: Target) -> Path:
    started = time.perf_counter()
    library = build(target, again=True)
    print(f"{_name(target)}: {library} ({time.perf_counter() - started:.1f} s)", flush=True)
    return library


def _name(target: Target) -> str:
    made_for = target.python.version if target.python else target.architectures or target.march
    return f"{target.product} ({made_for})"


if __name__ == "__main__":
    sys.exit(main())
