"""What is drawn: counts by hand, and that only keys decide."""

import torch

from detcore.models.proposals.sampler import sample_balanced

STATUS = torch.tensor([[1, 1, 0, 1, 0, -1, 0, 0]], dtype=torch.int8)
KEYS = torch.tensor([[0.1, 0.9, 0.2, 0.5, 0.8, 1.0, 0.0, 0.7]])


def test_highest_keys_win_and_negatives_fill_up() -> None:
    samples = sample_balanced(STATUS, KEYS, num_samples=4, positive_fraction=0.5)
    assert samples.indices.tolist() == [[1, 3, 4, 7]]
    assert samples.positive.tolist() == [[True, True, False, False]]
    assert samples.valid.all()
    assert samples.num_positive_slots == 2


def test_negatives_take_the_place_of_missing_positives() -> None:
    status = torch.tensor([[0, 1, 0, 0, 0, 0, 0, 0]], dtype=torch.int8)
    samples = sample_balanced(status, KEYS, num_samples=4, positive_fraction=0.5)
    assert samples.indices.tolist() == [[1, 5, 4, 7]]
    assert samples.positive.sum() == 1


def test_positives_do_not_take_the_place_of_missing_negatives() -> None:
    status = torch.tensor([[1, 1, 0, 1, 1, 1, 1, 1]], dtype=torch.int8)
    samples = sample_balanced(status, KEYS, num_samples=4, positive_fraction=0.5)
    assert samples.valid.tolist() == [[True, True, True, False]]
    assert samples.indices.tolist() == [[5, 1, 2, 0]]


def test_all_are_taken_where_more_are_asked_for() -> None:
    samples = sample_balanced(STATUS, KEYS, num_samples=1_000_000, positive_fraction=0.5)
    assert samples.indices.shape == (1, 8)
    drawn = samples.indices[samples.valid]
    assert sorted(drawn.tolist()) == [0, 1, 2, 3, 4, 6, 7]  # all but the ignored one
    assert samples.positive.sum() == 3


def test_an_image_of_ignored_candidates_gives_none() -> None:
    samples = sample_balanced(torch.full_like(STATUS, -1), KEYS, num_samples=4, positive_fraction=0.5)
    assert not samples.valid.any() and not samples.positive.any()


def test_rows_do_not_see_each_other() -> None:
    generator = torch.Generator().manual_seed(0)
    status = torch.randint(-1, 2, (5, 40), generator=generator).to(torch.int8)
    keys = torch.rand(5, 40, generator=generator)
    together = sample_balanced(status, keys, num_samples=12, positive_fraction=0.25)
    for row in range(5):
        alone = sample_balanced(status[row : row + 1], keys[row : row + 1], num_samples=12, positive_fraction=0.25)
        assert torch.equal(alone.indices[0], together.indices[row])
        assert torch.equal(alone.valid[0], together.valid[row])
