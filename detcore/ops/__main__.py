"""`python -m detcore.ops` builds the native operators."""

import logging
import shutil
import sys
import time

from detcore.ops import native


def main() -> int:
    """Builds what this machine can and says what and where."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    for device_type in ("cpu", "cuda"):
        if not native.sources(device_type) or (device_type == "cuda" and shutil.which("nvcc") is None):
            continue
        started = time.perf_counter()
        try:
            library = native.build(device_type, again=True)
        except native.NativeBuildError as error:
            print(f"native operators, {device_type}: {error}", file=sys.stderr)
            return 1
        print(f"native operators, {device_type}: {library} ({time.perf_counter() - started:.1f} s)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
