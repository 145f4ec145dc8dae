"""What batches hold: pixels, targets, shapes, and what a transform of one's own makes of them."""

import io
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from noise import MEAN, STD, config, tensors
from PIL import Image

from detcore.config.transforms import (
    HorizontalFlip,
    ResizeFixed,
)
from detcore.data import Sample
from detcore.data.build import build_loader


def test_keys_of_the_steps_random_numbers(loaders):
    keys = [batch.rng_key.tolist() for batch in islice(loaders(), 9)]
    assert keys == [[3, step] for step in range(9)]


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


@pytest.mark.gpu
def test_cuda_batches_equal_the_cpus(loaders):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    for expected, batch in zip(islice(loaders(), 8), islice(loaders(device="cuda"), 8), strict=True):
        moved = tensors(batch.to("cpu"))
        for name, tensor in tensors(expected).items():
            # Grey levels are rounded after resampling: one level where float sums differ.
            torch.testing.assert_close(moved[name], tensor, rtol=0, atol=1.6 / min(STD) if name == "images" else 0)
