"""The report stage: a model's evaluation in, a page on what it does well and badly out; the champion beside it."""

from collections.abc import Sequence
from pathlib import Path

from detcore.launch import parser, read_config, report_published, run_main


def main(arguments: Sequence[str]) -> int:
    config = read_config(parser(__doc__).parse_args(arguments))
    findings = report_published(config)
    print(f"report: {Path(config.run_dir, 'report', 'report.html')}")
    for line in () if findings is None else findings.notes:
        print(f"  {line}")
    return 0


if __name__ == "__main__":
    run_main(main)
