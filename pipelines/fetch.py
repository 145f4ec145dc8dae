"""DVC's fetch stage: makes sure that the raw data is there; changes nothing where it is."""

from collections.abc import Sequence

from detcore.data import obtain
from detcore.launch import parser, read_config, run_main


def main(arguments: Sequence[str]) -> int:
    config = read_config(parser(__doc__).parse_args(arguments))
    print(f"raw data: {obtain(config.data)}")
    return 0


if __name__ == "__main__":
    run_main(main)
