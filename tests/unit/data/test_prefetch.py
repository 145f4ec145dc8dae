"""What is made ahead is bounded in bytes, and what is waited for is seen: as a metric and in the line of progress."""

import csv
import gc
import threading
import time

import numpy as np
import pytest
import torch
from tiny_training import CATEGORIES, TinyDetector, samples, tiny_config, train, write_shards

from detcore.data import Sample, ShardedSplit, build_loader, write_split
from detcore.data.pixel_memory import PixelMemory

SIDE, ROWS = 32, 2
BATCH_BYTES = ROWS * (SIDE * SIDE * 3 * 4 + SIDE * SIDE * 3)  # float32 pixels, and the images that they come from


@pytest.fixture
def split(tmp_path):
    write_split(samples(40, seed=1), tmp_path, split="train", categories=CATEGORIES)
    opened = ShardedSplit.open(tmp_path, "train")
    yield opened
    opened.close()


def loader_of(split, tmp_path, *, transform=None, **data):
    config = tiny_config(tmp_path / "run", tmp_path, **{f"data__{key}": value for key, value in data.items()}).data
    statistics = {"image_mean": (0.0,) * 3, "image_std": (1.0,) * 3}
    return build_loader(
        split, config, train=True, batch_size=ROWS, seed=0, device="cpu", transform=transform, **statistics
    )


@pytest.mark.parametrize("ahead", [0, 1, 2, 3])
def test_batches_ahead_are_bounded_in_bytes(split, tmp_path, ahead):
    begun = []

    def count(sample: Sample, random: np.random.Generator) -> Sample:
        begun.append(sample.image_id)
        return sample

    bound = (ahead + 1) * BATCH_BYTES - 1
    with loader_of(split, tmp_path, transform=count, prefetch_bytes=bound, threads=2) as loader:
        for handed_out in range(1, 5):
            next(loader)
            time.sleep(0.1)
            assert len(begun) == ROWS * (handed_out + ahead)


def test_a_bound_far_away_leaves_what_keeps_all_threads_busy(split, tmp_path):
    together, gate = [], threading.Event()

    def wait(sample: Sample, random: np.random.Generator) -> Sample:
        together.append(sample.image_id)
        gate.wait(5)
        return sample

    with loader_of(split, tmp_path, transform=wait, threads=6) as loader:
        loader._fill()
        deadline = time.monotonic() + 5
        while len(together) < 6 and time.monotonic() < deadline:
            time.sleep(0.01)
        gate.set()
        assert len(together) == 6  # a thread reads the two rows of a batch one after the other


def test_the_bound_does_not_change_the_batches(split, tmp_path):
    found = []
    for bound in (0, 2**30):
        with loader_of(split, tmp_path, prefetch_bytes=bound, threads=2) as loader:
            found.append(torch.stack([next(loader).images for _ in range(6)]))
    assert torch.equal(*found)


def test_a_stalled_store_is_seen(tmp_path, monkeypatch, capfd):
    folder = write_shards(tmp_path / "shards")
    read, seconds = ShardedSplit.read, 0.15

    def slow(split: ShardedSplit, index: int) -> bytes:
        if split.split == "train":
            time.sleep(seconds)
        return read(split, index)

    monkeypatch.setattr(ShardedSplit, "read", slow)
    config = tiny_config(
        tmp_path / "run",
        folder,
        engine__steps=4,
        engine__log_every=2,
        engine__eval_every=None,
        engine__checkpoint_every=4,
    )
    train(TinyDetector(), config)
    rows = list(csv.DictReader((tmp_path / "run" / "history.csv").open()))
    # One thread reads the four images of a step, while another one trains: that takes less than three of them.
    assert [float(row["data_wait_seconds"]) > seconds for row in rows] == [True, True]
    lines = [
        line for line in capfd.readouterr().out.splitlines() if line.startswith(("step 2/4  loss", "step 4/4  loss"))
    ]
    assert [float(line.rpartition("data wait ")[2].rstrip("%")) > 10 for line in lines] == [True, True]


def test_memory_of_pixels_comes_back_when_the_last_view_is_gone():
    memory = PixelMemory()
    first = memory.take((4, 5, 3), torch.float32)
    place = first.data_ptr()
    assert (first.shape, first.dtype, first.is_contiguous(), place % 64) == ((4, 5, 3), torch.float32, True, 0)
    first.fill_(1.0)
    view = first.permute(2, 0, 1)[:, 1:]
    del first
    other = memory.take((4, 5, 3), torch.float32).fill_(2.0)
    assert other.data_ptr() != place and (view == 1.0).all()
    del view
    gc.collect()
    smaller = memory.take((2, 3), torch.bfloat16)
    assert smaller.data_ptr() == place
    larger = memory.take((40, 50), torch.float32)
    assert larger.numel() == 2000 and (other == 2.0).all()
    del smaller, larger, other
    assert len(memory._free) == 1  # blocks that are too small for the largest batch are not kept


def test_batches_that_are_held_keep_their_pixels(split, tmp_path):
    with loader_of(split, tmp_path) as loader:
        held = [next(loader) for _ in range(8)]
        copies = [batch.images.clone() for batch in held]
        for _ in range(8):
            next(loader)
        assert all(torch.equal(batch.images, copy) for batch, copy in zip(held, copies, strict=True))
