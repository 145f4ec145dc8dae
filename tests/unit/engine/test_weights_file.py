"""The library's own writer is the oracle."""

import io

import pytest
import safetensors.torch
import torch
from torch import nn

from detcore.engine.weights_file import _NAMES, write_weights


def written(state: dict[str, torch.Tensor]) -> bytes:
    file = io.BytesIO()
    write_weights(state, file)
    return file.getvalue()


def test_every_dtype_byte_for_byte() -> None:
    state = {f"{name}.{dtype}": (9 * torch.rand(3, 2)).to(dtype) for dtype in _NAMES for name in ("ö", "a", "layer.z")}
    state |= {"scalar": torch.tensor(3.5), "empty": torch.zeros(0, 4), 'quoted"\n': torch.ones(1)}
    assert written(state) == safetensors.torch.save(state)


def test_nothing_at_all() -> None:
    assert written({}) == safetensors.torch.save({})


def test_tied_and_strided() -> None:
    model = nn.Sequential(nn.Conv2d(2, 2, 3), nn.Conv2d(2, 2, 3)).to(memory_format=torch.channels_last)
    model[1].weight = model[0].weight
    state = {**model.state_dict(), "transposed": torch.arange(6.0).reshape(2, 3).T, "part": torch.arange(9)[::2]}
    found = safetensors.torch.load(written(state))
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], value) for name, value in state.items())


def test_a_dtype_that_files_do_not_have() -> None:
    with pytest.raises(ValueError, match=r"^spectrum is torch\.complex128, which a safetensors file cannot hold$"):
        written({"spectrum": torch.zeros(2, dtype=torch.complex128)})
