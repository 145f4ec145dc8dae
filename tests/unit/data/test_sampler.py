"""Epochs are exact, the plan is the same for any number of ranks, and shapes never depend on batch mates."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detcore.config.transforms import HorizontalFlip, ResizeFixed, ResizeShortestEdge
from detcore.data.sampler import Purpose, Sampler, keyed_generator
from detcore.data.sampling import repeat_factors

MULTI_SCALE = (ResizeShortestEdge(sizes=(64, 96, 128), max_size=200), HorizontalFlip())


def sampler(
    number=50,
    *,
    batch_size=4,
    seed=0,
    shuffle=True,
    transforms=MULTI_SCALE,
    num_buckets=4,
    size_divisor=32,
    samples=None,
    factors=None,
):
    random = np.random.default_rng(7)
    return Sampler(
        heights=random.integers(40, 400, number).astype(np.int32),
        widths=random.integers(40, 400, number).astype(np.int32),
        transforms=transforms,
        batch_size=batch_size,
        num_buckets=num_buckets,
        size_divisor=size_divisor,
        seed=seed,
        shuffle=shuffle,
        samples=samples,
        factors=factors,
    )


@settings(max_examples=50, deadline=None)
@given(
    number=st.integers(1, 90),
    world_size=st.integers(1, 5),
    per_rank=st.integers(1, 6),
    epoch=st.integers(0, 3),
    shuffle=st.booleans(),
)
def test_every_sample_once_an_epoch_over_all_ranks(number, world_size, per_rank, epoch, shuffle):
    plan = sampler(number, batch_size=world_size * per_rank, shuffle=shuffle).epoch(epoch)
    of_ranks = [plan.samples[:, rank * per_rank : (rank + 1) * per_rank] for rank in range(world_size)]
    seen = np.concatenate([rows.ravel() for rows in of_ranks])
    assert sorted(seen[seen >= 0].tolist()) == list(range(number))
    # Only the last batch of a bucket is short.
    for bucket in np.unique(plan.buckets):
        empty = (plan.samples[plan.buckets == bucket] < 0).sum()
        assert empty < world_size * per_rank


@settings(max_examples=50, deadline=None)
@given(
    part=st.sets(st.integers(0, 59), min_size=1),
    batch_size=st.integers(1, 7),
    epoch=st.integers(0, 3),
    weighted=st.booleans(),
)
def test_a_part_of_the_images_as_often_as_their_factors_say(part, batch_size, epoch, weighted):
    samples = np.array(sorted(part))
    factors = None
    if weighted:
        factors = np.random.default_rng(len(part)).choice([0.0, 0.3, 1.0, 2.5], len(part))
        factors[0] = 1.0  # or an epoch may have no image
    plan = sampler(60, samples=samples, factors=factors, batch_size=batch_size).epoch(epoch)
    real = plan.samples >= 0
    occurs = np.bincount(plan.samples[real], minlength=60)
    assert set(np.flatnonzero(occurs)) <= part
    expected = np.ones(len(part)) if factors is None else factors
    assert (np.abs(occurs[samples] - expected) < 1).all()
    assert plan.empty_rows == plan.samples.size - real.sum()


def test_padding_is_counted_in_pixels():
    """By hand: 5 images of 64 x 96 in batches of 4, of shape 64 x 96: 3 empty rows for 5 images; then with a margin."""
    one = sampler(5, transforms=(ResizeFixed(height=64, width=96),), num_buckets=1)
    plan = one.epoch(0)
    assert (plan.empty_rows, plan.padding) == (3, pytest.approx(3 / 5))
    assert str(plan) == "2 batches of 4 in 1 shapes, 3 rows empty, 60.0% padding"
    margin = sampler(8, transforms=(ResizeFixed(height=48, width=96),), num_buckets=1).epoch(0)
    assert (margin.empty_rows, margin.padding) == (0, pytest.approx(64 / 48 - 1))


def test_an_epoch_without_any_image_is_an_error():
    with pytest.raises(ValueError, match="epoch 0 has no image: the weights of 3 images"):
        sampler(3, factors=np.full(3, 1e-9)).epoch(0)


def test_the_identity_stands_for_all_that_decides_the_order():
    base = sampler().identity()
    assert base == sampler().identity() == {"seed": 0, "batch_size": 4, "plan": base["plan"]}
    assert sampler(seed=9).identity() == {**base, "seed": 9}
    assert sampler(batch_size=4).identity()["plan"] == base["plan"] < 2**63
    others = [
        sampler(49),
        sampler(samples=np.arange(49)),
        sampler(factors=np.ones(50)),
        sampler(num_buckets=2),
        sampler(shuffle=False),
        sampler(transforms=(ResizeShortestEdge(sizes=(64, 96), max_size=200), HorizontalFlip())),
    ]
    assert len({base["plan"], *(other.identity()["plan"] for other in others)}) == 7


def test_each_image_fits_its_batch_and_all_sizes_are_drawn():
    one = sampler()
    drawn = set()
    for epoch in range(4):
        plan = one.epoch(epoch)
        for samples, choices, bucket in zip(plan.samples, plan.choices, plan.buckets, strict=True):
            real = samples >= 0
            sizes = one._content_sizes(np.resize(choices[real][0], 50))[samples[real]]
            drawn |= set(choices[real].tolist())
            assert len(sizes)
            for sample, choice in zip(samples[real], choices[real], strict=True):
                size = one._content_sizes(np.full(50, choice))[sample]
                assert (size <= one.buckets[bucket]).all()
    assert drawn == {0, 1, 2}


def test_order_follows_seed_and_epoch():
    def order(seed, epoch):
        return sampler(seed=seed).epoch(epoch).samples.tolist()

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1)
    assert order(0, 0) != order(1, 0)
    assert order(-1, 0) != order(1, 0)


def test_going_back_to_an_epoch_gives_it_again():
    one = sampler()
    first = one.epoch(0).samples.tolist()
    one.epoch(1)
    assert one.epoch(0).samples.tolist() == first


def test_a_short_batch_may_stand_anywhere_in_an_epoch():
    """Not always last: the end of every epoch would see the same few small batches."""
    places = [int(np.flatnonzero((plan.samples < 0).any(axis=1))[0]) for plan in map(sampler().epoch, range(8))]
    assert len(set(places)) > 2


def test_evaluation_shapes_do_not_depend_on_the_batch_size():
    shapes = []
    for batch_size in (1, 3, 8):
        one = sampler(batch_size=batch_size, shuffle=False, transforms=(ResizeShortestEdge(sizes=(96,), max_size=200),))
        plan = one.epoch(0)
        buckets = np.repeat(plan.buckets, batch_size)[plan.samples.ravel() >= 0]
        samples = plan.samples[plan.samples >= 0]
        shapes.append({int(sample): one.buckets[bucket] for sample, bucket in zip(samples, buckets, strict=True)})
    assert shapes[0] == shapes[1] == shapes[2]
    assert len(set(shapes[0].values())) == 4


def test_evaluation_goes_by_bucket_from_the_largest_on():
    one = sampler(shuffle=False, transforms=(ResizeShortestEdge(sizes=(96,), max_size=200),))
    plan = one.epoch(0)
    areas = [one.buckets[bucket][0] * one.buckets[bucket][1] for bucket in plan.buckets]
    assert areas == sorted(areas, reverse=True)
    for bucket in np.unique(plan.buckets):
        samples = plan.samples[plan.buckets == bucket].ravel()
        assert (np.diff(samples[samples >= 0]) > 0).all()


def test_one_size_is_one_bucket():
    one = sampler(transforms=(ResizeFixed(height=100, width=60),), size_divisor=32)
    assert one.buckets == ((128, 64),)
    assert len(one.epoch(0)) == 13  # 50 images in fours


def test_streams_are_keyed_by_everything():
    base = (0, 1, Purpose.SIZES, 2)
    others = [(1, 1, Purpose.SIZES, 2), (0, 2, Purpose.SIZES, 2), (0, 1, Purpose.ORDER, 2), (0, 1, Purpose.SIZES, 3)]
    first = keyed_generator(*base).random(4).tolist()
    assert keyed_generator(*base).random(4).tolist() == first
    assert all(keyed_generator(*other).random(4).tolist() != first for other in others)


def test_no_images_is_an_error():
    with pytest.raises(ValueError, match="no samples"):
        sampler(0)


def test_repeat_factors_are_those_of_lvis():
    """By hand, with t = 0.5: class 0 is in 3 of 4 images, 1 in 2, 2 in 1: r = 1, 1 and sqrt(0.5 / 0.25) = 1.414."""
    samples = np.array([0, 0, 0, 1, 1, 2, 2])
    labels = np.array([0, 0, 1, 0, 1, 0, 2])
    factors = repeat_factors(samples, labels, num_samples=4, threshold=0.5)
    np.testing.assert_allclose(factors, [1, 1, 2**0.5, 1])
    np.testing.assert_allclose(repeat_factors(samples, labels, num_samples=4, threshold=1.0), [2**0.5, 2**0.5, 2, 1])
    assert repeat_factors(samples[:0], labels[:0], num_samples=2, threshold=1.0).tolist() == [1, 1]


def test_samples_occur_as_often_as_their_factors_say():
    factors = np.array([1.0, 1.25, 2.0, 3.5] * 10)
    one = sampler(40, factors=factors, batch_size=6)
    counts, epochs = np.zeros(40), 60
    for epoch in range(epochs):
        plan = one.epoch(epoch)
        real = plan.samples >= 0
        occurs = np.bincount(plan.samples[real], minlength=40)
        assert (np.abs(occurs - factors) < 1).all()
        counts += occurs
        pairs = list(zip(plan.samples[real].tolist(), plan.repeats[real].tolist(), strict=True))
        assert sorted(pairs) == [(sample, n) for sample in range(40) for n in range(occurs[sample])]
    # The mean of 600 draws of one kind strays by at most 0.02 x 4 standard deviations.
    np.testing.assert_allclose((counts / epochs).reshape(10, 4).mean(axis=0), factors[:4], atol=0.08)


def test_factors_of_one_change_nothing_and_repeats_follow_the_epoch():
    plain, ones = sampler().epoch(3), sampler(factors=np.ones(50)).epoch(3)
    assert np.array_equal(plain.samples, ones.samples) and np.array_equal(plain.choices, ones.choices)
    factors = np.full(50, 1.5)
    first, again = (sampler(factors=factors) for _ in range(2))
    again.epoch(7)
    assert np.array_equal(first.epoch(2).samples, again.epoch(2).samples)
    assert len(np.unique(first.epoch(2).samples)) != len(np.unique(first.epoch(3).samples)) or not np.array_equal(
        first.epoch(2).samples, first.epoch(3).samples
    )


def test_streams_of_repeats_are_their_own():
    def draw(*key):
        return keyed_generator(*key).random(4).tolist()

    streams = [draw(0, 1, Purpose.AUGMENTATION, index, repeat) for index in range(3) for repeat in range(3)]
    assert len({tuple(stream) for stream in streams}) == 9
    assert draw(0, 1, Purpose.AUGMENTATION, 2, 0) == draw(0, 1, Purpose.AUGMENTATION, 2)
