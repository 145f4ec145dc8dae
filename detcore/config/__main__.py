"""`python -m detcore.config params.yaml [overrides…]`: compose conf/, validate, write; `make params` calls it."""

import sys
from pathlib import Path

import yaml

from detcore.config.loading import compose_params, validate
from detcore.config.stores import is_url


def main(arguments: list[str]) -> int:
    target, overrides = Path(arguments[0]), arguments[1:]
    try:
        params = compose_params(overrides)
        config = validate(params, source="configuration")
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    header = (
        f"# Composed from conf/ by: make params{' O=' + repr(' '.join(overrides)) if overrides else ''}. Do not edit.\n"
    )
    target.write_text(header + yaml.safe_dump(params, sort_keys=False, allow_unicode=True))
    print(f"{target}: {params['name']}")
    if is_url(config.data.shards):
        print(
            f"{target}: data.shards is a URL, and DVC's stages keep shards in a folder; run the scripts in pipelines/"
            " with these settings instead of dvc repro, or let a DVC remote be the bucket (docs/data_stores.md)",
            file=sys.stderr,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
