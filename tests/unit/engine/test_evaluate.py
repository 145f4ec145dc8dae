from pathlib import Path

import pytest
import torch
from tiny_training import TinyDetector, same

from detcore.config import EvaluationConfig
from detcore.data import ShardedSplit, build_loader
from detcore.engine import Precision, Scores, evaluate, evaluator_of, ground_truth

CPU = torch.device("cpu")
COCO = EvaluationConfig()


def scores_of(
    model: TinyDetector, config, shards: Path, *, batch_size: int = 4, settings=COCO, **arguments
) -> Scores | None:
    split = ShardedSplit.open(shards, "val")
    with build_loader(
        split,
        config.data,
        train=False,
        batch_size=batch_size,
        seed=0,
        image_mean=(0, 0, 0),
        image_std=(255, 255, 255),
        device="cpu",
    ) as batches:
        return evaluate(
            model,
            batches,
            evaluator=evaluator_of(model, ground_truth(split), settings),
            precision=Precision(name="fp32", device=CPU),
            **arguments,
        )


@pytest.mark.parametrize("batch_size", [1, 3, 8])  # 6 images: 8 leaves two rows empty
def test_the_batch_size_changes_nothing(configure, tiny_shards: Path, batch_size: int) -> None:
    model = TinyDetector()
    expected = scores_of(model, configure(), tiny_shards, batch_size=6, losses=True)
    found = scores_of(model, configure(), tiny_shards, batch_size=batch_size, losses=True)
    assert found is not None and expected is not None
    assert found.metrics == pytest.approx(expected.metrics, abs=1e-4)
    assert found.metrics["val_loss"] > 0.1


@pytest.mark.parametrize("protocol", ["voc2007", "voc2010", "open_images"])
def test_by_another_protocol(configure, tiny_shards: Path, protocol: str) -> None:
    settings = EvaluationConfig(protocol=protocol)
    config = configure(engine__evaluation=settings, engine__monitor=None)
    scores = scores_of(TinyDetector(), config, tiny_shards, settings=settings)
    assert scores is not None and 0 <= scores.metrics["box_ap50"] <= 100
    assert "box_ar100" not in scores.metrics
    expected = "box_ap50" if protocol == "open_images" else "box_ap"  # the first headline that there is
    assert config.engine.monitored(scores.metrics) == expected


def test_lvis_is_refused_for_other_data(configure, tiny_shards: Path) -> None:
    with pytest.raises(ValueError, match=r"protocol = lvis, but image .* prepare it with data=lvis"):
        scores_of(TinyDetector(), configure(), tiny_shards, settings=EvaluationConfig(protocol="lvis"))


def test_statistics_and_mode_stay(configure, tiny_shards: Path) -> None:
    model = TinyDetector()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first = scores_of(model, configure(), tiny_shards, losses=True)
    assert same(before, dict(model.state_dict()))
    assert model.training
    second = scores_of(model.eval(), configure(), tiny_shards, losses=True)
    assert first is not None and second is not None and first.metrics == second.metrics  # no dropout in either
    assert not model.training


def test_interrupted(configure, tiny_shards: Path) -> None:
    asked = iter([False, True])
    model = TinyDetector()
    assert scores_of(model, configure(), tiny_shards, interrupted=lambda: next(asked)) is None
    assert model.training


def test_without_losses(configure, tiny_shards: Path) -> None:
    found = scores_of(TinyDetector(), configure(), tiny_shards)
    assert found is not None and not any(name.startswith("val_") for name in found.metrics)
    assert found.metrics == found.evaluation.metrics
