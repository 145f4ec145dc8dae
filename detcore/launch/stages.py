"""The stages from raw data to the registry, as the commands of the same names: `detcore.train("photos/", "seed=1")`."""

from pathlib import Path
from typing import Any

from detcore.config import Config, load
from detcore.data import prepare as write_shards
from detcore.data.description import read_description
from detcore.data.locate import locate
from detcore.engine import FitResult
from detcore.inference.folder import DESCRIPTION
from detcore.launch.evaluation import evaluate_published
from detcore.launch.registration import register_published
from detcore.launch.training import CONFIG
from detcore.launch.training import train as train_config


def settings(*words: str | Path, params: str | Path | None = None) -> Config:
    """The configuration that some words mean.

    Args:
        words: settings of conf/, such as 'model=mask_rcnn_r50_fpn' or 'optim.lr=0.01', and at most one folder: of raw
            data, of shards, or of a run, which keeps the settings that it was trained with.
        params: a composed configuration, such as params.yaml, in place of words.

    Raises:
        ValueError: one line for each fault in it.
    """
    told = [str(word) for word in words]
    if params is not None or all("=" in word for word in told):
        return load(told, file=params)
    kept = [Path(word, CONFIG) for word in told if Path(word, CONFIG).is_file()]
    if not kept:
        return locate(told)
    if len(told) > 1:
        raise ValueError(f"{kept[0]} has the settings of the run; for other settings, name the data instead of the run")
    return load(file=kept[0])


def trained(config: Config) -> Config:
    """The same configuration, of a training that has published its model; ValueError says how to come to one."""
    if not Path(config.run_dir, "model", DESCRIPTION).is_file():
        kept = Path(config.run_dir, CONFIG).is_file()
        how = f"detcore train {config.run_dir} goes on" if kept else "detcore train with the same words makes one"
        raise ValueError(f"{config.run_dir}: no trained model there (yet); {how}")
    return config


def prepare(*words: str | Path, params: str | Path | None = None) -> dict[str, Any]:
    """Checks raw images, splits them and writes them as shards.

    Args:
        words, params: as `settings` takes them.

    Returns:
        The description of the shards: their folder, the classes, what each split holds.

    Raises:
        ValueError, OSError: for what settings or data have wrong, and what cannot be written.
    """
    config = settings(*words, params=params)
    write_shards(config.data, seed=config.seed)
    return {"shards": config.data.shards, **read_description(config.data.shards, store=config.data.store)}


def train(*words: str | Path, params: str | Path | None = None) -> FitResult:
    """Trains a detector, or goes on with a training that was stopped; prepares the data where nobody has.

    For a model, data or augmentation of your own see `detcore.fit`.

    Args:
        words, params: as `settings` takes them.

    Returns:
        The outcome; `model_dir` in it is a folder that `detcore.load` reads.

    Raises:
        ValueError, OSError: for what settings or data have wrong, and what cannot be written.
    """
    return train_config(settings(*words, params=params))


def evaluate(*words: str | Path, params: str | Path | None = None) -> dict[str, float]:
    """Measures a trained model on the test split.

    Args:
        words, params: as `settings` takes them; mostly a run's folder.

    Returns:
        Metrics in percent; {} where the data has no test split. More is in the run's folder `evaluation`.

    Raises:
        ValueError: if there is no such model, or it was trained on other data.
    """
    return evaluate_published(trained(settings(*words, params=params)))


def register(*words: str | Path, params: str | Path | None = None) -> dict[str, Any]:
    """Makes an evaluated model a version in the registry, and the champion if it is better on validation.

    Args:
        words, params: as `settings` takes them; mostly a run's folder.

    Returns:
        name, version, alias, whether that moved to it and why, metrics on val and test.

    Raises:
        ValueError: if these weights were not evaluated, or MLflow refuses.
        ConnectionError: if MLflow is out of reach.
    """
    return register_published(trained(settings(*words, params=params)))
