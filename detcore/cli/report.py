"""The command that says what a model does well and badly."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from detcore.cli.commands import Answer, Commands

if TYPE_CHECKING:
    from detcore.report import Measured

_REPORT = """\
  detcore report runs/digits-mask-rcnn
  detcore report digits-mask-rcnn@champion --data data/shards/digits --split val --out report
  detcore report runs/mine --against runs/before
  detcore report --detections results.json --annotations instances.json --images val2017/
  detcore report --detections new.json --annotations instances.json --against old.json --json"""


def declare(commands: Commands) -> None:
    """Adds the command."""
    summary = "write what a model does well and badly: errors, thresholds, worst images, labels to look at"
    command = commands.add("report", summary, _report, examples=_REPORT, answers=True)
    command.add_argument(
        "source", metavar="RUN_DIR | MODEL", nargs="?", help="an evaluated run, or with --data any published model"
    )
    command.add_argument(
        "--data", metavar="WORD", nargs="+", help="look at this: a folder, raw or of shards; data=NAME"
    )
    command.add_argument("--split", help="of --data (default: test, else val)")
    command.add_argument("--detections", metavar="FILE", type=Path, help="in place of a model: COCO's results, as JSON")
    command.add_argument("--annotations", metavar="FILE", type=Path, help="what they are compared with: COCO's JSON")
    command.add_argument("--images", metavar="DIR", type=Path, help="where the annotations' file_name begins")
    command.add_argument("--against", metavar="SOURCE", help="compare with another run, model, or results file")
    command.add_argument("--device", default="auto", help="for models: auto, cpu, cuda, cuda:1 … (default: auto)")
    command.add_argument("--out", metavar="DIR", type=Path, help="default: RUN_DIR/report, or report")


def _report(options: argparse.Namespace) -> Answer:
    from detcore.report import find, to_dict, write_report

    measured, out = _measured(options)
    against = None if options.against is None else _against(options, measured)
    out = out if options.out is None else options.out
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out}: is a file; name a folder")
    findings = find(measured, against=against)
    page = write_report(findings, out)
    figures = "  ".join(f"{name} {value:.1f}" for name, value in list(measured.metrics.items())[:3])
    return Answer(facts=to_dict(findings), text=f"{page}: {figures}")


def _measured(options: argparse.Namespace) -> "tuple[Measured, Path]":
    """What is reported on, and where the report goes unless that is said."""
    files = (options.detections, options.annotations)
    if options.source is None:
        if None in files:
            raise ValueError("name a RUN_DIR; a MODEL and --data; or --detections and --annotations")
        from detcore.report import measure_files

        if options.data is not None or options.split is not None:
            raise ValueError("--data and --split are for a MODEL; files of detections have --annotations")
        return measure_files(*files, images=options.images), Path("report")
    if files != (None, None) or options.images is not None:
        raise ValueError(
            f"--detections, --annotations and --images take the place of {options.source}: give one of both"
        )
    if options.data is None:
        from detcore.launch.reporting import measured_run

        run_dir = Path(options.source)
        if options.split is not None:
            raise ValueError("--split is of --data; a run has been evaluated on test")
        if not run_dir.is_dir():
            raise ValueError(f"{run_dir}: no such folder of a run; a model needs --data, to be looked at on")
        return measured_run(run_dir), run_dir / "report"
    return _looked_at(options.source, options), Path("report")


def _against(options: argparse.Namespace, measured: "Measured") -> "Measured":
    """Another one on the same images."""
    if options.detections is not None:
        from detcore.report import measure_files

        return measure_files(Path(options.against), options.annotations)
    if options.data is not None:
        return _looked_at(options.against, options)
    from detcore.launch.reporting import measured_run

    other = measured_run(Path(options.against))
    own, others = ([image["id"] for image in one.truth.coco["images"]] for one in (measured, other))
    if own != others:
        raise ValueError(f"{options.against} was evaluated on other images than {options.source}: give both --data")
    return other


def _looked_at(name: str, options: argparse.Namespace) -> "Measured":
    import detcore
    from detcore.launch.reporting import measured_model

    return measured_model(name, detcore.load(name, device=options.device), options.data, split=options.split)
