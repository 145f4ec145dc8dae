"""The tune stage: searches for better settings, as `tune=…` says; best_overrides.yaml is what training takes."""

from collections.abc import Sequence

from detcore.launch import parser, read_config, run_main
from detcore.launch.best_settings import write_nothing_found


def main(arguments: Sequence[str]) -> int:
    given = parser(__doc__).parse_args(arguments)
    config = read_config(given)
    if config.tune is None:
        print(f"no search (tune=none; conf/tune has some): {write_nothing_found(config)} is empty")
        return 0
    from detcore.launch.tuning import tune  # late: Ray takes seconds

    overrides = given.overrides if given.params is None else None
    result = tune(config, overrides=overrides, params=given.params)
    if result.interrupted:
        print("interrupted; the same command goes on with the trials that are left")
        return 130
    print(f"best: trial {result.trial}, {result.metric} {result.value:.2f} on val: {' '.join(result.overrides)}")
    print(f"train with them: python pipelines/train.py ... overrides={result.best_file}")
    return 0


if __name__ == "__main__":
    run_main(main)
