"""The command that measures: a run on its test split, a model on any data, detections of any program."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detcore.cli.commands import Answer, Commands
from detcore.cli.configuration import config_of, configured

if TYPE_CHECKING:
    from rich.console import RenderableType

    from detcore.evaluation import Evaluation

_EVALUATE = """\
  detcore evaluate runs/parts-faster-rcnn-lite0                      (its test split, once; keeps the figures there)
  detcore evaluate parts-faster-rcnn-lite0@champion data=parts --split val
  detcore evaluate runs/digits/model photos/ --protocol voc2007 --out figures
  detcore evaluate --detections found.json --annotations instances_val.json --json
  detcore evaluate --params params.yaml --json"""
_PROTOCOLS = ("coco", "lvis", "open_images", "voc2007", "voc2010")
_SPLITS = ("train", "val", "test")


def declare(commands: Commands) -> None:
    """Adds the command."""
    summary = "measure a trained model on its test split, a model on any data, or detections of any program"
    command = commands.add("evaluate", summary, _evaluate, examples=_EVALUATE, answers=True)
    configured(command, metavar="MODEL | DIR | KEY=VALUE", also="a model, by name or folder, and then its data; or ")
    command.add_argument("--split", choices=_SPLITS, help="of a MODEL's data (default: test, else val)")
    command.add_argument("--detections", metavar="FILE", type=Path, help="COCO's results: a JSON list of detections")
    command.add_argument("--annotations", metavar="FILE", type=Path, help="COCO's annotations that they are of")
    command.add_argument("--protocol", choices=_PROTOCOLS, help="how boxes are measured (default: coco)")
    command.add_argument(
        "--out", metavar="DIR", type=Path, help="write metrics, tables, curves and detections (COCO's results) there"
    )


def _evaluate(options: argparse.Namespace) -> Answer:
    if (options.detections is None) != (options.annotations is None):
        raise ValueError("--detections and --annotations belong together: what was found, and what was there")
    if options.out is not None and (options.out.is_file() or (options.out.is_dir() and any(options.out.iterdir()))):
        raise ValueError(f"--out {options.out}: exists; name a new folder")
    if options.detections is not None:
        return _answer(_of_files(options), options, {"detections": str(options.detections)})
    model = _named_model(options.overrides)
    if model is not None:
        return _of_model(options, model)
    for name in ("split", "protocol", "out"):
        if getattr(options, name) is not None:
            raise ValueError(f"--{name} is for a MODEL, or for --detections: a run is measured as it was trained")
    return _of_run(options)


def _named_model(words: list[str]) -> str | None:
    """The first word, where it is a model and not the folder of a run or of data."""
    if not words or "=" in words[0]:
        return None
    folder = Path(words[0])
    return words[0] if (folder / "model.json").is_file() or not folder.is_dir() else None


def _of_run(options: argparse.Namespace) -> Answer:
    from detcore.launch import evaluate_published, stages

    config = stages.trained(config_of(options))
    metrics = evaluate_published(config)
    figures = "  ".join(f"{name} {value:.2f}" for name, value in metrics.items()) or "no test split"
    text = f"test: {figures}\nnow: detcore register {config.run_dir}"
    return Answer(facts={"run": config.run_dir, "test": metrics}, text=text)


def _of_model(options: argparse.Namespace, model: str) -> Answer:
    from detcore.data.locate import locate
    from detcore.launch.evaluation import evaluate_model
    from detcore.loading import published_folder

    folder, words = published_folder(model), options.overrides[1:]
    if options.params is not None:
        raise ValueError("--params is of a run; for a MODEL, name the data: a folder, or data=NAME")
    if not words:
        raise ValueError(f"{model}: on which data? Add a folder, or data=NAME of conf/data")
    if options.protocol is not None:
        words = [*words, f"engine.evaluation.protocol={options.protocol}"]
    config = locate(words)
    split, evaluation = evaluate_model(folder, config, split=options.split)
    return _answer(evaluation, options, {"model": model, "data": config.data.name, "split": split})


def _of_files(options: argparse.Namespace) -> "Evaluation":
    from detcore.config import EvaluationConfig
    from detcore.evaluation import evaluate_results, read_annotations, read_results

    if options.overrides or options.split is not None or options.params is not None:
        raise ValueError("--detections are measured against --annotations: no model, data, --split or --params")
    truth = read_annotations(options.annotations)
    results, kinds = read_results(options.detections, truth)
    compared = [kind for kind in kinds if truth.lacks(kind) is None]
    for kind in kinds:
        if kind not in compared:
            print(f"no figures of {kind}: {truth.lacks(kind)}")
    if not compared:
        raise ValueError(f"{options.annotations}: has nothing to compare {', '.join(kinds)} with")
    settings = EvaluationConfig(protocol=options.protocol or "coco")
    return evaluate_results(truth, results, kinds=compared, settings=settings, operating_points=True)


def _answer(evaluation: "Evaluation", options: argparse.Namespace, of: dict[str, Any]) -> Answer:
    if options.out is not None:
        _write(evaluation, options.out)
    facts = {**of, "metrics": evaluation.metrics, "per_class": evaluation.per_class}
    return Answer(facts=facts, text=_shown(evaluation))


def _write(evaluation: "Evaluation", folder: Path) -> None:
    from detcore.launch.evaluation import write_tables

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.json").write_text(json.dumps(evaluation.metrics, indent=2) + "\n")
    write_tables(evaluation, folder)
    if evaluation.results is not None:
        (folder / "detections.json").write_text(json.dumps(evaluation.detections) + "\n")


def _shown(evaluation: "Evaluation") -> "RenderableType":
    """The metrics, and for each kind of prediction a table with a row for each class."""
    from rich.console import Group
    from rich.table import Table

    figures = Table("metric", box=None, pad_edge=False)
    figures.add_column("", justify="right")
    for name, value in evaluation.metrics.items():
        figures.add_row(name, f"{value:.2f}")
    tables: list[RenderableType] = [figures]
    for prefix in (*(f"{prefix}_" for prefix in evaluation.curves), ""):
        columns = _columns(evaluation, prefix)
        if not columns:
            continue
        table = Table(f"{prefix.strip('_')} class".strip(), box=None, pad_edge=False)
        for name in columns:
            short = name.removeprefix(prefix).removeprefix("f1_")
            table.add_column("at score" if short == "score" else short, justify="right", no_wrap=True)
        for name, values in evaluation.per_class.items():
            if values.keys() & columns:
                table.add_row(name, *(f"{values[column]:.2f}" if column in values else "" for column in columns))
        tables += ["", table]
    return Group(*tables)


def _columns(evaluation: "Evaluation", prefix: str) -> list[str]:
    """The names of the classes' figures that begin so; for "", those that begin like no curve."""
    names = dict.fromkeys(name for values in evaluation.per_class.values() for name in values)

    def longest(name: str) -> str:
        return max((f"{own}_" for own in evaluation.curves if name.startswith(f"{own}_")), key=len, default="")

    return [name for name in names if longest(name) == prefix]
