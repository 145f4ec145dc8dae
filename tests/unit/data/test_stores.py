"""Files at stores: ranges, retries, and the cache of copies."""

import fcntl
import hashlib
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from store_servers import s3_server, web_server

from detcore.config.stores import Store, checked_place, without_secrets
from detcore.data.stores import FileCache, FileStore, StoreError
from detcore.data.stores.cache import PART_BYTES, Damaged
from detcore.data.stores.retrying import with_retries

DATA = os.urandom(300_000)


@pytest.fixture(scope="module")
def bucket():
    with pytest.MonkeyPatch.context() as patch, s3_server(patch) as url:
        yield url


@pytest.fixture
def web(tmp_path):
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "a.bin").write_bytes(DATA)
    with web_server(folder) as server:
        yield server


def store_at(server, **settings):
    return FileStore(server.url, Store(**settings), pause_seconds=0.001)


def test_files_of_a_bucket_are_written_read_and_removed(bucket, tmp_path):
    (tmp_path / "file").write_bytes(DATA)
    store = FileStore(f"{bucket}/some/folder")
    store.write(tmp_path / "file", "train/a.bin")
    assert store.read("train/a.bin") == DATA
    assert store.read("train/a.bin", 1000, 2000) == DATA[1000:2000]
    assert store.read("train/a.bin", len(DATA) - 10, len(DATA) + 10) == DATA[-10:]
    assert store.read("train/a.bin", len(DATA) + 5, len(DATA) + 10) == b""
    with ThreadPoolExecutor(8) as pool:
        parts = list(pool.map(lambda i: store.read("train/a.bin", i * 1000, i * 1000 + 1000), range(300)))
    assert b"".join(parts) == DATA
    store.remove("train/a.bin")
    store.remove("train/a.bin")
    with pytest.raises(FileNotFoundError):
        store.read("train/a.bin")


def test_a_refusal_says_what_to_do_and_no_secret(bucket, tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(StoreError, match=r"s3://no-such-bucket/x/a: .*; make the bucket"):
        FileStore("s3://no-such-bucket/x").write(tmp_path / "file", "a")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    started = time.monotonic()
    with pytest.raises(StoreError, match=r"s3://team/a: .*set them in the environment"):
        FileStore(bucket).read("a")
    assert time.monotonic() - started < 2.0, "a refusal is not tried again"


def test_files_of_a_web_server_are_read_and_not_written(web, tmp_path):
    store = store_at(web)
    assert store.read("a.bin") == DATA
    assert store.read("a.bin", 10, 20) == DATA[10:20]
    assert store.read("a.bin", len(DATA) - 10, len(DATA) + 10) == DATA[-10:]
    assert store.read("a.bin", len(DATA), len(DATA) + 10) == b""
    with pytest.raises(FileNotFoundError):
        store.read("b.bin")
    with pytest.raises(ValueError, match="cannot be written over http"):
        store.write(tmp_path / "served" / "a.bin", "c.bin")
    web.ranges = False
    with pytest.raises(StoreError, match="answers a range with the whole file"):
        store.read("a.bin", 10, 20)


def test_trouble_that_passes_is_waited_for(web):
    web.statuses = [503, 500, 429]
    assert store_at(web).read("a.bin", 0, 1000) == DATA[:1000]
    assert len(web.requests) == 4
    web.cut = 2
    assert store_at(web).read("a.bin", 0, 1000) == DATA[:1000]
    assert len(web.requests) == 7


@pytest.mark.parametrize(("status", "said"), [(503, "503"), (403, "are the credentials")])
def test_trouble_that_stays_is_one_line(web, status, said):
    web.statuses = [status] * 10
    with pytest.raises(StoreError, match=rf"/a\.bin: .*{said}") as caught:
        store_at(web, tries=3).read("a.bin")
    assert "\n" not in str(caught.value)
    assert len(web.requests) == (3 if status == 503 else 1), "a refusal is not tried again"


def test_a_slow_server_is_not_waited_for_longer_than_said(web):
    web.delay_seconds = 5.0
    started = time.monotonic()
    with pytest.raises(StoreError, match=r"no answer in time \(tried 2 times\)"):
        store_at(web, tries=2, timeout_seconds=0.2).read("a.bin")
    assert time.monotonic() - started < 4.0


def test_a_server_out_of_reach_is_an_error(web):
    store = store_at(web, tries=2)
    web.shutdown()
    web.server_close()
    with pytest.raises(StoreError, match=r"a\.bin: .*tried 2 times"):
        store.read("a.bin")


def test_our_own_mistakes_are_not_retried():
    asked = []

    def mistaken():
        asked.append(1)
        raise TypeError("a bug")

    with pytest.raises(TypeError, match="a bug"):
        with_retries(mistaken, tries=5, pause_seconds=0.0)
    assert len(asked) == 1


def test_pauses_double_and_are_jittered(monkeypatch):
    pauses = []
    monkeypatch.setattr(time, "sleep", pauses.append)

    def refused():
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        with_retries(refused, tries=9, pause_seconds=0.5)
    assert len(pauses) == 8
    for index, pause in enumerate(pauses):
        assert 0.5 * min(0.5 * 2**index, 20.0) <= pause <= min(0.5 * 2**index, 20.0)


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("ftp://host/x", "none of s3://"),
        ("s3:///x", "names no bucket"),
        ("https://ann:hunter2@host/x", "credentials"),
        ("https://host/x?X-Amz-Signature=hunter2", "credentials"),
        ("https://host/x#hunter2", "credentials"),
    ],
)
def test_places_that_cannot_be(place, said):
    with pytest.raises(ValueError, match=said) as caught:
        checked_place(place)
    assert "hunter2" not in str(caught.value)


def test_places_that_can_be():
    assert checked_place("s3://bucket/a/") == "s3://bucket/a"
    assert checked_place("data/shards/x") == "data/shards/x"
    assert without_secrets("see https://h/a?X=1 and s3://b/c") == "see https://h/a and s3://b/c"


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def reader(data, calls=None):
    def read(start, end):
        if calls is not None:
            calls.append((start, end))
        return data[start:end]

    return read


def content(descriptor):
    try:
        return os.pread(descriptor, 1 << 30, 0)
    finally:
        os.close(descriptor)


def test_a_file_is_fetched_once_and_in_parts(tmp_path):
    data = os.urandom(PART_BYTES + 1000)
    cache, calls = FileCache(tmp_path / "cache", max_bytes=1 << 30), []
    assert cache.open(sha256(data)) is None
    assert content(cache.fetch(sha256(data), len(data), reader(data, calls))) == data
    assert content(cache.fetch(sha256(data), len(data), reader(data, calls))) == data
    assert content(cache.open(sha256(data))) == data
    assert calls == [(0, PART_BYTES), (PART_BYTES, len(data))]
    assert sorted(path.name for path in cache.folder.iterdir()) == sorted([sha256(data), "lock"])


def test_what_a_killed_process_left_is_gone_on_with(tmp_path):
    cache, calls = FileCache(tmp_path, max_bytes=1 << 30), []
    (tmp_path / f"{sha256(DATA)}.{len(DATA)}.part").write_bytes(DATA[:100_000])
    assert content(cache.fetch(sha256(DATA), len(DATA), reader(DATA, calls))) == DATA
    assert calls == [(100_000, len(DATA))]
    other = DATA[::-1]
    (tmp_path / f"{sha256(other)}.{len(other)}.part").write_bytes(b"?" * 100_000)  # damaged: begun anew
    assert content(cache.fetch(sha256(other), len(other), reader(other))) == other


def test_a_wrong_or_short_file_is_never_kept(tmp_path):
    cache, calls = FileCache(tmp_path, max_bytes=1 << 30), []
    with pytest.raises(Damaged, match=f"has SHA-256 {sha256(DATA)[:12]}…, written was {'0' * 12}…"):
        cache.fetch("0" * 64, len(DATA), reader(DATA, calls))
    assert len(calls) == 2, "fetched once more before it is said"
    with pytest.raises(Damaged, match="is cut off at 1,000 of 300,000 bytes"):
        cache.fetch(sha256(DATA), len(DATA), reader(DATA[:1000]))
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


def test_what_was_used_longest_ago_makes_room_and_what_is_used_stays(tmp_path):
    cache = FileCache(tmp_path, max_bytes=1000)
    files = [os.urandom(400) for _ in range(4)]
    names = [sha256(data) for data in files]

    def fetch(index):
        return cache.fetch(names[index], 400, reader(files[index]))

    for index in (0, 1):
        os.close(fetch(index))
        os.utime(tmp_path / names[index], (index, index))
    os.close(cache.open(names[0]))  # used later than the other
    held = fetch(2)
    assert {path.name for path in tmp_path.iterdir()} == {"lock", names[0], names[2]}
    os.utime(tmp_path / names[2], (0, 0))  # the oldest, but in use
    also_held = fetch(3)
    assert {path.name for path in tmp_path.iterdir()} == {"lock", names[2], names[3]}
    assert fetch(0) is None, "all that is there is in use"
    os.close(held)
    assert content(fetch(0)) == files[0]
    os.close(also_held)
    assert cache.fetch("1" * 64, 1001, reader(b"")) is None, "larger than all of it"


def test_threads_fetch_one_file_once(tmp_path):
    cache, calls = FileCache(tmp_path, max_bytes=1 << 30), []

    def slow(start, end):
        time.sleep(0.05)
        calls.append((start, end))
        return DATA[start:end]

    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda _: content(cache.fetch(sha256(DATA), len(DATA), slow)), range(6)))
    assert found == [DATA] * 6
    assert len(calls) == 1


def test_another_s_fetch_is_not_waited_for_where_that_was_said(tmp_path):
    cache = FileCache(tmp_path, max_bytes=1 << 30)
    part = tmp_path / f"{sha256(DATA)}.{len(DATA)}.part"
    with part.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert cache.fetch(sha256(DATA), len(DATA), reader(DATA), wait=False) is None
        found = []
        thread = threading.Thread(
            target=lambda: found.append(content(cache.fetch(sha256(DATA), len(DATA), reader(DATA))))
        )
        thread.start()
        time.sleep(0.05)
        assert not found
    thread.join()
    assert found == [DATA]


def test_a_cache_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="set DETCORE_CACHE"):
        FileCache(tmp_path / "file" / "below", max_bytes=1)


def test_the_bound_holds_whatever_many_do_at_once(tmp_path):
    """Threads lock against each other as processes do: each has descriptors of its own."""
    files = [os.urandom(100) for _ in range(12)]
    caches = [FileCache(tmp_path, max_bytes=500) for _ in range(4)]

    def size_of(path: Path) -> int:
        with suppress(FileNotFoundError):  # removed in between
            return path.stat().st_size
        return 0

    def use(task):
        data = files[task * 7 % len(files)]
        descriptor = caches[task % 4].fetch(sha256(data), 100, reader(data), wait=task % 2 == 0)
        found = None if descriptor is None else content(descriptor)
        sizes = [size_of(path) for path in tmp_path.iterdir() if len(path.name) == 64]
        return found in (None, data) and sum(sizes) <= 500

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(use, range(400)))
