"""The register stage: an evaluated model in, a version of a registered model out."""

from collections.abc import Sequence

from detcore.launch import parser, read_config, register_published, report, run_main


def main(arguments: Sequence[str]) -> int:
    command = parser(__doc__)
    command.add_argument("--report", action="store_true", help="only say what was registered, and what to do next")
    parsed = command.parse_args(arguments)
    config = read_config(parsed)
    if parsed.report:
        print(report(config))
    else:
        outcome = register_published(config)
        print(f"registered: {outcome['name']}, version {outcome['version']}")
    return 0


if __name__ == "__main__":
    run_main(main)
