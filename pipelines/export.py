"""The export stage: a registered model in, files for other programs out, in the formats that `export.formats` names."""

from collections.abc import Sequence

from detcore.launch import export_published, parser, read_config, run_main


def main(arguments: Sequence[str]) -> int:
    config = read_config(parser(__doc__).parse_args(arguments))
    lines = export_published(config)
    print("\n".join(lines) or "export.formats names none: nothing is exported")
    return 0


if __name__ == "__main__":
    run_main(main)
