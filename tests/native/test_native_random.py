"""Expected values: the reference in detcore/ops; test_keyed_uniform.py holds it to known answers."""

import pytest
import torch
from torch import Tensor
from unattended import assert_runs_unattended, needs_cuda

from detcore import ops
from detcore.ops.random import keyed_uniform_reference

IDS = torch.tensor([-1, 0, 2**40 + 3])
CANDIDATES = {
    "shared": torch.arange(-5, 20_002),
    "shared, as a row": torch.arange(-5, 100)[None],
    "of each image": torch.arange(-5, 52).reshape(3, 19) * 2**33 + torch.arange(19) * 7,
    "of each image, strided": torch.arange(60).reshape(20, 3).T,
    "one of each image": torch.tensor([[4], [5], [-6]]),
    "none": torch.zeros(0, dtype=torch.int64),
    "none of each image": torch.zeros((3, 0), dtype=torch.int64),
}


@pytest.mark.parametrize("kind", CANDIDATES)
@pytest.mark.parametrize("seed", [0, -1, 2**63 + 5, torch.tensor(-7)])
def test_equals_the_reference(device: str, seed: int | Tensor, kind: str) -> None:
    candidates, step, site = CANDIDATES[kind], torch.tensor(2**33 + 1), 2**32 + 9
    got = ops.keyed_uniform(seed, step.to(device), IDS.to(device), site, candidates.to(device))
    want = keyed_uniform_reference(seed, step, IDS, site, candidates)
    assert got.device.type == device and got.dtype == want.dtype and torch.equal(got.cpu(), want)


def test_an_image_draws_for_its_own_candidates(device: str) -> None:
    every = ops.keyed_uniform(1, 2, IDS.to(device), 3, torch.arange(100, device=device))
    own = torch.stack([torch.arange(100), torch.arange(99, -1, -1), torch.arange(100).roll(5)]).to(device)
    assert torch.equal(ops.keyed_uniform(1, 2, IDS.to(device), 3, own), every.gather(1, own))


def test_more_images_than_a_grid_has_rows(device: str) -> None:
    ids, own = torch.arange(70_000), torch.arange(140_000).reshape(70_000, 2)
    for candidates in (torch.tensor([3, -4]), own):
        got = ops.keyed_uniform(1, 2, ids.to(device), 3, candidates.to(device))
        assert torch.equal(got.cpu(), keyed_uniform_reference(1, 2, ids, 3, candidates))


def test_no_images(device: str) -> None:
    nobody = torch.zeros(0, dtype=torch.int64, device=device)
    assert ops.keyed_uniform(1, 2, nobody, 3, torch.arange(4, device=device)).shape == (0, 4)
    assert ops.keyed_uniform(1, 2, nobody, 3, torch.zeros((0, 4), dtype=torch.int64, device=device)).shape == (0, 4)


def test_rows_that_are_not_the_images(device: str) -> None:
    with pytest.raises(ValueError, match="candidate_ids"):
        ops.keyed_uniform(1, 2, IDS.to(device), 3, torch.zeros((2, 4), dtype=torch.int64, device=device))


@pytest.mark.parametrize("kind", ["shared, as a row", "of each image", "none"])
def test_opcheck(device: str, kind: str) -> None:
    words = [torch.tensor(word, device=device) for word in (7, 8)]
    candidates = CANDIDATES[kind].to(device)
    torch.library.opcheck(torch.ops.detcore.keyed_uniform, (*words, IDS.to(device), 9, candidates))


def test_it_is_one_graph(device: str) -> None:
    candidates = CANDIDATES["of each image"].to(device)

    def call(ids: Tensor, own: Tensor) -> Tensor:
        return ops.keyed_uniform(1, 2, ids, 3, own)

    compiled = torch.compile(call, backend="eager", fullgraph=True)
    assert torch.equal(compiled(IDS.to(device), candidates), call(IDS.to(device), candidates))


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("kind", ["shared", "of each image"])
def test_the_host_is_not_needed(kind: str) -> None:
    seed, step, ids, candidates = (t.cuda() for t in (torch.tensor(1), torch.tensor(2), IDS, CANDIDATES[kind]))
    assert_runs_unattended(lambda: (ops.keyed_uniform(seed, step, ids, 3, candidates),))
