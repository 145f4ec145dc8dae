"""DVC's fetch stage: makes sure that the raw data is there; changes nothing where it is."""

from collections.abc import Sequence
from pathlib import Path

from detcore.data import obtain
from detcore.data.prepared import is_prepared
from detcore.launch import parser, read_config, run_main


def main(arguments: Sequence[str]) -> int:
    config = read_config(parser(__doc__).parse_args(arguments))
    data = config.data
    if data.source is None and not Path(data.root).exists() and is_prepared(data, seed=config.seed):
        raise ValueError(
            f"data.root: {data.root} is not here, but its shards are: dvc repro --allow-missing goes on from them, and"
            " dvc exp run --allow-missing too"
        )
    print(f"raw data: {obtain(data)}")
    return 0


if __name__ == "__main__":
    run_main(main)
