"""Batches are exact and the same, byte for byte, for any number of threads and ranks and after any resume."""

import io
import threading
import time
from dataclasses import fields, replace
from itertools import islice

import numpy as np
import pytest
import torch
from PIL import Image

from detcore.config.data import DataConfig
from detcore.config.transforms import (
    Affine,
    ColorJitter,
    HorizontalFlip,
    ResizeFixed,
    ResizeShortestEdge,
    Transform,
)
from detcore.data import Sample, ShardedSplit, write_split
from detcore.data.build import build_loader
from detcore.data.decoding import decode
from detcore.structures.batch import Batch, TensorStruct

NUMBER = 23
MEAN, STD = (120.0, 110.0, 100.0), (60.0, 50.0, 40.0)
AUGMENTED: tuple[Transform, ...] = (
    ResizeShortestEdge(sizes=(32, 40, 48), max_size=80),
    HorizontalFlip(),
    Affine(degrees=10.0, scale=(0.9, 1.1)),
    ColorJitter(brightness=0.2, contrast=0.2, saturation=0.2),
)


def samples(number: int, seed: int) -> list[Sample]:
    """Noise of many sizes with one to five squares; the last object of each image is a crowd region."""
    random = np.random.default_rng(seed)
    made = []
    for index in range(number):
        height, width = random.integers(30, 80, 2).tolist()
        count = int(random.integers(1, 6))
        x, y = random.uniform(0, width - 12, count), random.uniform(0, height - 12, count)
        boxes = np.stack([x, y, x + 10, y + 10], axis=1)
        made.append(
            Sample(
                image=random.integers(0, 256, (height, width, 3)).astype(np.uint8),
                boxes_xyxy=boxes,
                labels=random.integers(0, 3, count),
                polygons=[[np.array([[a, b], [c, b], [c, d], [a, d]])] * (1 + index % 2) for a, b, c, d in boxes],
                crowd=np.arange(count) == count - 1,
                image_id=100 + index,
                file_name=f"image-{index}.png",
            )
        )
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("shards")
    for seed, split in enumerate(("train", "val")):
        write_split(samples(NUMBER, seed), path, split=split, categories=["a", "b", "c"])
    return path


@pytest.fixture
def split(folder):
    opened = ShardedSplit.open(folder, "train")
    yield opened
    opened.close()


@pytest.fixture
def loaders(split):
    """Makes loaders that are closed in the end; keywords of the config and of build_loader alike."""
    made = []

    def make(**settings):
        defaults = {"train": True, "batch_size": 4, "seed": 3, "image_mean": MEAN, "image_std": STD, "device": "cpu"}
        of_config = {key: settings.pop(key) for key in tuple(settings) if key in DataConfig.model_fields}
        made.append(build_loader(settings.pop("split", split), config(**of_config), **(defaults | settings)))
        return made[-1]

    yield make
    for loader in made:
        loader.close()


def config(**settings) -> DataConfig:
    defaults = {
        "name": "squares",
        "format": "coco",
        "root": "",
        "shards": "",
        "train_transforms": AUGMENTED,
        "test_transforms": (ResizeShortestEdge(sizes=(40,), max_size=70),),
        "num_buckets": 3,
        "size_divisor": 16,
        "threads": 2,
    }
    return DataConfig(**(defaults | settings))


def tensors(struct: TensorStruct) -> dict[str, torch.Tensor]:
    found = {}
    for field in fields(struct):
        value = getattr(struct, field.name)
        if isinstance(value, TensorStruct):
            found |= {f"{field.name}.{name}": tensor for name, tensor in tensors(value).items()}
        elif value is not None:
            found[field.name] = value
    return found


def same_bytes(left: Batch, right: Batch) -> bool:
    pairs = zip(tensors(left).items(), tensors(right).items(), strict=True)
    return all(name == other and torch.equal(a, b) and a.stride() == b.stride() for (name, a), (other, b) in pairs)


def concatenated(batches: tuple[Batch, ...]) -> dict[str, torch.Tensor]:
    parts = [tensors(batch) for batch in batches]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0] if name != "rng_key"}


def equal(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


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


def test_keys_of_the_steps_random_numbers(loaders):
    keys = [batch.rng_key.tolist() for batch in islice(loaders(), 9)]
    assert keys == [[3, step] for step in range(9)]


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


def test_an_evaluated_image_does_not_depend_on_its_batch(loaders):
    seen = []
    for batch_size in (1, 3, 8):
        rows = {}
        for batch in loaders(train=False, batch_size=batch_size):
            for index in torch.nonzero(batch.real)[:, 0].tolist():
                rows[int(batch.sample_ids[index])] = batch.images[index]
        seen.append(rows)
    for sample, image in seen[0].items():
        assert all(torch.equal(image, other[sample]) for other in seen[1:])


def test_pixels_are_pils_resize_normalised_and_padded(loaders, split):
    batch = next(iter(loaders(train=False, dtype=torch.float64)))
    assert batch.images.dtype == torch.float64
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    for index in torch.nonzero(batch.real)[:, 0].tolist():
        raw = Image.open(io.BytesIO(split.read(int(batch.sample_ids[index]))))
        height, width = batch.image_sizes[index].tolist()
        assert batch.original_sizes[index].tolist() == [raw.height, raw.width]
        expected = np.asarray(raw.resize((width, height), Image.Resampling.BILINEAR), float)
        image = batch.images[index].permute(1, 2, 0).numpy()
        np.testing.assert_allclose(image[:height, :width] * STD + MEAN, expected, atol=1.01)
        assert (image[height:] == 0).all() and (image[:, width:] == 0).all()


def test_targets_are_the_splits_objects_without_crowd(loaders, split):
    loader = loaders(train=False, test_transforms=(ResizeFixed(height=64, width=96),))
    for batch in loader:
        targets = batch.targets
        assert targets is not None and targets.polygons is not None
        assert targets.boxes_xyxy.shape[1] % 8 == 0 and targets.boxes_xyxy.shape[1] >= split.max_objects
        for index in torch.nonzero(batch.real)[:, 0].tolist():
            sample = int(batch.sample_ids[index])
            objects = split.objects(sample)
            kept = ~objects.crowd
            scale = np.array([96 / split.widths[sample], 64 / split.heights[sample]])
            valid = targets.valid[index].numpy()
            assert valid.sum() == kept.sum() and valid[: valid.sum()].all()
            np.testing.assert_allclose(
                targets.boxes_xyxy[index].numpy()[valid], objects.boxes_xyxy[kept] * np.tile(scale, 2), rtol=1e-6
            )
            assert targets.labels[index].numpy()[valid].tolist() == objects.labels[kept].tolist()
            expected = [(i, ring * scale) for i, o in enumerate(np.flatnonzero(kept)) for ring in objects.polygons[o]]
            outlines = targets.polygons.map(lambda tensor, row=index: tensor[row])
            used = int((outlines.ring_counts > 0).sum())
            assert used == len(expected)
            for ring, (owner, points) in enumerate(expected):
                start, count = int(outlines.ring_starts[ring]), int(outlines.ring_counts[ring])
                assert int(outlines.ring_objects[ring]) == owner
                np.testing.assert_allclose(outlines.vertices[start : start + count].numpy(), points, rtol=1e-5)


def test_capacities_are_the_same_for_every_batch(loaders):
    shapes = {
        tuple((name, tensor.shape[1:]) for name, tensor in tensors(batch).items() if name != "images")
        for batch in islice(loaders(), 12)
    }
    assert len(shapes) == 1


def test_shapes_suit_config_and_model(loaders):
    loader = loaders(size_divisor=16)
    assert all(height % 16 == 0 and width % 16 == 0 for height, width in loader.buckets)
    assert {batch.images.shape[2:] for batch in islice(loader, 12)} <= set(loader.buckets)


def test_the_models_divisor_counts_beside_the_configs(split):
    loader = build_loader(
        split, config(size_divisor=16), train=False, batch_size=1, seed=0, image_mean=MEAN, image_std=STD, device="cpu",
        size_divisor=24,
    )  # fmt: skip
    assert all(height % 48 == 0 and width % 48 == 0 for height, width in loader.buckets)


def test_ones_own_transform_comes_first(loaders):
    def paint(sample: Sample, random: np.random.Generator) -> Sample:
        """The left half white, as the only object."""
        image = np.asarray(sample.image).copy()
        half = image.shape[1] // 2
        image[:, :half] = 255
        box = np.array([[0.0, 0.0, half, image.shape[0]]])
        outline = np.array([[0.0, 0.0], [half, 0.0], [half, image.shape[0]]])
        return replace(sample, image=image, boxes_xyxy=box, labels=np.array([2]), polygons=[[outline]], crowd=None)

    loader = loaders(
        transform=paint, train_transforms=(ResizeFixed(height=32, width=64), HorizontalFlip(probability=1.0))
    )
    batch = next(loader)
    assert batch.targets is not None
    assert batch.targets.valid.sum(dim=1).tolist() == [1, 1, 1, 1]
    assert (batch.targets.labels[:, 0] == 2).all()
    for image, box in zip(batch.images, batch.targets.boxes_xyxy[:, 0], strict=True):
        assert box[2] == 64
        assert (image[0, :, int(box[0]) + 2 :] * STD[0] + MEAN[0]).min() > 254


def test_ones_own_transform_may_change_the_size(loaders):
    def widen(sample: Sample, random: np.random.Generator) -> Sample:
        return replace(sample, image=np.concatenate([sample.image] * 3, axis=1))

    for batch in islice(loaders(transform=widen), 6):
        sizes = batch.image_sizes[batch.real]
        assert (sizes <= torch.tensor(batch.images.shape[2:])).all()
        aspect = (batch.original_sizes[:, 1] / batch.original_sizes[:, 0])[batch.real]
        assert torch.allclose(sizes[:, 1] / sizes[:, 0], aspect, rtol=0.15)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": np.array([3]), "boxes_xyxy": np.zeros((1, 4)), "polygons": [[]], "crowd": None}, "3 classes"),
        ({"polygons": None}, "no polygons"),
        (
            {"boxes_xyxy": np.ones((9, 4)) * [1, 1, 9, 9], "labels": np.zeros(9), "polygons": [[]] * 9, "crowd": None},
            "9 objects .* room for 8",
        ),
    ],
)
def test_what_a_transform_may_not_return_is_named(loaders, changes, message):
    loader = loaders(transform=lambda sample, random: replace(sample, **changes))
    with pytest.raises(ValueError, match=rf"^image-\d+\.png \(sample \d+ of train\): .*{message}"):
        next(loader)


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


@pytest.mark.parametrize(
    ("mode", "format"), [("RGB", "JPEG"), ("L", "JPEG"), ("CMYK", "JPEG"), ("RGB", "PNG"), ("L", "PNG")]
)
def test_decoded_pixels_are_pils(mode, format):
    buffer = io.BytesIO()
    ramp = np.arange(40 * 50 * 3).reshape(40, 50, 3) % 251
    Image.fromarray(ramp.astype(np.uint8)).convert(mode).save(buffer, format)
    expected = np.asarray(Image.open(io.BytesIO(buffer.getvalue())).convert("RGB"))
    decoded = decode(buffer.getvalue())
    assert decoded.flags.c_contiguous
    np.testing.assert_array_equal(decoded, expected)


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_a_damaged_file_is_an_error(format):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 60, 3)).astype(np.uint8)).save(buffer, format)
    with pytest.raises(OSError, match="truncated"):
        decode(buffer.getvalue()[:2000])


@pytest.mark.gpu
def test_cuda_batches_equal_the_cpus(loaders):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    for expected, batch in zip(islice(loaders(), 8), islice(loaders(device="cuda"), 8), strict=True):
        moved = tensors(batch.to("cpu"))
        for name, tensor in tensors(expected).items():
            # Grey levels are rounded after resampling: one level where float sums differ.
            torch.testing.assert_close(moved[name], tensor, rtol=0, atol=1.6 / min(STD) if name == "images" else 0)
