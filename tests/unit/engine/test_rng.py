import io
import random

import numpy as np
import torch

from detcore.engine.rng import rng_state, seed_all, set_rng_state


def draw() -> tuple[float, float, float, float]:
    return random.random(), float(np.random.rand()), float(np.random.randn()), float(torch.rand(()))


def test_saved_as_plain_tensors_and_restored() -> None:
    seed_all(1, rank=0)
    draw()  # leaves numpy with half a pair of normals in hand
    saved = io.BytesIO()
    torch.save(rng_state(), saved)
    expected = draw()
    saved.seek(0)
    set_rng_state(torch.load(saved, weights_only=True))
    assert draw() == expected


def test_every_rank_has_its_own_stream() -> None:
    drawn = []
    for seed, rank in ((1, 0), (1, 1), (2, 0), (1, 0)):
        seed_all(seed, rank=rank)
        drawn.append(draw())
    assert len(set(drawn)) == 3 and drawn[0] == drawn[3]
