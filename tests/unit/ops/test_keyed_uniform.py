"""Expected words: the known-answer file kat_vectors of Random123 (D. E. Shaw Research), lines philox4x32 10."""

import pytest
import torch

from detcore.ops import keyed_uniform
from detcore.ops.random import philox4x32_10

KNOWN_ANSWERS = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def words(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN_ANSWERS)
def test_philox_known_answers(counter: str, key: str, answer: str) -> None:
    c, k = words(counter), words(key)
    tensors = tuple(torch.tensor([w]) for w in c)
    assert [int(w) for w in philox4x32_10(tensors, tuple(torch.tensor(w) for w in k))] == words(answer)
    assert [int(w) for w in philox4x32_10(tuple(c), tuple(k))] == words(answer)


def test_keyed_uniform_is_the_first_word_of_its_counter_and_key() -> None:
    seed, step, site = (0x299F31D0 << 32) | 0xA4093822, 0x13198A2E, 0x03707344
    drawn = keyed_uniform(seed, step, torch.tensor([0x85A308D3]), site, torch.tensor([0x243F6A88]))
    assert drawn.dtype == torch.float32
    assert drawn.item() == (0xD16CFE09 >> 8) / 2**24


def test_each_number_depends_on_its_own_key_alone() -> None:
    samples, candidates = torch.tensor([7, 3, -1]), torch.arange(50)
    drawn = keyed_uniform(1, 2, samples, 3, candidates)
    order = torch.tensor([2, 0])
    some = torch.tensor([49, 5])
    torch.testing.assert_close(
        keyed_uniform(torch.tensor(1), torch.tensor(2), samples[order], 3, candidates[some]),
        drawn[order][:, some],
        rtol=0,
        atol=0,
    )
    for other in ((9, 2, 3), (1, 9, 3), (1, 2, 9), (1 + 2**32, 2, 3)):
        seed, step, site = other
        assert not (keyed_uniform(seed, step, samples, site, candidates) == drawn).any()
    assert drawn.unique().numel() == drawn.numel()


def test_keyed_uniform_is_uniform() -> None:
    drawn = keyed_uniform(0, 0, torch.arange(8), 0, torch.arange(8192)).double()
    assert drawn.min() >= 0 and drawn.max() < 1
    # 65536 draws: the standard error of the mean is 0.0011, of each decile's share 0.0012.
    assert abs(drawn.mean() - 0.5) < 0.005
    assert (torch.histc(drawn, 10, 0, 1) / drawn.numel() - 0.1).abs().max() < 0.006


def test_keyed_uniform_of_nothing() -> None:
    nothing = torch.zeros(0, dtype=torch.int64)
    assert keyed_uniform(0, 0, nothing, 0, torch.arange(3)).shape == (0, 3)
    assert keyed_uniform(0, 0, torch.arange(3), 0, nothing).shape == (3, 0)
