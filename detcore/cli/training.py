"""The way of a model from raw data to the registry: a command for each stage of the pipeline."""

import argparse

from detcore.cli.commands import Answer, Commands, configured

_PREPARE = """\
  detcore prepare data=coco data.root=photos data.name=parts
  detcore prepare --params params.yaml"""
_TRAIN = """\
  detcore train                                       (the embedded digits)
  detcore train data=coco data.root=photos data.name=parts model=faster_rcnn_lite0 engine=finetune
  detcore train data=yolo data.root=photos data.name=parts model=published model.source=parts-fcos@champion
  detcore train model=mask_rcnn_r50_fpn data=bccd engine.steps=2000 optim.lr=5e-4 cluster=local
  detcore train cluster.num_workers=2 cluster.cpus_per_worker=1"""
_EVALUATE = """\
  detcore evaluate data=coco data.root=photos data.name=parts model=faster_rcnn_lite0 engine=finetune
  detcore evaluate --params params.yaml --json"""
_REGISTER = """\
  detcore register data=coco data.root=photos data.name=parts model=faster_rcnn_lite0 engine=finetune
  detcore register --params params.yaml --json"""
_REGISTER_SUMMARY = "make the evaluated model a version in the registry, and the champion if it is better on validation"


def declare(commands: Commands) -> None:
    """Adds the commands."""
    summary = "check raw images, split them and write them as shards; train does it where it was not done"
    configured(commands.add("prepare", summary, _prepare, examples=_PREPARE, answers=True))
    summary = "train a detector, or go on with a training that was stopped"
    configured(commands.add("train", summary, _train, examples=_TRAIN, answers=True))
    summary = "measure the trained model on the test split; with the same settings as train"
    configured(commands.add("evaluate", summary, _evaluate, examples=_EVALUATE, answers=True))
    configured(commands.add("register", _REGISTER_SUMMARY, _register, examples=_REGISTER, answers=True))


def _prepare(options: argparse.Namespace) -> Answer:
    from detcore.data import prepare
    from detcore.data.shards import read_description
    from detcore.launch import read_config

    config = read_config(options)
    prepare(config.data, seed=config.seed)
    facts = {"shards": config.data.shards, **read_description(config.data.shards, store=config.data.store)}
    return Answer(facts=facts, text=f"prepared: {config.data.shards}")


def _train(options: argparse.Namespace) -> Answer:
    from detcore.launch import read_config, train

    config = read_config(options)
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
        text = f"published: {config.run_dir}/model"
    return Answer(facts=facts, text=text, code=result.exit_code)


def _evaluate(options: argparse.Namespace) -> Answer:
    from detcore.launch import evaluate_published, read_config

    config = read_config(options)
    metrics = evaluate_published(config)
    text = "test: " + "  ".join(f"{name} {value:.2f}" for name, value in metrics.items()) if metrics else ""
    return Answer(facts={"run": config.run_dir, "test": metrics}, text=text)


def _register(options: argparse.Namespace) -> Answer:
    from detcore.launch import read_config, register_published

    outcome = register_published(read_config(options))
    alias = f", now @{outcome['alias']}" if outcome["alias_moved"] else ""
    return Answer(facts=outcome, text=f"registered: {outcome['name']}, version {outcome['version']}{alias}")
