"""Shards that were damaged after they were written, and stores in bad order: named, counted, never silently fewer."""

import csv
import json
import shutil
import tarfile
import time
from pathlib import Path

import pytest
import torch
from store_servers import FaultyServer, s3_server, web_server
from tiny_training import StopAfter, TinyDetector, checkpoint_of, same, tiny_config, train

from detcore.data import ShardedSplit
from detcore.data.description import read_description
from detcore.data.stores import FileStore
from detcore.structures.batch import Batch
from detcore.tracking.opening import describe_run

DAMAGED = 5
NUM_TRAIN = 16


class Counting(TinyDetector):
    """Keeps the ids of the samples that it trained on."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []

    def losses(self, batch: Batch) -> dict[str, torch.Tensor]:
        if self.training:
            self.seen += batch.sample_ids.tolist()
        return super().losses(batch)


def damage(shards: Path, *samples: int, split: str = "train") -> None:
    """Flips a bit in the middle of each sample's image."""
    path = shards / split / "shard-00000.tar"
    data = bytearray(path.read_bytes())
    with tarfile.open(path) as archive:
        images = [member for member in archive if member.name.endswith((".jpg", ".png"))]
    for sample in samples:
        data[images[sample].offset_data + images[sample].size // 2] ^= 1
    path.write_bytes(data)


@pytest.fixture
def shards(tmp_path: Path, tiny_shards: Path) -> Path:
    return Path(shutil.copytree(tiny_shards, tmp_path / "shards"))


def test_training_stops_and_names_the_sample(tmp_path: Path, shards: Path) -> None:
    damage(shards, DAMAGED)
    with pytest.raises(
        ValueError, match=rf"sample {DAMAGED} of train\): .*train/shard-00000\.tar: .* checksum"
    ) as caught:
        train(TinyDetector(), tiny_config(tmp_path / "run", shards))
    assert "\n" not in str(caught.value)


def test_training_goes_on_where_told_and_counts(tmp_path: Path, shards: Path, capfd) -> None:
    whole, some = Counting(), Counting()
    train(whole, tiny_config(tmp_path / "whole", shards))
    damage(shards, DAMAGED)
    skip = {"data__on_bad_sample": "skip", "data__max_corrupt_fraction": 1.5 / NUM_TRAIN}
    config = tiny_config(tmp_path / "some", shards, **skip)
    train(some, config)
    assert some.seen == [-1 if sample == DAMAGED else sample for sample in whole.seen]
    skipped = whole.seen.count(DAMAGED)
    assert skipped > 0
    assert json.loads((tmp_path / "some" / "train.json").read_text())["skipped_samples"] == skipped
    rows = list(csv.DictReader((tmp_path / "some" / "history.csv").open()))
    assert sum(int(row["skipped_samples"] or 0) for row in rows) == skipped
    assert "skipped_samples" not in json.loads((tmp_path / "whole" / "train.json").read_text())
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("left out: ")]
    assert len(lines) == 1
    assert f"sample {DAMAGED} of train" in lines[0]

    model = Counting()
    config = tiny_config(tmp_path / "resumed", shards, **skip)
    assert train(model, config, worker=StopAfter(model, passes=5)).stopped == "requested"
    train(Counting(), config)
    assert same(checkpoint_of(config, 10), checkpoint_of(tiny_config(tmp_path / "some", shards), 10))


def test_too_much_damage_is_no_accident(tmp_path: Path, shards: Path) -> None:
    damage(shards, *range(NUM_TRAIN))
    config = tiny_config(tmp_path / "run", shards, data__on_bad_sample="skip", data__max_corrupt_fraction=0.2)
    with pytest.raises(ValueError, match=r"4 of 16 training samples are damaged, more than data\.max_corrupt_fraction"):
        train(TinyDetector(), config)


def test_evaluation_never_goes_on_without_an_image(tmp_path: Path, shards: Path) -> None:
    damage(shards, 2, split="val")
    config = tiny_config(tmp_path / "run", shards, data__on_bad_sample="skip", data__max_corrupt_fraction=1.0)
    with pytest.raises(ValueError, match=r"sample 2 of val\)"):
        train(TinyDetector(), config)


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detcore.data.stores.cache.cache_folder", lambda: tmp_path / "cache")


@pytest.mark.usefixtures("own_cache")
def test_a_store_in_bad_order_changes_nothing(tmp_path: Path, shards: Path) -> None:
    local = tiny_config(tmp_path / "local", shards)
    train(TinyDetector(), local)
    with web_server(shards) as server:
        stored = tiny_config(tmp_path / "stored", server.url)
        server.statuses, server.cut = [503, 429], 2
        train(TinyDetector(), stored)
        assert not server.statuses and not server.cut, "all of it happened"
    assert same(checkpoint_of(stored, 10), checkpoint_of(local, 10))


class Breaking(TinyDetector):
    """In its third step the store breaks down."""

    def __init__(self, server: FaultyServer) -> None:
        super().__init__()
        self.server = server

    def losses(self, batch: Batch) -> dict[str, torch.Tensor]:
        if self.passes == 2:
            self.server.statuses = [503] * 1000
        return super().losses(batch)


@pytest.mark.usefixtures("own_cache")
def test_a_store_that_breaks_down_stops_training_with_one_line(tmp_path: Path, shards: Path) -> None:
    splits = read_description(shards)["splits"].values()
    tables = sum(table["bytes"] for entry in splits for table in entry["tables"])
    store = {"tries": 2, "cache_gb": tables / 1e9}  # no shard fits
    with web_server(shards) as server:
        config = tiny_config(tmp_path / "run", server.url, data__store=store, data__on_bad_sample="skip")
        said = r"\(sample \d+ of train\): http://.*/train/shard-00000\.tar: 503 .*tried 2 times"
        with pytest.raises(ValueError, match=said) as caught:
            train(Breaking(server), config)
        assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("own_cache")
def test_a_store_is_not_missed_once_its_shards_are_here(tmp_path: Path, shards: Path) -> None:
    local = tiny_config(tmp_path / "local", shards)
    train(TinyDetector(), local)
    with web_server(shards) as server:
        stored = tiny_config(tmp_path / "stored", server.url, data__store={"tries": 1})
        for split in ("train", "val"):
            opened = ShardedSplit.open(server.url, split)
            opened.prefetch()
            deadline = time.monotonic() + 20
            while sum(1 for _ in (tmp_path / "cache" / "shards").glob("?" * 64)) < (3 if split == "train" else 6):
                assert time.monotonic() < deadline
                time.sleep(0.01)
            opened.close()
        train(Breaking(server), stored)
    assert same(checkpoint_of(stored, 10), checkpoint_of(local, 10))


@pytest.mark.usefixtures("own_cache")
def test_no_secret_is_written(tmp_path: Path, shards: Path, capfd, caplog) -> None:
    with pytest.MonkeyPatch.context() as patch, s3_server(patch) as bucket:
        store = FileStore(f"{bucket}/squares")
        for path in sorted(path for path in shards.rglob("*") if path.is_file()):
            store.write(path, path.relative_to(shards).as_posix())
        config = tiny_config(tmp_path / "run", f"{bucket}/squares")
        train(TinyDetector(), config)
        opening = describe_run(config, read_description(config.data.shards))
    assert opening["params"]["data.shards"] == "s3://team/squares"
    assert (opening["dataset"]["source_type"], json.loads(opening["dataset"]["source"])["uri"][:5]) == ("s3", "s3://")
    streams = capfd.readouterr()
    written = [path.read_bytes() for path in sorted((tmp_path / "run").rglob("*")) if path.is_file()]
    texts = [*written, str(opening).encode(), caplog.text.encode(), streams.out.encode(), streams.err.encode()]
    for secret in (b"very-secret-indeed", b"AKIAEXAMPLE"):
        assert not any(secret in text for text in texts)
