"""A trained and measured model into the registry, and what to do with it next."""

import json
import sys
from pathlib import Path
from typing import Any

from detcore.config import Config
from detcore.launch.evaluation import FOLDER as EVALUATION_FOLDER
from detcore.tracking import register
from detcore.tracking.client import tracking_uri, without_password

FILE_NAME = "registered.json"


def register_published(config: Config) -> dict[str, Any]:
    """Registers `<run_dir>/model` under `tracking.registered_name` and writes `<run_dir>/registered.json`.

    Returns:
        name, version, alias, whether the alias moved to it and why, and the test metrics.

    Raises:
        ValueError: if there is no published model or no evaluation of it, or MLflow refuses.
        ConnectionError: if MLflow is out of reach.
    """
    path = Path(config.run_dir, EVALUATION_FOLDER, "metrics.json")
    if not path.is_file():
        raise ValueError(f"{path} does not exist; evaluate the model first: python pipelines/evaluate.py")
    metrics = json.loads(path.read_text())
    registered = register(Path(config.run_dir, "model"), config=config, metrics_test=metrics)
    outcome = {
        "name": registered.name,
        "version": registered.version,
        "alias": registered.alias,
        "alias_moved": registered.alias_moved,
        "reason": registered.reason,
        "test": metrics,
    }
    Path(config.run_dir, FILE_NAME).write_text(json.dumps(outcome, indent=2) + "\n")
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
    figures = "  ".join(
        f"{key} {value:.1f}" for key, value in outcome["test"].items() if key.endswith(("_ap", "_ap50"))
    )
    example = next(Path(config.run_dir, EVALUATION_FOLDER).glob("example.*"), "IMAGE.jpg")
    uri = without_password(tracking_uri(config.tracking))
    browser = f"open {uri}" if uri.startswith("http") else f"mlflow ui --backend-store-uri {uri}"
    champion = f"{name}@{outcome['alias']}" if outcome["alias_moved"] else f"{name}/{version}"
    return "\n".join(
        [
            f"test      {figures}",
            f"model     {name}, version {version} ({outcome['alias']}: {outcome['reason']})",
            f"next{_activation()}",
            f"  runs and models in a browser   {browser}",
            f"  predict on an image            detcore predict {champion} {example}",
            "  train on your own folder       python pipelines/train.py data=coco data.root=FOLDER data.name=NAME "
            "model=faster_rcnn_lite0 engine=finetune",
        ]
    )


def _activation() -> str:
    """What to type first, where the commands are in a virtual environment of this folder that a shell may not have."""
    script = Path(sys.prefix, "bin", "activate")
    if not script.is_file() or not script.is_relative_to(Path.cwd()):
        return ""
    return f" (first: source {script.relative_to(Path.cwd())})"
