"""The prepare stage: raw data in, shards and a report of what was dropped out."""

from collections.abc import Sequence

from detcore.data import prepare
from detcore.launch import parser, read_config, run_main
from detcore.launch.kept import check_kept


def main(arguments: Sequence[str]) -> int:
    config = read_config(parser(__doc__).parse_args(arguments))
    check_kept("data.shards", config.data.shards)
    prepare(config.data, seed=config.seed)
    return 0


if __name__ == "__main__":
    run_main(main)
