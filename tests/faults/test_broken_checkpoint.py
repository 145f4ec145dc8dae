"""A training whose last checkpoint was damaged goes on from the one before."""

from collections.abc import Callable
from pathlib import Path

import pytest
from fault_table import FaultTable
from tiny_training import StopAfter, TinyDetector, checkpoint_of, same, train


def cut(data: bytes) -> bytes:
    return data[:-100]


def flip(data: bytes) -> bytes:
    return data[:1000] + bytes([data[1000] ^ 1]) + data[1001:]


@pytest.mark.parametrize("file", ["training.pt", "weights.safetensors"])
@pytest.mark.parametrize("damage", [cut, flip])
def test_resumed_from_the_one_before(
    configure, capsys: pytest.CaptureFixture[str], damage: Callable[[bytes], bytes], file: str, table: FaultTable
) -> None:
    whole = configure(run="whole")
    train(TinyDetector(), whole)

    config, model = configure(), TinyDetector()
    train(model, config, worker=StopAfter(model, 7))
    damaged = Path(config.run_dir) / "checkpoints" / "step-00000007" / file
    damaged.write_bytes(damage(damaged.read_bytes()))
    model = TinyDetector()
    train(model, config)
    assert model.passes == 4  # from step 6
    said = capsys.readouterr().out
    assert f"step-00000007: broken checkpoint, {file}" in said and "resuming at step 6 of 10" in said
    assert same(checkpoint_of(config, 10), checkpoint_of(whole, 10))
    what = "cut off" if damage is cut else "changed by one bit"
    table.add(f"the last checkpoint's {file} is {what}", "went on from the one before, the same weights", steps_lost=1)


def test_none_is_whole(configure, capsys: pytest.CaptureFixture[str]) -> None:
    config, model = configure(), TinyDetector()
    train(model, config, worker=StopAfter(model, 2))
    (Path(config.run_dir) / "checkpoints" / "step-00000002" / "manifest.json").unlink()
    model = TinyDetector()
    assert train(model, config).step == 10
    assert model.passes == 10
    assert "none is whole" in capsys.readouterr().out


def test_the_best_is_lost(configure, capsys: pytest.CaptureFixture[str]) -> None:
    """The last weights are published then, with their own metrics, and it is said."""
    config = configure(optim__lr=1e-12)  # the first evaluation stays the best
    first = train(TinyDetector(), config)
    assert first.best_step == 4
    (Path(config.run_dir) / "checkpoints" / "step-00000004" / "weights.safetensors").unlink()
    second = train(TinyDetector(), config)
    assert second.model_dir is not None
    assert same(checkpoint_of(config, 10)["weights.safetensors"], checkpoint_weights(second.model_dir))
    assert "the best checkpoint is lost" in capsys.readouterr().out


def checkpoint_weights(folder: Path) -> dict[str, object]:
    from safetensors.torch import load_file

    return dict(load_file(folder / "weights.safetensors"))
