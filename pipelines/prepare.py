"""The prepare stage: raw data in, shards and a report of what was dropped out."""

from collections.abc import Sequence

from detcore.data import prepare
from detcore.launch import parser, read_config, run_main


def main(arguments: Sequence[str]) -> int:
    config = read_config(parser(__doc__).parse_args(arguments))
    prepare(config.data, seed=config.seed)
    return 0


if __name__ == "__main__":
    run_main(main)
