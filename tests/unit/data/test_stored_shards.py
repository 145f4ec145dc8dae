"""Shards at a bucket and at a web server: as those in a folder, whatever the store does."""

import contextlib
import json
import shutil
import tarfile
import time

import numpy as np
import pytest
import webdataset
from raw_folders import data_config, write_coco
from store_servers import s3_server, web_server
from test_shards import samples

from detcore.config.stores import Store
from detcore.data import ShardedSplit, build_loader, prepare, write_split
from detcore.data.description import read_description
from detcore.data.prepared import is_prepared
from detcore.data.shards import DamagedSample
from detcore.data.stores import FileStore, StoreError

CATEGORIES = ["cat", "dog"]


@pytest.fixture(scope="module")
def bucket():
    with pytest.MonkeyPatch.context() as patch, s3_server(patch) as url:
        yield url


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    # Not by DETCORE_CACHE: the compiled operators lie there too, and would be built anew.
    monkeypatch.setattr("detcore.data.stores.cache.cache_folder", lambda: tmp_path / "cache")
    return tmp_path / "cache" / "shards"


@pytest.fixture
def folder(tmp_path):
    write_split(samples(), tmp_path / "shards", split="train", categories=CATEGORIES, samples_per_shard=2)
    return tmp_path / "shards"


@pytest.fixture
def web(folder):
    with web_server(folder) as server:
        yield server


def open_split(url, **settings):
    return contextlib.closing(ShardedSplit.open(url, "train", store=Store(**{"tries": 2, **settings})))


def wait_for(condition):
    deadline = time.monotonic() + 20.0
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def shards_in(cache, folder):
    entry = read_description(folder)["splits"]["train"]
    return [shard["sha256"] for shard in entry["shards"] if (cache / shard["sha256"]).exists()]


def same(split, folder):
    local = ShardedSplit.open(folder, "train")
    assert len(split) == len(local)
    assert split.file_names == local.file_names
    assert [split.read(n) for n in range(len(split))] == [local.read(n) for n in range(len(local))]
    for n in range(len(split)):
        np.testing.assert_array_equal(split.objects(n).boxes_xyxy, local.objects(n).boxes_xyxy)
    local.close()


def test_samples_are_read_by_range_until_their_shard_is_here(web, folder, cache):
    with open_split(web.url) as split:
        tables = [path for path, _ in web.requests if path.endswith(".arrow")]
        assert sorted(tables) == ["/train/annotations.arrow", "/train/index.arrow"]
        same(split, folder)
        assert [path for path, _ in web.requests if path.endswith(".tar")] == [
            f"/train/shard-0000{n // 2}.tar" for n in range(5)
        ]
        assert shards_in(cache, folder) == []
        split.prefetch()
        split.prefetch()
        wait_for(lambda: len(shards_in(cache, folder)) == 3)
        asked = len(web.requests)
        same(split, folder)
        assert len(web.requests) == asked
    with open_split(web.url) as split:  # another process, or the next training
        same(split, folder)
    assert [path for path, _ in web.requests[asked:]] == ["/dataset.json"]


def test_what_does_not_fit_the_cache_is_read_by_range(web, folder, cache):
    tables = sum(table["bytes"] for table in read_description(folder)["splits"]["train"]["tables"])
    largest = max(shard["bytes"] for shard in read_description(folder)["splits"]["train"]["shards"])
    with open_split(web.url, cache_gb=(tables + largest) / 1e9) as split:
        split.prefetch()
        wait_for(lambda: len(shards_in(cache, folder)) == 1)
        same(split, folder)
        assert len(shards_in(cache, folder)) == 1
    shutil.rmtree(cache)
    with pytest.raises(ValueError, match=r"index\.arrow: the cache .* raise data\.store\.cache_gb"):
        open_split(web.url, cache_gb=1e-9)


@pytest.mark.parametrize("prefetched", [False, True])
def test_a_damaged_sample_is_named_and_the_others_are_read(web, folder, cache, capfd, prefetched):
    path = folder / "train" / "shard-00001.tar"
    data = bytearray(path.read_bytes())
    data[tarfile.BLOCKSIZE + 40] ^= 1  # within the first image, sample 2
    path.write_bytes(data)
    with open_split(web.url) as split:
        if prefetched:
            split.prefetch()
            wait_for(lambda: len(shards_in(cache, folder)) == 2)
            wait_for(lambda: "shard-00001.tar has SHA-256" in capfd.readouterr().err)
        with pytest.raises(DamagedSample, match=r"train/shard-00001\.tar: sample 2 has another checksum"):
            split.read(2)
        assert [len(split.read(n)) > 0 for n in (0, 1, 3, 4)] == [True] * 4


def test_damage_in_a_folder_is_found_by_the_sample_s_own_checksum(folder):
    path = folder / "train" / "shard-00001.tar"
    data = bytearray(path.read_bytes())
    data[tarfile.BLOCKSIZE + 40] ^= 1
    path.write_bytes(data)
    split = ShardedSplit.open(folder, "train")
    with pytest.raises(DamagedSample, match=r"train/shard-00001\.tar: sample 2 has another checksum"):
        split.read(2)
    split.close()


def test_a_cut_off_shard_is_named(web, folder):
    path = folder / "train" / "shard-00001.tar"
    path.write_bytes(path.read_bytes()[:800])
    with open_split(web.url) as split:
        for sample in (2, 3):
            with pytest.raises(DamagedSample, match=rf"shard-00001\.tar: sample {sample} is cut off"):
                split.read(sample)
    path.unlink()
    with open_split(web.url) as split, pytest.raises(StoreError, match=r"shard-00001\.tar: there is no such file"):
        split.read(2)


def test_a_damaged_table_is_named(web, folder):
    (folder / "train" / "index.arrow").write_bytes(b"other")
    with pytest.raises(ValueError, match=r"train/index\.arrow is cut off at 5 of .* bytes; prepare the data again"):
        open_split(web.url)


def test_what_is_no_prepared_data_is_named(web, folder):
    with pytest.raises(ValueError, match=r"http://.*/none: no prepared data \(dataset\.json is missing\)"):
        open_split(f"{web.url}/none")
    description = json.loads((folder / "dataset.json").read_text())
    del description["splits"]["train"]["tables"]
    (folder / "dataset.json").write_text(json.dumps(description))
    with pytest.raises(ValueError, match="written by an earlier version"):
        open_split(web.url)
    (folder / "dataset.json").write_text("<html>")
    with pytest.raises(ValueError, match=r"dataset\.json is not JSON"):
        open_split(web.url)


def test_a_store_that_is_out_of_order_is_waited_for_then_an_error(web, folder):
    with open_split(web.url, tries=3) as split:
        web.statuses = [503]
        web.cut = 1
        assert split.read(0) == ShardedSplit.open(folder, "train").read(0)
        web.statuses = [503] * 100
        with pytest.raises(StoreError, match=r"shard-00000\.tar: 503 .*tried 3 times"):
            split.read(1)


def loader_of(split, config, **changes):
    arguments = {"train": True, "batch_size": 2, "seed": 0, "image_mean": [0.0] * 3, "image_std": [1.0] * 3}
    return build_loader(split, config, device="cpu", **{**arguments, **changes})


def test_a_slow_store_changes_no_batch(web, folder, tmp_path):
    config = data_config(tmp_path, folder, threads=2)
    with loader_of(ShardedSplit.open(folder, "train"), config) as expected, open_split(web.url) as split:
        web.delay_seconds = 0.1
        with loader_of(split, config) as found:
            for _ in range(4):
                one, other = next(expected), next(found)
                assert (one.images == other.images).all()
                assert (one.sample_ids == other.sample_ids).all()
        assert expected.position == found.position == 4


def test_waiting_is_measured(web, folder, tmp_path):
    config = data_config(tmp_path, folder, threads=2)
    with open_split(web.url) as split:
        web.delay_seconds = 0.2
        with loader_of(split, config) as loader:
            next(loader)
            assert loader.wait_seconds > 0.15


def test_prepare_writes_a_bucket_and_webdataset_reads_it(bucket, tmp_path):
    root = tmp_path / "raw"
    write_coco(root, images=10)
    changes = {"samples_per_shard": 3, "val_fraction": 0.2, "test_fraction": 0.0}
    local = data_config(root, tmp_path / "local", **changes)
    stored = data_config(root, f"{bucket}/coco", **changes)
    assert not is_prepared(stored, seed=0)
    report, expected = prepare(stored, seed=0, progress=False), prepare(local, seed=0, progress=False)
    assert report == expected
    assert is_prepared(stored, seed=0)
    assert list((tmp_path / "cache").iterdir()) == [], "what was written on the way is gone"
    with open_split(stored.shards) as split:
        same(split, tmp_path / "local")
        assert split.content_hash == expected.content_hash
    store = FileStore(f"{bucket}/coco")
    files = sorted(path for path in (tmp_path / "local").rglob("*") if path.is_file())
    assert all(store.read(path.relative_to(tmp_path / "local").as_posix()) == path.read_bytes() for path in files)
    with web_server(tmp_path / "local") as server, open_split(server.url) as served:
        assert served.shards[2] == f"{server.url}/train/shard-00002.tar"
        found = list(webdataset.WebDataset(served.shards, shardshuffle=False))
    assert [sample["__key__"] for sample in found] == [f"{n:09d}" for n in range(8)]
    assert [json.loads(sample["json"])["image_id"] for sample in found] == split.image_ids.tolist()


def test_own_samples_are_written_to_a_bucket_split_by_split(bucket, folder):
    url = f"{bucket}/own"
    write_split(samples(), url, split="train", categories=CATEGORIES, samples_per_shard=2)
    write_split(samples(3), url, split="val", categories=CATEGORIES)
    write_split(samples(3), folder, split="val", categories=CATEGORIES)
    with open_split(url) as split:
        same(split, folder)
        assert split.content_hash == ShardedSplit.open(folder, "val").content_hash
    write_split(samples(2), url, split="train", categories=CATEGORIES)
    with open_split(url) as split:
        assert len(split) == 2
    with pytest.raises(FileNotFoundError):
        FileStore(url).read("train/shard-00001.tar")
    assert len(ShardedSplit.open(url, "val").read(2)) > 0
    with pytest.raises(ValueError, match="has the categories"):
        write_split(samples(), url, split="train", categories=["cat"])


def test_shards_of_other_settings_are_replaced_by_prepare_alone(bucket, tmp_path):
    root = tmp_path / "raw"
    write_coco(root, images=10)
    config = data_config(root, f"{bucket}/again", samples_per_shard=2, val_fraction=0.2, test_fraction=0.0)
    prepare(config, seed=0, progress=False)
    store = FileStore(config.shards)
    assert store.read("train/shard-00003.tar")
    changed = config.model_copy(update={"samples_per_shard": 4})
    with pytest.raises(ValueError, match="training replaces no shards at a URL; run the prepare stage"):
        is_prepared(changed, seed=0)
    prepare(changed, seed=0, progress=False)
    assert is_prepared(changed, seed=0)
    for gone in ("train/shard-00002.tar", "train/shard-00003.tar"):
        with pytest.raises(FileNotFoundError):
            store.read(gone)
    with open_split(config.shards) as split:
        assert [len(split.read(n)) > 0 for n in range(8)] == [True] * 8


def test_prepare_fails_before_the_work_where_it_cannot_write(web, tmp_path):
    with pytest.raises(ValueError, match="cannot be written over http"):
        prepare(data_config(tmp_path / "none", web.url), seed=0, progress=False)


def test_a_write_that_fails_leaves_no_half(bucket, tmp_path, monkeypatch):
    root = tmp_path / "raw"
    write_coco(root, images=10)
    config = data_config(root, f"{bucket}/half", val_fraction=0.2, test_fraction=0.0)
    prepare(config, seed=0, progress=False)
    write = FileStore.write

    def failing(self, path, name):
        if name.endswith("train/index.arrow"):
            raise StoreError(f"{self.address(name)}: 503")
        write(self, path, name)

    monkeypatch.setattr(FileStore, "write", failing)
    with pytest.raises(StoreError, match=r"train/index\.arrow: 503"):
        prepare(config, seed=1, progress=False)
    with pytest.raises(ValueError, match=r"no prepared data \(dataset\.json is missing\)"):
        open_split(config.shards)
    monkeypatch.undo()
