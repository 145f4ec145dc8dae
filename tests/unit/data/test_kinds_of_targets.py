"""Keypoints, rotated boxes and semantic maps of one's own samples: into shards, out of them, into batches."""

import json
from dataclasses import replace
from itertools import islice

import numpy as np
import pyarrow as pa
import pytest
import torch
import webdataset
from PIL import Image

from detcore.config.data import DataConfig
from detcore.config.sampling import RepeatFactorSampling
from detcore.config.transforms import Affine, HorizontalFlip, ResizeShortestEdge
from detcore.data import KeypointLayout, Sample, ShardedSplit, build_loader, write_split
from detcore.data.rotated import move, upright

LAYOUT = KeypointLayout.of(["left", "right", "tip"], [(0, 2)])
NUMBER = 11


def samples(*, rotated=True, seed=0):
    """Bright rotated rectangles, at most one an image, the semantic class 1 where they are; every third image empty."""
    random = np.random.default_rng(seed)
    for index in range(NUMBER):
        height, width = random.integers(50, 90, 2).tolist()
        image, semantic = np.zeros((height, width, 3), np.uint8), np.zeros((height, width), np.uint8)
        semantic[:2] = 255
        box = np.array([[width / 2 + 3, height / 2 - 2, 24, 14, random.uniform(-90, 90)]])[: int(index % 3 > 0)]
        x, y = np.arange(width)[None] + 0.5, np.arange(height)[:, None] + 0.5
        keypoints = np.zeros((len(box), 3, 3))
        for cx, cy, w, h, degrees in box.tolist():
            turn = np.radians(degrees)
            along = (x - cx) * np.cos(turn) - (y - cy) * np.sin(turn)
            down = (x - cx) * np.sin(turn) + (y - cy) * np.cos(turn)
            inside = (abs(along) <= w / 2) & (abs(down) <= h / 2)
            image[inside], semantic[inside] = 255, 1
            keypoints[0] = [[cx - 4, cy, 2], [cx + 4, cy, 1], [0, 0, 0]]
        yield Sample(
            image=image,
            boxes_xyxy=upright(box),
            boxes_xywha=box if rotated else None,
            labels=np.zeros(len(box), int),
            keypoints=keypoints,
            semantic=semantic,
            file_name=f"{index}.png",
        )


def write(folder, **changes):
    options = {"split": "train", "categories": ["bar"], "keypoints": LAYOUT, "semantic_classes": ["floor", "bar"]}
    write_split(changes.pop("samples", samples()), folder, **{**options, **changes})
    return folder


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    opened = ShardedSplit.open(write(tmp_path_factory.mktemp("shards")), "train")
    yield opened
    opened.close()


def config(**settings):
    resize = ResizeShortestEdge(sizes=(60,), max_size=100)
    defaults = {
        "name": "bars", "format": "coco", "root": "", "shards": "", "num_buckets": 2, "size_divisor": 16, "threads": 2,
        "train_transforms": (resize, HorizontalFlip(), Affine(degrees=20.0, scale=(0.8, 1.2), translate=0.1)),
        "test_transforms": (resize,),
    }  # fmt: skip
    return DataConfig(**(defaults | settings))


def batches(split, number, *, train=True, transform=None, rank=0, world_size=1, skip=0, device="cpu", **settings):
    with build_loader(
        split, config(**settings), train=train, batch_size=4, seed=5, image_mean=(0, 0, 0), image_std=(1, 1, 1),
        device=device, rank=rank, world_size=world_size, transform=transform,
    ) as loader:  # fmt: skip
        if skip:
            for _ in islice(loader, skip):
                pass
            state = loader.state_dict()
            loader.load_state_dict(state)
        return list(islice(loader, number))


def columns(batch):
    targets = batch.targets
    return [batch.images, batch.geometry, targets.valid, targets.boxes_xywha, targets.keypoints, targets.semantic]


def same(left, right):
    return all(torch.equal(a, b) for a, b in zip(columns(left), columns(right), strict=True))


def test_samples_come_back_as_they_went_in(split):
    assert split.has_rotated and split.has_semantic and not split.has_panoptic and not split.has_masks
    assert split.keypoints == LAYOUT and split.semantic_classes == ("floor", "bar")
    for index, sample in enumerate(samples()):
        found = split.objects(index)
        np.testing.assert_array_equal(split.semantic(index), sample.semantic)
        np.testing.assert_allclose(found.boxes_xywha, sample.boxes_xywha, rtol=0, atol=0)
        np.testing.assert_allclose(found.keypoints, sample.keypoints, atol=1e-12)
        np.testing.assert_allclose(found.boxes_xyxy, sample.boxes_xyxy, atol=1e-12)
    truth = split.to_coco()
    assert truth["categories"] == [{"id": 1, "name": "bar", "keypoints": list(LAYOUT.names), "skeleton": [[1, 3]]}]
    assert truth["annotations"][0]["area"] == 24 * 14 and truth["annotations"][0]["num_keypoints"] == 2


def test_webdataset_reads_the_maps(split):
    found = list(webdataset.WebDataset(split.shards, shardshuffle=False).decode("l8"))
    assert len(found) == NUMBER
    for index, sample in enumerate(found):
        np.testing.assert_array_equal(sample["semantic.png"], split.semantic(index))


def test_targets_move_with_the_pixels(split):
    """The bright rectangle, its map, its rotated box and its keypoints are drawn with one matrix."""
    seen = 0
    for batch in batches(split, 12):
        targets = batch.targets
        assert targets.semantic.shape == (4, *batch.images.shape[2:]) and targets.semantic.dtype == torch.uint8
        assert targets.keypoints.shape == (4, 8, 3, 3) and targets.boxes_xywha.shape == (4, 8, 5)
        for row in range(4):
            height, width = batch.image_sizes[row].tolist() if batch.real[row] else (0, 0)
            assert (targets.semantic[row, height:] == 255).all() and (targets.semantic[row, :, width:] == 255).all()
            bright = batch.images[row, 0] > 128
            labelled = targets.semantic[row] == 1
            assert (bright != labelled).sum() <= 60  # along the border
            if not targets.valid[row, 0]:
                continue
            seen += 1
            sample, geometry = int(batch.sample_ids[row]), batch.geometry[row].double().numpy()
            raw = split.objects(sample)
            box = targets.boxes_xywha[row, 0].double().numpy()
            np.testing.assert_allclose(box, move(raw.boxes_xywha, geometry)[0], rtol=1e-4, atol=1e-3)
            np.testing.assert_allclose(targets.boxes_xyxy[row, 0], upright(box[None])[0], rtol=1e-4)
            points = raw.keypoints[0][[1, 0, 2]] if np.linalg.det(geometry) < 0 else raw.keypoints[0]
            moved = points[:2, :2] @ geometry[:2, :2].T + geometry[:2, 2]
            found = targets.keypoints[row, 0].numpy()
            for point, visibility, place in zip(found, points[:2, 2], moved, strict=False):
                if (place >= 0).all() and (place < [width, height]).all():
                    np.testing.assert_allclose(point, [*place, visibility], rtol=1e-4, atol=1e-3)
                else:
                    assert (point == 0).all()
            assert (found[2] == 0).all()
    assert seen > 20


def test_an_evaluated_map_is_pils_nearest(split):
    for batch in batches(split, 2, train=False):
        for row in np.flatnonzero(batch.real.numpy()):
            height, width = batch.image_sizes[row].tolist()
            raw = Image.fromarray(split.semantic(int(batch.sample_ids[row])))
            expected = np.asarray(raw.resize((width, height), Image.Resampling.NEAREST))
            np.testing.assert_array_equal(batch.targets.semantic[row, :height, :width], expected)


@pytest.mark.parametrize("sampling", [{}, {"sampling": RepeatFactorSampling(threshold=1.0)}])
def test_batches_depend_on_neither_threads_nor_ranks_nor_stops(split, sampling):
    expected = batches(split, 8, threads=1, **sampling)
    assert all(map(same, expected, batches(split, 8, threads=3, **sampling)))
    assert all(map(same, expected[5:], batches(split, 3, skip=5, **sampling)))
    ranks = [batches(split, 8, rank=rank, world_size=4, **sampling) for rank in range(4)]
    for whole, *parts in zip(expected, *ranks, strict=True):
        together = zip(columns(whole), *map(columns, parts), strict=True)
        assert all(torch.equal(one, torch.cat(rest)) for one, *rest in together)


def test_images_of_rare_classes_come_more_often_and_each_time_anew(split):
    """The class is in 7 of 11 images: with a threshold of 1 those occur sqrt(11 / 7) = 1.25 times."""
    drawn = {}
    counts = np.zeros(NUMBER)
    for batch in batches(split, 120, sampling=RepeatFactorSampling(threshold=1.0), threads=1):
        for sample, geometry in zip(batch.sample_ids.tolist(), batch.geometry, strict=True):
            if sample >= 0:
                counts[sample] += 1
                drawn.setdefault(sample, []).append(tuple(geometry.flatten().tolist()))
    rare = np.arange(NUMBER) % 3 > 0
    assert counts[rare].mean() / counts[~rare].mean() == pytest.approx((11 / 7) ** 0.5, rel=0.05)
    assert all(len(set(one)) == len(one) for one in drawn.values())


def test_a_transform_of_ones_own_gets_and_gives_every_kind(split):
    def crop(sample, random):
        """The upper left 40 pixels, in place."""
        sample.boxes_xywha[:, :2] -= 1
        sample.keypoints[..., :2] -= 1
        image, semantic = sample.image[1:41, 1:41], sample.semantic[1:41, 1:41]
        return replace(sample, image=image, semantic=semantic, boxes_xywha=sample.boxes_xywha)

    for batch in batches(split, 3, transform=crop):
        assert (batch.original_sizes[batch.real] == 40).all()
        bright, labelled = batch.images[:, 0] > 128, batch.targets.semantic == 1
        assert (bright != labelled).flatten(1).sum(1).max() <= 60
    for name, what in (("keypoints", "keypoints"), ("boxes_xywha", "rotated boxes"), ("semantic", "semantic maps")):
        with pytest.raises(ValueError, match=f"the transform returned no {name}, but the data has {what}"):
            batches(split, 1, transform=lambda sample, random, name=name: replace(sample, **{name: None}))
    with pytest.raises(ValueError, match=r"semantic map of \(3, 3\) with an image of"):
        batches(split, 1, transform=lambda sample, random: replace(sample, semantic=np.zeros((3, 3), np.uint8)))


def test_what_the_data_lacks_is_none_and_old_shards_open(tmp_path):
    """Shards from before these kinds: no such columns, no such words in dataset.json."""
    plain = [replace(s, boxes_xywha=None, keypoints=None, semantic=None) for s in samples(rotated=False)]
    write(tmp_path, samples=plain, keypoints=None, semantic_classes=())
    for name, kinds in (
        ("annotations", ("keypoints", "bbox_rotated")),
        ("index", ("semantic", "panoptic", "negative", "not_exhaustive")),
    ):
        path = tmp_path / "train" / f"{name}.arrow"
        table = pa.ipc.open_file(path.read_bytes()).read_all()
        table = table.select([column for column in table.column_names if not column.startswith(kinds)])
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_batch(table.to_batches()[0])
    path = tmp_path / "dataset.json"
    description = json.loads(path.read_text())
    for name in ("has_rotated", "has_semantic", "has_panoptic"):
        del description["splits"]["train"][name]
    path.write_text(json.dumps(description))
    split = ShardedSplit.open(tmp_path, "train")
    targets = batches(split, 1)[0].targets
    assert targets.boxes_xywha is None and targets.keypoints is None and targets.semantic is None
    assert split.federated is None
    assert split.objects(1).keypoints is None and "keypoints" not in split.to_coco()["annotations"][0]
    with pytest.raises(ValueError, match="the train split has no semantic maps"):
        split.semantic(0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"keypoints": None}, "no keypoints, but write_split's keypoints is"),
        ({"keypoints": np.zeros((1, 2, 3))}, "2 keypoints an object, but write_split names 3"),
        ({"semantic": None}, "no semantic map, but 2 semantic_classes"),
        ({"semantic": np.zeros((4, 4), np.uint8)}, r"semantic map of \(4, 4\) on an image of"),
        ({"boxes_xywha": [[-1, 5, 9, 9, 0]]}, "its centre is outside"),
        ({"boxes_xywha": [[5, 5, 9, 0, 0]]}, "has no area"),
    ],
)
def test_a_sample_unlike_the_others_is_named(tmp_path, changes, message):
    _, good, *_ = samples()
    with pytest.raises(ValueError, match=rf"train sample 1 \(1\.png\): .*{message}"):
        write(tmp_path, samples=[good, replace(good, **changes)])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"keypoints": np.zeros((1, 3, 2))}, r"keypoints must be \(N, K, 3\)"),
        ({"keypoints": np.zeros((2, 3, 3))}, "1 boxes_xyxy but 2 keypoints"),
        ({"boxes_xywha": np.zeros((1, 4))}, r"boxes_xywha must be \(N, 5\)"),
        ({"semantic": np.zeros((4, 4))}, r"semantic must be \(H, W\) uint8"),
    ],
)
def test_a_sample_checks_its_shapes(changes, message):
    _, good, *_ = samples()
    with pytest.raises(ValueError, match=f"sample 1.png: .*{message}"):
        replace(good, **changes)


def test_classes_and_layouts_are_the_same_for_all_splits(tmp_path):
    write(tmp_path)
    with pytest.raises(ValueError, match="has the semantic_classes"):
        write(tmp_path, split="val", semantic_classes=["floor", "rod"])
    with pytest.raises(ValueError, match="has the keypoints"):
        write(tmp_path, split="val", keypoints=KeypointLayout.of(["a", "b", "c"]))
    out_of_range = [replace(next(samples()), semantic=np.full(next(samples()).semantic.shape, 2, np.uint8))]
    with pytest.raises(ValueError, match=r"semantic class 2 is not in 0\.\.1 nor 255"):
        write(tmp_path, split="val", samples=out_of_range)


@pytest.mark.gpu
def test_cuda_batches_have_the_same_targets(split):
    for expected, batch in zip(batches(split, 6), batches(split, 6, device="cuda"), strict=True):
        for one, other in zip(columns(expected)[1:5], columns(batch)[1:5], strict=True):
            torch.testing.assert_close(other.cpu(), one)
        assert (batch.targets.semantic.cpu() != expected.targets.semantic).sum() <= 8
