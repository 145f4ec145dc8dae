"""Checkpoints at an object store (moto's server over HTTP): a machine is lost, another one goes on."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from store_servers import BUCKET, s3_server
from tiny_training import StopAfter, TinyDetector, checkpoint_of, same, train

from detcore.config.stores import Store
from detcore.data.stores import FileStore
from detcore.engine import mirror
from detcore.engine.checkpoint import CheckpointFolder
from detcore.engine.mirror import Mirror

FAST = Store(tries=2, timeout_seconds=5)


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    with s3_server(monkeypatch) as url:
        yield f"{url}/{tmp_path.name}"  # moto keeps what is there for the next server


def steps_at(store: str) -> list[str]:
    """Of the whole checkpoints, in the order of their names; hashes left out."""
    return [name.split("/")[2] for name in FileStore(store).names() if name.endswith("manifest.json")]


def test_another_machine_goes_on(configure, store: str, capsys: pytest.CaptureFixture[str]) -> None:
    whole = configure(run="whole")
    train(TinyDetector(), whole)

    config, model = configure(engine__checkpoint_store=store, data__store=FAST), TinyDetector()
    assert train(model, config, worker=StopAfter(model, 7)).step == 7
    local = CheckpointFolder(Path(config.run_dir) / "checkpoints", keep=2, say=pytest.fail)
    assert steps_at(store) == [f"step-{step:08d}" for step in local.steps()]
    shutil.rmtree(config.run_dir)  # the machine is lost

    model = TinyDetector()
    assert train(model, config).step == 10
    assert model.passes == 3
    assert "resuming at step 7 of 10" in capsys.readouterr().out
    for step in (9, 10):
        assert same(checkpoint_of(config, step), checkpoint_of(whole, step))
    # With the best that the last ones know of, and without what is no longer kept.
    assert steps_at(store) == [f"step-{step:08d}" for step in local.steps()]


def test_the_best_comes_too(configure, store: str) -> None:
    """It is what will be published."""
    config = configure(engine__checkpoint_store=store, data__store=FAST, optim__lr=1e-12)
    model = TinyDetector()
    train(model, config, worker=StopAfter(model, 9))  # the evaluation of step 4 stays the best
    shutil.rmtree(config.run_dir)
    result = train(TinyDetector(), config)
    assert result.best_step == 4
    assert (Path(config.run_dir) / "checkpoints" / "step-00000004").is_dir()


def damage(store: str, file: str, *, how: str) -> None:
    """Flips a bit of a file of the one training there, or removes it."""
    (name,) = (name for name in FileStore(store).names() if name.endswith(file))
    client, where = boto3.client("s3"), {"Bucket": BUCKET, "Key": f"{store.rpartition('/')[2]}/{name}"}
    if how == "missing":
        client.delete_object(**where)
        return
    data = bytearray(client.get_object(**where)["Body"].read())
    data[len(data) // 2] ^= 1
    client.put_object(**where, Body=bytes(data))


@pytest.mark.parametrize("how", ["flipped", "missing"])
def test_what_is_broken_there_is_passed_over(
    configure, store: str, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config, model = configure(engine__checkpoint_store=store, data__store=FAST), TinyDetector()
    train(model, config, worker=StopAfter(model, 7))
    shutil.rmtree(config.run_dir)
    damage(store, "step-00000007/training.pt", how=how)
    model = TinyDetector()
    train(model, config)
    assert model.passes == 4
    said = capsys.readouterr().out
    assert "training.pt" in said and "going on without it" in said and "resuming at step 6 of 10" in said
    assert not any("step-00000007" in name for name in FileStore(store).names())


def test_the_best_is_broken_there(configure, store: str, capsys: pytest.CaptureFixture[str]) -> None:
    config = configure(engine__checkpoint_store=store, data__store=FAST, optim__lr=1e-12)
    model = TinyDetector()
    train(model, config, worker=StopAfter(model, 9))
    shutil.rmtree(config.run_dir)
    damage(store, "step-00000004/weights.safetensors", how="missing")
    model = TinyDetector()
    result = train(model, config)
    assert (model.passes, result.best_step) == (1, 4) and result.model_dir is not None
    assert "the best checkpoint is lost" in capsys.readouterr().out


def test_another_training_of_the_same_name(configure, store: str, capsys: pytest.CaptureFixture[str]) -> None:
    config = configure(engine__checkpoint_store=store, data__store=FAST, engine__steps=3)
    train(TinyDetector(), config)
    before = FileStore(store).names()
    shutil.rmtree(config.run_dir)
    other, model = config.model_copy(update={"seed": 4}), TinyDetector()
    train(model, other)
    assert model.passes == 3
    assert "/tiny has only checkpoints of another training (config: seed); they stay there" in capsys.readouterr().out
    assert set(before) < set(FileStore(store).names())


def test_the_store_is_out_of_reach_for_a_while(configure, store: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Training goes on with what is on disk; with the store back, all that is kept arrives."""
    cut = pytest.MonkeyPatch()

    class Cut(TinyDetector):
        """Without the store from the second batch to the seventh."""

        def losses(self, batch):
            if self.training and self.passes == 2:
                cut.setattr(FileStore, "names", _unreachable)
            if self.training and self.passes == 7:
                cut.undo()
            return super().losses(batch)

    config = configure(engine__checkpoint_store=store, data__store=FAST)
    train(Cut(), config)
    assert "no answer in time; the checkpoint of step 3 is in" in capsys.readouterr().out
    local = CheckpointFolder(Path(config.run_dir) / "checkpoints", keep=2, say=pytest.fail)
    assert steps_at(store) == [f"step-{step:08d}" for step in local.steps()]


def test_a_stop_waits_for_the_store_and_is_not_taken_for_a_hang(
    configure, store: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Noting(StopAfter):
        def beat(self, step: int, *, bounded: bool) -> None:
            beats.append((step, bounded))

    def slow(self: FileStore) -> list[str]:
        time.sleep(2.5)
        return _unreachable(self)

    beats: list[tuple[int, bool]] = []
    config, model = configure(engine__checkpoint_store=store, data__store=FAST), TinyDetector()
    monkeypatch.setattr(mirror, "_SILENT_SECONDS", 1)
    train(model, config, worker=StopAfter(model, 4))
    monkeypatch.setattr(FileStore, "names", slow)
    monkeypatch.setattr(Mirror, "fetch", lambda *_, **__: None)
    model = TinyDetector()
    train(model, config, worker=Noting(model, 1))
    assert beats[-2:] == [(5, False)] * 2  # a second apart
    said = capsys.readouterr().out
    assert f"waiting for {store}/tiny to take the last checkpoint; {config.run_dir}/checkpoints has it" in said
    assert "no answer in time; the checkpoint of step 5 is in" in said


def _unreachable(self: FileStore) -> list[str]:
    raise OSError(f"{self.url}: no answer in time")


def test_a_bucket_that_is_not_there_is_told_before_training(configure, store: str) -> None:
    model = TinyDetector()
    with pytest.raises(FileNotFoundError, match=r"^s3://nobody/tiny/: 404 The specified bucket does not exist"):
        train(model, configure(engine__checkpoint_store="s3://nobody", data__store=FAST))
    assert model.passes == 0


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("runs/store", "is neither s3:// nor gs://"),
        ("http://host/store", "is neither s3:// nor gs://"),
        ("s3://key:secret@bucket/x", "credentials"),
        ("s3://", "names no bucket"),
    ],
)
def test_places_that_are_none(configure, place: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        configure(engine__checkpoint_store=place)
    assert "secret" not in str(raised.value).split("[type=")[0].replace(place, "")
