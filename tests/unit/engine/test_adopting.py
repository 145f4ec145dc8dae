"""Going on from another training's checkpoint, with other settings."""

from pathlib import Path
from typing import Any

import pytest
from tiny_training import TinyDetector, checkpoint_of, same, tiny_config, train, write_shards

from detcore.config import Config
from detcore.engine.adopting import adopt_checkpoint
from detcore.engine.checkpoint import CheckpointFolder


def checkpoints(config: Config) -> CheckpointFolder:
    return CheckpointFolder(Path(config.run_dir) / "checkpoints", keep=2, say=print)


@pytest.fixture
def two(tmp_path: Path) -> tuple[Config, Config]:
    """A finished training, and one with other settings that has trained, too."""
    shards = write_shards(tmp_path / "shards")
    every: dict[str, Any] = {"engine__checkpoint_every": 4, "engine__keep_every": 4}
    donor = tiny_config(tmp_path / "donor", shards, optim__weight_decay=0.01, **every)
    other = tiny_config(tmp_path / "other", shards, optim__lr=0.2, optim__weight_decay=0.03, **every)
    for config in (donor, other):
        train(TinyDetector(), config)
    return donor, other


def test_weights_and_curves_are_the_donors_and_settings_are_its_own(
    two: tuple[Config, Config], capsys: pytest.CaptureFixture[str]
) -> None:
    donor, other = two
    adopt_checkpoint(checkpoints(donor), checkpoints(other), step=8, config=other)
    # That of the best evaluation, which is published in the end, comes along.
    best = checkpoint_of(donor, 8)["record"]["state"]["best_step"]
    assert checkpoints(other).steps() == sorted({best, 8})
    taken, given = checkpoint_of(other, 8), checkpoint_of(donor, 8)
    assert same(taken["weights.safetensors"], given["weights.safetensors"])

    capsys.readouterr()
    result = train(TinyDetector(), other)
    assert "resuming at step 8 of 10" in capsys.readouterr().out
    assert result.step == 10
    assert same(checkpoint_of(other, 8), taken)
    after = checkpoint_of(other, 10)
    assert after["record"]["evaluations"][:2] == given["record"]["evaluations"][:2]
    groups = after["training"]["optimizer"]["param_groups"]
    assert {group["base_lr"] for group in groups} == {0.2}
    assert {group["weight_decay"] for group in groups} == {0.03, 0.0}
    assert {group["lr"] for group in groups} != {
        group["lr"] for group in given["training"]["optimizer"]["param_groups"]
    }


def test_what_was_adopted_stays_when_the_donor_goes_and_can_be_adopted_again(two: tuple[Config, Config]) -> None:
    donor, other = two
    source, target = checkpoints(donor), checkpoints(other)
    for _ in range(2):
        adopt_checkpoint(source, target, step=4, config=other)
    before = source.read(4)
    for path in sorted(source.path.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    assert same(dict(target.read(4).weights), dict(before.weights))


def test_a_broken_checkpoint_is_not_adopted(two: tuple[Config, Config]) -> None:
    donor, other = two
    source = checkpoints(donor)
    weights = source.folder(4) / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"broken checkpoint, weights\.safetensors"):
        adopt_checkpoint(source, checkpoints(other), step=4, config=other)
    with pytest.raises(FileNotFoundError):
        adopt_checkpoint(source, checkpoints(other), step=5, config=other)
