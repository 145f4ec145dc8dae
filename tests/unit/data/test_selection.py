"""Which images training takes, and in which proportions; nothing of it touches the shards."""

from itertools import pairwise

import numpy as np
import pytest
from raw_folders import data_config

from detcore.config.sampling import ClassWeightSampling, FirstSubset, FractionSubset, ImageWeightSampling, ListedSubset
from detcore.data import KeypointLayout, Sample, ShardedSplit, write_split
from detcore.data.sampling import build_sampler, sampling_factors
from detcore.data.selection import select

CLASSES = ["cat", "dog", "emu"]
LABELS = [[0], [], [0, 1], [2, 2, 2], [0], [1], [], [0, 0], [2], [0]]
CROWD = [4, 8]
"""Images whose objects are all crowd regions."""


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    """Ten images; of each object's two keypoints the second is labelled, in image 5 none."""
    folder = tmp_path_factory.mktemp("shards")
    write_split(
        (
            Sample(
                image=np.full((8, 8, 3), number, np.uint8),
                boxes_xyxy=[[1.0, 1.0, 5.0, 5.0]] * len(labels),
                labels=labels,
                crowd=[number in CROWD] * len(labels),
                keypoints=np.tile([[0.0, 0.0, 0.0], [2.5, 2.5, 2.0 * (number != 5)]], (len(labels), 1, 1)),
                image_id=100 + number,
                file_name=f"{number}.png",
            )
            for number, labels in enumerate(LABELS)
        ),
        folder,
        split="train",
        categories=CLASSES,
        keypoints=KeypointLayout.of(["left_eye", "right_eye"]),
    )
    return ShardedSplit.open(folder, "train")


@pytest.fixture
def chosen(split, tmp_path):
    def choose(**settings):
        return select(split, data_config(tmp_path, tmp_path, **settings))

    return choose


@pytest.mark.parametrize(
    ("settings", "samples"),
    [
        ({}, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
        ({"min_objects": 1}, [0, 2, 3, 5, 7, 9]),
        ({"min_objects": 2}, [2, 3, 7]),
        ({"min_keypoints": 1}, [0, 2, 3, 7, 9]),
        ({"min_keypoints": 2, "min_objects": 1}, [2, 3, 7]),
        ({"train_subset": FirstSubset(number=3)}, [0, 1, 2]),
        ({"train_subset": FirstSubset(number=99)}, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
        ({"train_subset": FirstSubset(number=3), "min_objects": 1}, [0, 2, 3]),
    ],
)
def test_images_that_take_part(chosen, settings, samples):
    selection = chosen(**settings)
    assert selection.samples.tolist() == samples
    assert sum(selection.left_out.values()) == len(LABELS) - len(samples)


def test_what_is_left_out_is_said(chosen):
    assert str(chosen()) == "10 images"
    assert str(chosen(min_objects=1, train_subset=FirstSubset(number=2))) == (
        "2 images, 4 left out by min_objects = 1, 4 left out by train_subset (first)"
    )


def test_a_fraction_is_drawn_by_seed_and_grows_by_images(chosen):
    def drawn(fraction, seed=0):
        return set(chosen(train_subset=FractionSubset(fraction=fraction, seed=seed)).samples.tolist())

    shares = [drawn(fraction) for fraction in (0.01, 0.3, 0.5, 1.0)]
    assert [len(share) for share in shares] == [1, 3, 5, 10]
    assert all(smaller < larger for smaller, larger in pairwise(shares))
    assert len({frozenset(drawn(0.3, seed)) for seed in range(8)}) > 1


def test_a_list_names_files_or_ids(chosen, tmp_path):
    listed = tmp_path / "some.txt"
    listed.write_text("7.png\n\n102\n7.png\n 3.png \n")
    assert chosen(train_subset=ListedSubset(file=str(listed))).samples.tolist() == [2, 3, 7]
    listed.write_text("7.png\n77.png\n")
    with pytest.raises(ValueError, match=r"some.txt: line 2: train has no image of the name or id '77.png'"):
        chosen(train_subset=ListedSubset(file=str(listed)))
    with pytest.raises(ValueError, match=r"data.train_subset.file: .*absent.txt is no file"):
        chosen(train_subset=ListedSubset(file=str(tmp_path / "absent.txt")))


def test_nothing_left_is_an_error(chosen):
    with pytest.raises(ValueError, match="no image of train is left to train on: 0 images, 10 left out by min_objects"):
        chosen(min_objects=4)


def test_keypoints_that_the_data_lacks_are_an_error(tmp_path):
    write_split([Sample(image=np.zeros((8, 8, 3), np.uint8))], tmp_path, split="train", categories=CLASSES)
    with pytest.raises(ValueError, match=r"data.min_keypoints: .* has no keypoints; set it to 0"):
        select(ShardedSplit.open(tmp_path, "train"), data_config(tmp_path, tmp_path, min_keypoints=1))


def test_class_weights(split):
    """By hand: the largest weight of an image's classes, 1 for dogs, without objects and for crowds alone; mean 1."""
    weights = np.array([0.5, 1, 1, 4, 1, 1, 1, 0.5, 1, 0.5])
    sampling = ClassWeightSampling(weights={"cat": 0.5, "emu": 4.0})
    every = np.arange(10)
    np.testing.assert_allclose(sampling_factors(split, sampling, every), weights * 10 / weights.sum(), rtol=1e-15)
    part = np.array([0, 3, 7])
    np.testing.assert_allclose(sampling_factors(split, sampling, part), weights[part] * 3 / 5, rtol=1e-15)
    with pytest.raises(ValueError, match="has no class 'bat', only cat, dog, emu"):
        sampling_factors(split, ClassWeightSampling(weights={"bat": 1.0}), every)
    with pytest.raises(ValueError, match="all images have the weight 0"):
        sampling_factors(split, ClassWeightSampling(weights={"cat": 0.0}), np.array([0, 7]))


def test_image_weights(split, tmp_path):
    table = tmp_path / "weights.csv"
    sampling, every = ImageWeightSampling(file=str(table)), np.arange(10)
    table.write_text("weight,file_name\n7,of-another-split.png\n" + "".join(f"{n},{n}.png\n" for n in range(10)))
    np.testing.assert_allclose(sampling_factors(split, sampling, every), every * 10 / 45, rtol=1e-15)
    for text, message in (
        ("file,weight\na,1\n", r"has the columns \['file', 'weight'\], not file_name and weight"),
        ("", "has the columns none"),
        ("file_name,weight\n0.png,1\n1.png,-1\n", "line 3: weight '-1' is no number from 0 on"),
        ("file_name,weight\n0.png,nan\n", "line 2: weight 'nan'"),
        ("file_name,weight\n0.png\n", "line 2: weight None"),
        ("file_name,weight\n0.png,1\n2.png,1\n", "no weight for 8 images of train, the first of them 1.png"),
    ):
        table.write_text(text)
        with pytest.raises(ValueError, match=message):
            sampling_factors(split, sampling, every)
    table.unlink()
    with pytest.raises(ValueError, match=r"data.sampling.file: .*weights.csv is no file"):
        sampling_factors(split, sampling, every)


def test_an_evaluation_takes_all(split, tmp_path):
    config = data_config(tmp_path, tmp_path, min_objects=1, sampling=ClassWeightSampling(weights={"cat": 0.0}))
    counts = {}
    for train in (True, False):
        selection, sampler = build_sampler(split, config, train=train, batch_size=4, seed=0, size_divisor=1)
        plan = sampler.epoch(0)
        counts[train] = (len(selection.samples), sorted(set(plan.samples[plan.samples >= 0].tolist())))
    assert counts[False] == (10, list(range(10)))
    assert counts[True][0] == 6 and set(counts[True][1]) <= {2, 3, 5}
