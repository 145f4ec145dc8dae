"""Random numbers of the augmentation: each is a function of what it is for, never of what was drawn before."""

import threading
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from detcore.data.sampler import Purpose

_LEVEL_BITS, _PARTNER_BITS = 12, 3
"""A site's number in one pipeline has the bits of a level, less those that number a mixing transform's partners."""

PARTNER = 2 ** (_LEVEL_BITS - _PARTNER_BITS) - 2
"""The site that draws which image is a partner: beyond those of transforms."""

_of_thread = threading.local()


@dataclass(frozen=True)
class Draws:
    """The streams of one image in one epoch, one a site, which is a transform's place in the pipeline.

    Attributes:
        seed, epoch, sample, repeat: which image, and when.
        path: the sites within whose mixtures the image is a partner; 0 for a sample's own.
    """

    seed: int
    epoch: int
    sample: int
    repeat: int = 0
    path: int = 0

    def at(self, site: int) -> np.random.Generator:
        """The stream of a site (Philox4x64-10), from its start. The next call on this thread ends its use."""
        generator, state = _own_generator()
        state["state"]["key"][:] = self.seed % 2**64, self.epoch << 2 | Purpose.AUGMENTATION
        state["state"]["counter"][:] = 0, self._number(site), self.repeat, self.sample
        state["buffer_pos"] = 4  # nothing of the counter before is left
        state["has_uint32"] = 0
        generator.bit_generator.state = state
        return generator

    def of_partner(self, site: int, partner: int) -> Self:
        """The streams of the image that a mixture at `site` takes in."""
        return type(self)(self.seed, self.epoch, self.sample, self.repeat, self._number(site, partner + 1))

    def _number(self, site: int, partner: int = 0) -> int:
        """Never 0, which is the counter of streams without a site."""
        return (self.path << _LEVEL_BITS | (site + 1) << _PARTNER_BITS | partner) % 2**64


def _own_generator() -> tuple[np.random.Generator, dict[str, Any]]:
    """This thread's generator and a state of it to fill in: making one takes longer than all that is drawn from it."""
    if not hasattr(_of_thread, "generator"):
        bits = np.random.Philox(key=0)
        _of_thread.generator, _of_thread.state = np.random.Generator(bits), bits.state
    return _of_thread.generator, _of_thread.state
