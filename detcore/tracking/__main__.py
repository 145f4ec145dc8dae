"""`python -m detcore.tracking RUN_DIR`: uploads what a training could not deliver to MLflow."""

import argparse
import sys

from detcore.tracking.buffer import flush_buffer
from detcore.tracking.client import one_line


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m detcore.tracking", description=__doc__)
    parser.add_argument("run_dir", help="the training's folder, which holds tracking-buffer.jsonl")
    run_dir = parser.parse_args().run_dir
    try:
        print(f"{run_dir}: {flush_buffer(run_dir)} records delivered")
    except Exception as error:  # MLflow, its database and the network each raise their own
        print(f"{run_dir}: nothing is lost, but MLflow does not take it: {one_line(error)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
