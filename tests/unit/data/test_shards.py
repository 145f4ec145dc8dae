import io
import json
import tarfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import webdataset
from PIL import Image

from detcore.data import Sample, ShardedSplit, write_split


def pixels(seed, height=12, width=16):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def samples(number=5):
    """Image `n` has `n` objects; the first of each is a crowd region without an outline."""
    for n in range(number):
        boxes = [[1.1, 2.2, 9.9 + k, 11.3] for k in range(n)]
        triangle = [[1.1, 2.2], [9.9, 2.2], [9.9, 11.3]]
        yield Sample(
            image=pixels(n),
            boxes_xyxy=boxes,
            labels=[k % 2 for k in range(n)],
            crowd=[k == 0 for k in range(n)],
            polygons=[[] if k == 0 else [triangle, triangle[::-1]] for k in range(n)],
            image_id=1000 + n,
            file_name=f"some.name {n}.png",
        )


@pytest.fixture
def shards(tmp_path):
    write_split(samples(), tmp_path / "shards", split="train", categories=["cat", "dog"], samples_per_shard=2)
    return tmp_path / "shards"


def test_samples_come_back_as_they_went_in(shards):
    split = ShardedSplit.open(shards, "train")
    assert len(split) == 5
    assert split.categories == ("cat", "dog")
    assert split.has_masks
    assert (split.heights.tolist(), split.widths.tolist()) == ([12] * 5, [16] * 5)
    assert split.image_ids.tolist() == [1000, 1001, 1002, 1003, 1004]
    assert (split.max_objects, split.max_rings, split.max_vertices) == (4, 6, 18)
    for n, sample in enumerate(samples()):
        assert (np.asarray(Image.open(io.BytesIO(split.read(n)))) == sample.image).all()
        assert split.file_names[n] == sample.file_name
        found = split.objects(n)
        expected = sample.boxes_xyxy.copy()
        np.testing.assert_allclose(found.boxes_xyxy, expected, rtol=0, atol=1e-14)
        assert found.labels.tolist() == sample.labels.tolist()
        assert found.crowd.tolist() == sample.crowd.tolist()
        assert [[ring.tolist() for ring in rings] for rings in found.polygons] == [
            [ring.tolist() for ring in rings] for rings in sample.polygons
        ]
        assert (found.boxes_xyxy.dtype, found.labels.dtype, found.crowd.dtype) == (np.float64, np.int64, np.bool_)
    ids = [split.objects(n).annotation_ids.tolist() for n in range(5)]
    assert ids == [[], [1], [2, 3], [4, 5, 6], [7, 8, 9, 10]]


def test_the_index_is_where_tarfile_finds_the_members(shards):
    split = ShardedSplit.open(shards, "train")
    sample = 0
    for path in sorted((shards / "train").glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                assert (member.mtime, member.uid, member.gid, member.uname) == (0, 0, 0, "")
                if not member.name.endswith(".json"):
                    content = tar.extractfile(member)
                    assert content is not None
                    assert content.read() == split.read(sample)
                    sample += 1
    assert sample == 5


def test_webdataset_reads_the_shards(shards):
    urls = [str(path) for path in sorted((shards / "train").glob("*.tar"))]
    found = list(webdataset.WebDataset(urls, shardshuffle=False).decode("pil"))
    assert len(found) == 5
    for n, (sample, expected) in enumerate(zip(found, samples(), strict=True)):
        assert (np.asarray(sample["png"]) == expected.image).all()
        assert sample["json"]["file_name"] == expected.file_name
        assert [a["category"] for a in sample["json"]["annotations"]] == ["cat", "dog", "cat", "dog"][:n]


def test_boxes_are_clipped_for_training_and_kept_in_the_ground_truth(tmp_path):
    sample = Sample(image=pixels(0), boxes_xyxy=[[-3.0, 4.0, 20.0, 30.0]], labels=[0])
    write_split([sample], tmp_path, split="val", categories=["cat"])
    split = ShardedSplit.open(tmp_path, "val")
    assert split.objects(0).boxes_xyxy.tolist() == [[0, 4, 16, 12]]
    assert split.to_coco() == {
        "images": [{"id": 1, "file_name": "1", "height": 12, "width": 16}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [-3, 4, 23, 26], "area": 23 * 26, "iscrowd": 0}
        ],
        "categories": [{"id": 1, "name": "cat"}],
    }
    assert not split.has_masks


def test_bytes_and_hash_depend_on_the_samples_alone(tmp_path, shards):
    write_split(samples(), tmp_path / "again", split="train", categories=["cat", "dog"], samples_per_shard=2)
    files = sorted(path.relative_to(shards) for path in shards.rglob("*") if path.is_file())
    assert len(files) == 6
    for file in files:
        assert (shards / file).read_bytes() == (tmp_path / "again" / file).read_bytes()
    write_split(samples(4), tmp_path / "again", split="train", categories=["cat", "dog"], samples_per_shard=2)
    hashes = {ShardedSplit.open(folder, "train").content_hash for folder in (shards, tmp_path / "again")}
    assert len(hashes) == 2


def test_another_split_is_added_and_a_split_is_replaced(shards):
    before = ShardedSplit.open(shards, "train")
    write_split(samples(3), shards, split="val", categories=["cat", "dog"])
    assert len(ShardedSplit.open(shards, "val")) == 3
    assert len(ShardedSplit.open(shards, "train")) == 5
    assert ShardedSplit.open(shards, "train").content_hash != before.content_hash
    write_split(samples(4), shards, split="train", categories=["cat", "dog"])
    assert len(ShardedSplit.open(shards, "train")) == 4
    assert sorted(path.name for path in shards.iterdir()) == ["dataset.json", "train", "val"]


def test_threads_read_the_same(shards):
    split = ShardedSplit.open(shards, "train")
    alone = [split.read(n) for n in range(5)]
    split.close()
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(split.read, [n % 5 for n in range(400)])) == alone * 80
    split.close()


def test_a_shard_that_is_cut_off_or_gone_is_named(shards):
    split = ShardedSplit.open(shards, "train")
    path = shards / "train" / "shard-00001.tar"
    whole = path.read_bytes()
    path.write_bytes(whole[:600])
    with pytest.raises(ValueError, match=r"shard-00001\.tar: sample 2 is cut off"):
        split.read(2)
    with pytest.raises(ValueError, match=rf"shard-00001\.tar: 600 bytes, {len(whole)} were written; prepare the data"):
        ShardedSplit.open(shards, "train")
    path.unlink()
    with pytest.raises(ValueError, match=r"shard-00001\.tar: no bytes"):
        ShardedSplit.open(shards, "train")


def test_a_folder_without_shards_is_named(tmp_path, shards):
    with pytest.raises(ValueError, match=r"nowhere: no prepared data \(dataset\.json is missing\)"):
        ShardedSplit.open(tmp_path / "nowhere", "train")
    with pytest.raises(ValueError, match="no split 'test', only train"):
        ShardedSplit.open(shards, "test")
    description = json.loads((shards / "dataset.json").read_text())
    (shards / "dataset.json").write_text(json.dumps({**description, "format_version": 0}))
    with pytest.raises(ValueError, match="not of format version 1"):
        ShardedSplit.open(shards, "train")


GOOD = {"image": pixels(0), "boxes_xyxy": [[1, 1, 5, 5]], "labels": [0]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": [1]}, r"train sample 1 \(x\): label 1 of object 0 is not in 0..0"),
        ({"boxes_xyxy": [[1, 1, 1, 5]]}, r"train sample 1 \(x\): box .* has no area inside the 16 x 12 image"),
        ({"boxes_xyxy": [[17, 1, 20, 5]]}, r"train sample 1 \(x\): box .* has no area inside the 16 x 12 image"),
        ({"image": b"GIF89a"}, r"train sample 1 \(x\): unreadable image"),
        ({"image_id": 1}, r"train sample 1 \(x\): image id 1 is already taken"),
    ],
)
def test_a_fault_in_a_sample_is_named_and_leaves_nothing_behind(tmp_path, changes, message):
    bad = Sample(**{**GOOD, "file_name": "x", **changes})
    with pytest.raises(ValueError, match=message):
        write_split([Sample(**GOOD), bad], tmp_path / "s", split="train", categories=["cat"])
    assert list((tmp_path / "s").iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": pixels(0).astype(float)}, r"image must be \(H, W, 3\) uint8"),
        ({"image": pixels(0)[..., 0]}, r"image must be \(H, W, 3\) uint8"),
        ({"boxes_xyxy": [[1, 2, 3]]}, r"boxes_xyxy must be \(N, 4\)"),
        ({"boxes_xyxy": [[1, 2, 3, float("nan")]]}, r"boxes_xyxy must be \(N, 4\) finite"),
        ({"labels": [0, 0]}, "1 boxes_xyxy but 2 labels"),
        ({"crowd": []}, "1 boxes_xyxy but 0 crowd"),
        ({"polygons": [[[[1, 2], [3, 4]]]]}, "at least 3 finite points"),
    ],
)
def test_a_sample_checks_its_shapes(changes, message):
    with pytest.raises(ValueError, match=f"sample x: .*{message}"):
        Sample(**{**GOOD, "file_name": "x", **changes})


def test_no_samples_and_other_categories_are_errors(shards):
    with pytest.raises(ValueError, match="val: no samples"):
        write_split([], shards, split="val", categories=["cat", "dog"])
    with pytest.raises(ValueError, match=r"has the categories \['cat', 'dog'\], got \['cat'\]"):
        write_split(samples(), shards, split="val", categories=["cat"])
    with pytest.raises(ValueError, match="split must be one of train, val, test, got 'dev'"):
        write_split(samples(), shards, split="dev", categories=["cat", "dog"])


def test_images_by_class_leaves_crowds_out(shards):
    # Of image n, objects 1 to n - 1 count, odd ones dogs.
    assert ShardedSplit.open(shards, "train").images_by_class() == [2, 3]
