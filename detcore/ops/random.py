"""Counter-based random numbers: a number depends on what it is for, never on when, where or after what it is drawn."""

import torch
from torch import Tensor

from detcore.ops import native
from detcore.ops.shapes import expect

Word = int | Tensor

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)


def keyed_uniform(
    seed: int | Tensor, step: int | Tensor, sample_ids: Tensor, site: int, candidate_ids: Tensor
) -> Tensor:
    """Uniform float32 numbers in [0, 1), multiples of 2^-24, keyed by (seed, step, sample, site, candidate).

    The same on CPU and CUDA, under any number of ranks and inside a CUDA graph. Philox4x32-10 (Salmon et al., Parallel
    Random Numbers: As Easy as 1, 2, 3, SC 2011) of the counter (candidate, sample, step, site) under the key seed.

    Args:
        seed: int or 0-d int64; its low 64 bits count.
        step: int or 0-d int64; its low 32 bits count.
        sample_ids: (B,) int64; their low 32 bits count.
        site: the place in the program that draws; two samplers of one step need different sites. Low 32 bits.
        candidate_ids: (N,) int64, or (B, N) where images have candidates of their own; their low 32 bits count.

    Returns:
        (B, N) float32.
    """
    rows = "" if candidate_ids.dim() < 2 else "_ " if len(candidate_ids) == 1 else "B "
    expect("keyed_uniform", sample_ids=(sample_ids, "B"), candidate_ids=(candidate_ids, f"{rows}N"))
    if native.serves(candidate_ids.device.type):
        drawn: Tensor = torch.ops.detcore.keyed_uniform(
            _as_tensor(seed, candidate_ids), _as_tensor(step, candidate_ids), sample_ids, site & _MASK, candidate_ids
        )
        return drawn
    return keyed_uniform_reference(seed, step, sample_ids, site, candidate_ids)


def keyed_uniform_reference(
    seed: int | Tensor, step: int | Tensor, sample_ids: Tensor, site: int, candidate_ids: Tensor
) -> Tensor:
    """`keyed_uniform` in torch's own operators."""
    candidate_ids, sample_ids = candidate_ids.long(), sample_ids.long()
    counter = (candidate_ids & _MASK, sample_ids[:, None] & _MASK, step & _MASK, site & _MASK)
    word = philox4x32_10(counter, (seed & _MASK, (seed >> 32) & _MASK))[0]
    return torch.as_tensor(word >> 8).float() * 2.0**-24


def philox4x32_10(counter: tuple[Word, Word, Word, Word], key: tuple[Word, Word]) -> tuple[Word, Word, Word, Word]:
    """Ten rounds of Philox4x32; words are unsigned 32-bit values held in int or int64, and broadcast.

    An int64 product wraps modulo 2^64, so its two halves are the unsigned ones.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        product0, product1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            ((product1 >> 32) & _MASK) ^ c1 ^ k0,
            product1 & _MASK,
            ((product0 >> 32) & _MASK) ^ c3 ^ k1,
            product0 & _MASK,
        )
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return c0, c1, c2, c3


def _as_tensor(word: int | Tensor, like: Tensor) -> Tensor:
    """0-d int64 of the low 64 bits, where `like` is."""
    if isinstance(word, Tensor):
        if word.numel() != 1 or word.is_floating_point():
            raise ValueError(f"keyed_uniform: seed and step are one integer each, not {tuple(word.shape)} {word.dtype}")
        return word.to(like.device)
    return torch.full((), (word + 2**63) % 2**64 - 2**63, dtype=torch.int64, device=like.device)


def _fake(seed: Tensor, step: Tensor, sample_ids: Tensor, site: int, candidate_ids: Tensor) -> Tensor:
    return candidate_ids.new_empty((sample_ids.shape[0], candidate_ids.shape[-1]), dtype=torch.float32)


native.define(
    "keyed_uniform",
    "(Tensor seed, Tensor step, Tensor sample_ids, int site, Tensor candidate_ids) -> Tensor",
    _fake,
)
