"""A trained and measured model into the registry, and what to do with it next."""

import json
import sys
from pathlib import Path
from typing import Any

from detcore.config import Config
from detcore.engine.atomic import write_file
from detcore.inference import read_description
from detcore.launch.evaluation import FOLDER as EVALUATION_FOLDER
from detcore.launch.evaluation import MODEL_SHA256
from detcore.launch.kept import check_records_are_kept
from detcore.launch.reporting import REPORT
from detcore.tracking import register
from detcore.tracking.client import tracking_uri, without_password
from detcore.zoo.describing import describe_version

FILE_NAME = "registered.json"
_REPORTED = ("_ap", "_ap50", "miou", "pq", "proposal_ar1000")
"""Ends of the figures that people are told; all are in the file."""


def register_published(config: Config) -> dict[str, Any]:
    """Registers `<run_dir>/model` under `tracking.registered_name` and writes `<run_dir>/registered.json`.

    The version keeps its evaluation, settings and statistics of its data, and has a model card.

    Returns:
        name, version, alias, whether the alias moved to it and why, and the metrics on val and test ({} where the data
        has no test split).

    Raises:
        ValueError: if there is no published model or no evaluation of these weights, or MLflow refuses.
        ConnectionError: if MLflow is out of reach.
    """
    check_records_are_kept(config.tracking)
    model_dir, evaluation = Path(config.run_dir, "model"), Path(config.run_dir, EVALUATION_FOLDER)
    published = read_description(model_dir)
    measured = evaluation / MODEL_SHA256
    if not measured.is_file() or measured.read_text().strip() != published.weights_sha256:
        raise ValueError(
            f"{evaluation} has no figures of the weights in {model_dir}; evaluate this model first: "
            f"detcore evaluate {config.run_dir}"
        )
    metrics = json.loads((evaluation / "metrics.json").read_text())
    registered = register(model_dir, config=config, metrics_test=metrics)
    describe_version(f"{registered.name}/{registered.version}", config=config)
    outcome = {
        "name": registered.name,
        "version": registered.version,
        "alias": registered.alias,
        "alias_moved": registered.alias_moved,
        "reason": registered.reason,
        "val": published.metrics,
        "test": metrics,
    }
    write_file(Path(config.run_dir, FILE_NAME), (json.dumps(outcome, indent=2) + "\n").encode())
    return outcome


def report(config: Config) -> str:
    """What `register_published` found, for people: figures, name and version, and the next three commands.

    Raises:
        ValueError: if nothing is registered from this run.
    """
    path = Path(config.run_dir, FILE_NAME)
    if not path.is_file():
        raise ValueError(f"{path} does not exist; register the model first: dvc repro")
    outcome = json.loads(path.read_text())
    name, version = outcome["name"], outcome["version"]
    split = "test" if outcome["test"] else "val"
    figures = "  ".join(f"{key} {value:.1f}" for key, value in outcome[split].items() if key.endswith(_REPORTED))
    example = next(Path(config.run_dir, EVALUATION_FOLDER).glob("example.*"), "IMAGE.jpg")
    uri = without_password(tracking_uri(config.tracking))
    browser = f"open {uri}" if uri.startswith("http") else f"mlflow ui --backend-store-uri {uri}"
    champion = f"{name}@{outcome['alias']}" if outcome["alias_moved"] else f"{name}/{version}"
    return "\n".join(
        [
            f"{split:<9} {figures}",
            f"model     {name}, version {version} ({outcome['alias']}: {outcome['reason']})",
            f"next{_activation()}",
            *_report_line(config),
            f"  runs and models in a browser   {browser}",
            f"  predict on an image            detcore predict {champion} {example}",
            "  train on your own folder       detcore train FOLDER data.name=NAME engine=finetune",
        ]
    )


def _report_line(config: Config) -> list[str]:
    page = Path(config.run_dir, REPORT, "report.html")
    return [f"  what it does well and badly    open {page}"] if page.is_file() else []


def _activation() -> str:
    """What to type first, where the commands are in a virtual environment of this folder that a shell may not have."""
    script = Path(sys.prefix, "bin", "activate")
    if not script.is_file() or not script.is_relative_to(Path.cwd()):
        return ""
    return f" (first: source {script.relative_to(Path.cwd())})"
