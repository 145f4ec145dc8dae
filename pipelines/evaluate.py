"""The evaluate stage: a published model and the test split in, figures, curves and pictures out."""

from collections.abc import Sequence

from detcore.launch import evaluate_published, parser, read_config, run_main


def main(arguments: Sequence[str]) -> int:
    config = read_config(parser(__doc__).parse_args(arguments))
    metrics = evaluate_published(config)
    if metrics:
        print("test: " + "  ".join(f"{name} {value:.2f}" for name, value in metrics.items()))
    return 0


if __name__ == "__main__":
    run_main(main)
