"""safetensors files, written tensor by tensor.

The library's own writer copies the whole file into one string first, and holds Python's lock meanwhile: half a second
for a ResNet-50 detector, in which a training beside it stands still.
"""

import json
from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

_NAMES = {
    torch.int64: "I64", torch.float64: "F64", torch.complex64: "C64", torch.float32: "F32", torch.int32: "I32",
    torch.bfloat16: "BF16", torch.float16: "F16", torch.int16: "I16", torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
"""In the order of the tensors in a file: wide ones first, so that each is aligned."""


class Writable(Protocol):
    """A binary file, or what stands before one."""

    def write(self, data: bytes | memoryview, /) -> int: ...


def write_weights(state: Mapping[str, Tensor], file: Writable) -> None:
    """Writes a model's state, byte for byte as `safetensors.torch.save` would.

    The format: https://huggingface.co/docs/safetensors. Tied weights are written once for each of their names.

    Args:
        state: tensors of any device and memory format.
        file: takes the bytes, in order.

    Raises:
        ValueError: for a dtype that such files do not have.
    """
    for name, value in state.items():
        if value.dtype not in _NAMES:
            raise ValueError(f"{name} is {value.dtype}, which a safetensors file cannot hold")
    types = list(_NAMES)
    order = sorted(state, key=lambda name: (types.index(state[name].dtype), name))
    header, end = {}, 0
    for name in order:
        start, end = end, end + state[name].nbytes
        header[name] = {
            "dtype": _NAMES[state[name].dtype],
            "shape": list(state[name].shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for name in order:
        flat = state[name].detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        file.write(flat.numpy().data)
