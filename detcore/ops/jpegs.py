"""JPEGs from files to pixels, several in one call."""

import torch
import torchvision.io  # noqa: F401  # registers the decoder that csrc/jpegs calls
from torch import Tensor

from detcore.ops import native
from detcore.ops.shapes import expect


def read_jpegs(places: Tensor, out: Tensor) -> Tensor:
    """Reads, checks and decodes JPEGs, of which Python hears nothing until all are done.

    A thread that decodes one by one waits for the GIL after each, behind whoever holds it. Pixels are those of
    `torchvision.io.decode_jpeg`, as RGB.

    Args:
        places: (n, 6) int64 on the CPU: open file, offset and size in it, CRC-32 (-1: unknown), height and width.
        out: uint8 on the CPU, for the images (height, width, 3), one after the other; changed in place.

    Returns:
        (n,) bool. False leaves an image to the caller, its memory with any content: the place of a file of -1, what
        could not be read, is damaged, no JPEG, or has another size; and all of them where no native operators are.

    Raises:
        ValueError: `out` is too small, or of another kind.
    """
    expect("read_jpegs", places=(places, "N 6"), out=(out, "P"))
    needed = 3 * int((places[:, 4] * places[:, 5]).sum())
    if out.dtype != torch.uint8 or out.numel() < needed:
        raise ValueError(f"read_jpegs: out is {out.numel()} {out.dtype}; {needed} uint8 are needed")
    if not native.serves("cpu"):
        return torch.zeros(len(places), dtype=torch.bool)
    done: Tensor = torch.ops.detcore.read_jpegs(places.contiguous(), out)
    return done


def _fake(places: Tensor, out: Tensor) -> Tensor:
    return places.new_empty(len(places), dtype=torch.bool)


native.define("read_jpegs", "(Tensor places, Tensor(a!) out) -> Tensor", _fake)
