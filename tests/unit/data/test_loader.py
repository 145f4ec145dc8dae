"""Batches are exact and the same, byte for byte, for any number of threads and ranks and after any resume."""

import threading
import time
from itertools import islice

import numpy as np
import pytest
import torch
from noise import NUMBER, concatenated, equal, same_bytes, samples, tensors

from detcore.config.transforms import (
    ResizeShortestEdge,
)
from detcore.data import Sample, ShardedSplit, write_split


def test_batches_do_not_depend_on_the_number_of_threads(loaders):
    one, four = loaders(threads=1), loaders(threads=4)
    steps = 2 * one.steps_per_epoch + 1
    assert all(same_bytes(a, b) for a, b in zip(islice(one, steps), islice(four, steps), strict=True))


@pytest.mark.parametrize("train", [True, False])
def test_ranks_hold_the_rows_of_one_global_batch(loaders, train):
    alone = loaders(train=train)
    ranks = [loaders(train=train, rank=rank, world_size=2) for rank in range(2)]
    steps = alone.steps_per_epoch
    together = zip(islice(alone, steps), *(islice(rank, steps) for rank in ranks), strict=True)
    for whole, *parts in together:
        assert equal({k: v for k, v in tensors(whole).items() if k != "rng_key"}, concatenated(tuple(parts)))
        assert all(torch.equal(part.rng_key, whole.rng_key) for part in parts)


def test_an_epoch_is_exact_and_each_is_augmented_anew(loaders):
    loader = loaders()
    epochs = []
    for _ in range(2):
        steps = loader.steps_per_epoch
        ids, flips = [], {}
        for batch in islice(loader, steps):
            assert torch.equal(batch.real, batch.sample_ids >= 0)
            assert (batch.images.permute(0, 2, 3, 1)[~batch.real] == 0).all()
            ids += batch.sample_ids[batch.real].tolist()
            rows = zip(batch.sample_ids.tolist(), batch.geometry, strict=True)
            flips |= {sample: geometry.tolist() for sample, geometry in rows if sample >= 0}
        assert sorted(ids) == list(range(NUMBER))
        epochs.append((ids, flips))
    assert epochs[0][0] != epochs[1][0]
    assert all(epochs[0][1][sample] != epochs[1][1][sample] for sample in range(NUMBER))


@pytest.mark.parametrize("stop", [0, 1, 5, 9])
def test_resumed_batches_are_the_uninterrupted_ones(loaders, stop):
    expected = list(islice(loaders(), 12))
    stopped = loaders()
    for _ in islice(stopped, stop):
        pass
    resumed = loaders(threads=1)
    resumed.load_state_dict(stopped.state_dict())
    assert resumed.position == stop
    assert all(same_bytes(a, b) for a, b in zip(islice(resumed, 12 - stop), expected[stop:], strict=True))


def test_a_loader_can_be_taken_back(loaders):
    loader = loaders()
    state = loader.state_dict()
    first = list(islice(loader, 3))
    loader.load_state_dict(state)
    assert all(same_bytes(a, b) for a, b in zip(first, islice(loader, 3), strict=True))


def test_resume_on_other_ranks_and_batches_at_an_epochs_edge(loaders):
    first = loaders(batch_size=4)
    for _ in islice(first, first.steps_per_epoch):
        pass
    state = first.state_dict()
    expected = list(islice(first, first.steps_per_epoch))
    ranks = [loaders(batch_size=4, rank=rank, world_size=4) for rank in range(4)]
    for rank in ranks:
        rank.load_state_dict(state)
    for whole, *parts in zip(expected, *(islice(rank, len(expected)) for rank in ranks), strict=True):
        assert equal({k: v for k, v in tensors(whole).items() if k != "rng_key"}, concatenated(tuple(parts)))
    wider = loaders(batch_size=6)
    wider.load_state_dict(state)
    ids = [i for batch in islice(wider, wider.steps_per_epoch) for i in batch.sample_ids.tolist() if i >= 0]
    assert sorted(ids) == list(range(NUMBER))


@pytest.mark.parametrize("sampling", [{}, {"type": "class_weights", "weights": {"a": 3.0}}])
def test_any_number_of_ranks_goes_on_within_an_epoch(loaders, sampling):
    """The batches are global, so even there nothing changes."""
    settings = {"batch_size": 6, "min_objects": 2, "train_subset": {"type": "fraction", "fraction": 0.9}}
    if sampling:
        settings["sampling"] = sampling
    first = loaders(**settings)
    for _ in islice(first, 2):
        pass
    assert first.state_dict()["batch"] == 2 < first.steps_per_epoch
    state, expected = first.state_dict(), list(islice(first, 2 * first.steps_per_epoch))
    for world_size in (1, 2, 3, 4, 5, 6):
        ranks = [loaders(**settings, rank=rank, world_size=world_size) for rank in range(world_size)]
        for rank in ranks:
            rank.load_state_dict(state)
        for whole, *parts in zip(expected, *(islice(rank, len(expected)) for rank in ranks), strict=True):
            together = concatenated(tuple(parts))
            assert not together["real"][6:].any()  # 4 ranks have 2 rows each, which are 8
            assert len({len(part) for part in parts}) == 1
            rows = {name: tensor[:6] for name, tensor in together.items()}
            assert equal({k: v for k, v in tensors(whole).items() if k != "rng_key"}, rows)
            assert all(torch.equal(part.rng_key, whole.rng_key) for part in parts)


@pytest.mark.parametrize(
    "other",
    [
        {"min_objects": 2},
        {"train_subset": {"type": "first", "number": 12}},
        {"sampling": {"type": "repeat_factor", "threshold": 1.0}},
        {"num_buckets": 1},
        {"train_transforms": (ResizeShortestEdge(sizes=(32, 48), max_size=80),)},
    ],
)
def test_other_images_or_sizes_are_refused_within_an_epoch_and_taken_at_its_edge(loaders, other):
    loader = loaders()
    next(loader)
    with pytest.raises(ValueError, match="within an epoch of other images, sizes or weights"):
        loaders(**other).load_state_dict(loader.state_dict())
    for _ in islice(loader, loader.steps_per_epoch - 1):
        pass
    changed = loaders(**other)
    changed.load_state_dict(loader.state_dict())
    assert next(changed).rng_key.tolist() == [3, loader.position]


def test_a_loader_says_what_an_epoch_is(loaders):
    """Of 23 images those with one object, a crowd region, are left out."""
    loader = loaders(min_objects=1)
    batches = list(islice(loader, loader.steps_per_epoch))
    real = sum(int(batch.real.sum()) for batch in batches)
    empty, shapes = 4 * len(batches) - real, len({batch.images.shape for batch in batches})
    pixels = sum(int(batch.image_sizes[batch.real].prod(dim=1).sum()) for batch in batches)
    padding = sum(batch.images[:, 0].numel() for batch in batches) / pixels - 1
    assert 0 < real < NUMBER
    assert str(loaders(min_objects=1)) == (
        f"{real} images, {NUMBER - real} left out by min_objects = 1; an epoch: {len(batches)} batches of 4 in {shapes}"
        f" shapes, {empty} rows empty, {padding:.1%} padding"
    )


def test_states_that_do_not_fit_are_refused(loaders):
    loader = loaders()
    next(loader)
    state = loader.state_dict()
    with pytest.raises(ValueError, match="seed 3, this run has seed 4"):
        loaders(seed=4).load_state_dict(state)
    with pytest.raises(ValueError, match="batches of 4, this run has batches of 2"):
        loaders(batch_size=2).load_state_dict(state)
    with pytest.raises(ValueError, match="keys"):
        loader.load_state_dict({"position": 1})


def test_evaluation_is_one_pass_that_can_be_repeated(loaders):
    loader = loaders(train=False)
    first = list(loader)
    assert len(first) == loader.steps_per_epoch
    for _ in islice(loader, 1):
        pass
    second = list(loader)
    assert all(same_bytes(a, b) for a, b in zip(first, second, strict=True))
    ids = torch.cat([batch.sample_ids for batch in first])
    assert sorted(ids[ids >= 0].tolist()) == list(range(NUMBER))
    assert len(ids) > NUMBER
    empty = [batch for batch in first if not batch.real.all()]
    for batch in empty:
        assert torch.equal(batch.real, batch.sample_ids >= 0)
        height, width = batch.images.shape[2:]
        assert (batch.image_sizes[~batch.real] == torch.tensor([height, width])).all()
        assert (batch.geometry[~batch.real] == torch.eye(3)).all()
        assert batch.targets is not None and not batch.targets.valid[~batch.real].any()


def test_a_thread_s_error_names_the_sample_and_stays(loaders):
    def fail(sample: Sample, random: np.random.Generator) -> Sample:
        if sample.image_id == 105:
            raise KeyError("no such key")
        return sample

    loader = loaders(transform=fail, train=False, batch_size=1)
    given = 0
    with pytest.raises(ValueError, match=r"image-5\.png \(sample 5 of train\): 'no such key'") as caught:
        for _ in loader:
            given += 1
    assert isinstance(caught.value.__cause__, KeyError)
    assert loader.position == given < NUMBER
    with pytest.raises(ValueError, match=r"image-5\.png"):
        next(loader)


def test_a_broken_shard_is_an_error_not_a_missing_sample(tmp_path, loaders):
    write_split(samples(3, 0), tmp_path, split="train", categories=["a", "b", "c"])
    shard = next((tmp_path / "train").glob("*.tar"))
    data = bytearray(shard.read_bytes())
    at = data.rfind(b"IDAT")
    data[at + 4 : at + 2000] = bytes(1996)
    shard.write_bytes(data)
    loader = loaders(split=ShardedSplit.open(tmp_path, "train"), train=False, batch_size=3)
    with pytest.raises(ValueError, match=r"image-2\.png"):
        list(loader)


def test_close_joins_the_threads(loaders):
    loader = loaders(threads=3)
    next(loader)
    mine = [thread for thread in threading.enumerate() if thread.name.startswith("detcore-loader")]
    assert len(mine) == 3
    loader.close()
    loader.close()
    assert not any(thread.is_alive() for thread in mine)
    with pytest.raises(RuntimeError, match="closed"):
        next(loader)
    with loaders(threads=1) as inside:
        next(inside)
    assert not any(thread.name.startswith("detcore-loader") for thread in threading.enumerate())


def test_only_the_loaders_threads_run_torch_on_one_core(loaders):
    inside: list[int] = []

    def ask(sample: Sample, random: np.random.Generator) -> Sample:
        torch.ones(8).sum()
        inside.append(torch.get_num_threads())
        return sample

    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        next(loaders(transform=ask, threads=3))
        elsewhere: list[int] = []
        other = threading.Thread(target=lambda: elsewhere.append(torch.get_num_threads()))
        other.start()
        other.join()
        assert set(inside) == {1}
        assert [torch.get_num_threads(), *elsewhere] == [before + 1] * 2
    finally:
        torch.set_num_threads(before)


def test_prefetch_is_lazy_and_waiting_is_measured(loaders):
    started: list[int | None] = []

    def slow(sample: Sample, random: np.random.Generator) -> Sample:
        started.append(sample.image_id)
        time.sleep(0.1)
        return sample

    loader = loaders(transform=slow, threads=2, batch_size=1)
    assert started == []
    next(loader)
    assert loader.wait_seconds >= 0.1
    time.sleep(0.5)
    assert len(started) == 4  # the one handed out and three ahead, though the threads have nothing to do
    next(loader)
    time.sleep(0.3)
    assert len(started) == 5


def test_each_rank_needs_a_row(loaders):
    with pytest.raises(ValueError, match="1 images is too small for 2 ranks"):
        loaders(batch_size=1, world_size=2)
