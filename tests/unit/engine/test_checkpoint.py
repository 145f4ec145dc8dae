from pathlib import Path

import pytest
import torch
from torch import nn

from detcore.engine.checkpoint import Checkpoint, CheckpointError, CheckpointFolder


def checkpoint(step: int, *, best: int | None = None, average: bool = False) -> Checkpoint:
    weights = {"weight": torch.full((2, 3), float(step)), "count": torch.tensor(step)}
    return Checkpoint(
        step=step,
        weights=weights,
        average={name: value + 1 for name, value in weights.items()} if average else None,
        tensors={"optimizer": {"state": {0: torch.arange(3.0)}, "betas": (0.9, 0.99), "fused": None}},
        record={"state": {"best_step": best}, "pi": 3.141592653589793},
    )


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def folder(tmp_path: Path, said: list[str]) -> CheckpointFolder:
    return CheckpointFolder(tmp_path / "checkpoints", keep=2, say=said.append)


def test_round_trip(folder: CheckpointFolder) -> None:
    assert folder.newest() is None
    folder.save(checkpoint(7, average=True))
    found, expected = folder.newest(), checkpoint(7, average=True)
    assert found is not None and found.average is not None and expected.average is not None
    for name, value in expected.weights.items():
        assert torch.equal(found.weights[name], value)
        assert torch.equal(found.average[name], expected.average[name])
    assert torch.equal(found.tensors["optimizer"]["state"][0], torch.arange(3.0))
    assert found.tensors["optimizer"]["betas"] == (0.9, 0.99)
    assert found.record == expected.record


def test_weights_to_publish_are_the_average(folder: CheckpointFolder) -> None:
    folder.save(checkpoint(1))
    folder.save(checkpoint(2, average=True))
    assert folder.read_weights(1)["count"] == 1
    assert folder.read_weights(2)["count"] == 3


def test_tied_and_strided_weights(folder: CheckpointFolder) -> None:
    model = nn.Sequential(nn.Conv2d(2, 2, 3), nn.Conv2d(2, 2, 3)).to(memory_format=torch.channels_last)
    model[1].weight = model[0].weight
    folder.save(Checkpoint(step=1, weights=model.state_dict(), average=None, tensors={}, record={"state": {}}))
    model.load_state_dict(folder.read_weights(1))


def test_the_newest_and_their_best_are_kept(folder: CheckpointFolder) -> None:
    folder.save(checkpoint(1, best=1))
    folder.save(checkpoint(2, best=1))
    folder.save(checkpoint(3, best=1))
    assert folder.steps() == [1, 2, 3]
    folder.save(checkpoint(4, best=4))
    assert folder.steps() == [1, 3, 4]  # were 4 broken, 3 would still find its best
    folder.save(checkpoint(5, best=4))
    assert folder.steps() == [4, 5]


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("damage", [_flip, _truncate, Path.unlink], ids=["flipped", "truncated", "missing"])
@pytest.mark.parametrize("name", ["weights.safetensors", "training.pt", "record.json", "manifest.json"])
def test_a_broken_checkpoint_is_named_and_the_one_before_used(
    folder: CheckpointFolder, said: list[str], name: str, damage
) -> None:
    folder.save(checkpoint(1))
    damage(folder.save(checkpoint(2)) / name)
    found = folder.newest()
    assert found is not None and found.step == 1
    (line,) = said
    assert "step-00000002: broken checkpoint" in line and "\n" not in line
    assert name in line or (name == "manifest.json" and "SHA-256 that its manifest says" in line)
    folder.save(checkpoint(3))  # is not disturbed by it
    assert folder.steps() == [2, 3]


def test_no_pickled_code_is_run(folder: CheckpointFolder, said: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    class Evil:
        def __reduce__(self):
            return (print, ("run",))

    folder.save(Checkpoint(step=1, weights={}, average=None, tensors={"x": Evil()}, record={"state": {}}))
    assert folder.newest() is None
    assert "holds more than tensors and plain values" in said[-1]
    assert capsys.readouterr().out == ""


def test_dropped_and_set_aside(folder: CheckpointFolder) -> None:
    for step in (1, 2):
        folder.save(checkpoint(step))
    folder.drop_after(1)
    assert folder.steps() == [1]
    assert CheckpointFolder(folder.set_aside(), keep=1, say=print).steps() == [1]
    assert folder.steps() == []


def test_the_last_three_set_aside_stay(folder: CheckpointFolder, said: list[str]) -> None:
    names = []
    for step in (1, 2, 3, 4):
        assert said == []
        folder.save(checkpoint(step))
        names.append(folder.set_aside().name)
    assert names == ["checkpoints.previous", *(f"checkpoints.previous-{number}" for number in (2, 3, 4))]
    assert sorted(path.name for path in folder.path.parent.iterdir()) == names[1:]
    (line,) = said
    assert line.endswith(f"{folder.path.parent}/checkpoints.previous")


def test_leftovers_of_a_killed_process_go(folder: CheckpointFolder) -> None:
    leftover = folder.path / ".step-00000001.tmp"
    leftover.mkdir(parents=True)
    assert folder.newest() is None
    folder.save(checkpoint(2))
    assert not leftover.exists()


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        CheckpointError, match=r"cannot save this checkpoint \(Not a directory\); there is none before it"
    ):
        CheckpointFolder(tmp_path / "file" / "checkpoints", keep=1, say=print).save(checkpoint(1))
