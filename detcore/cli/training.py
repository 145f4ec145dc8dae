"""The way of a model from raw data to the registry: a command for each stage of the pipeline."""

import argparse

from detcore.cli import evaluating
from detcore.cli.commands import Answer, Commands
from detcore.cli.configuration import config_of, configured

_PREPARE = """\
  detcore prepare photos/ data.name=parts
  detcore prepare data=yolo data.root=photos data.name=parts
  detcore prepare --params params.yaml"""
_TRAIN = """\
  detcore train photos/ data.name=parts model=faster_rcnn_lite0 engine=finetune
  detcore train photos/ model=published model.source=parts-fcos@champion engine=finetune
  detcore train model=mask_rcnn_r50_fpn data=bccd engine.steps=2000 optim.lr=5e-4 cluster=local
  detcore train photos/ cluster.num_workers=2 cluster.cpus_per_worker=1
  detcore train runs/parts-faster-rcnn-lite0          (goes on, with the settings kept there)
  detcore train                                       (the embedded digits)"""
_REGISTER = """\
  detcore register runs/parts-faster-rcnn-lite0
  detcore register --params params.yaml --json"""
_REGISTER_SUMMARY = "make the evaluated model a version in the registry, and the champion if it is better on validation"


def declare(commands: Commands) -> None:
    """Adds the commands."""
    summary = "check raw images, split them and write them as shards; train does it where it was not done"
    configured(commands.add("prepare", summary, _prepare, examples=_PREPARE, answers=True))
    summary = "train a detector, or go on with a training that was stopped"
    configured(commands.add("train", summary, _train, examples=_TRAIN, answers=True))
    evaluating.declare(commands)
    configured(commands.add("register", _REGISTER_SUMMARY, _register, examples=_REGISTER, answers=True))


def _prepare(options: argparse.Namespace) -> Answer:
    from detcore.launch import stages

    facts = stages.prepare(*options.overrides, params=options.params)
    return Answer(facts=facts, text=f"prepared: {facts['shards']}")


def _train(options: argparse.Namespace) -> Answer:
    from detcore.launch import train

    config = config_of(options)
    result = train(config)
    facts = {
        "run": config.run_dir,
        "model": None if result.model_dir is None else f"{config.run_dir}/model",
        "step": result.step,
        "stopped": result.stopped,
        "best_step": result.best_step,
        "val": result.best_metrics,
    }
    if result.model_dir is None:
        text = f"stopped at step {result.step} by {result.stopped}; the same command goes on from there"
    else:
        text = f"published: {config.run_dir}/model; now: detcore evaluate {config.run_dir}"
    return Answer(facts=facts, text=text, code=result.exit_code)


def _register(options: argparse.Namespace) -> Answer:
    from detcore.launch import register_published, stages

    outcome = register_published(stages.trained(config_of(options)))
    name, version = outcome["name"], outcome["version"]
    called = f"{name}@{outcome['alias']}" if outcome["alias_moved"] else f"{name}/{version}"
    text = f"registered: {name}, version {version} ({outcome['alias']}: {outcome['reason']})"
    return Answer(facts=outcome, text=f"{text}\nnow: detcore predict {called} IMAGE.jpg --out drawn")
