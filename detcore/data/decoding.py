"""Image files to pixels, as the loader does it by the thousand."""

import io

import numpy as np
import simplejpeg
import torch
from PIL import Image
from torch import Tensor

_JPEG_START = b"\xff\xd8"
_PLAIN = ("Gray", "YCbCr", "RGB")
"""Colour spaces that every decoder makes the same RGB of."""


def is_jpeg(data: bytes) -> bool:
    return data.startswith(_JPEG_START)


def decode(data: bytes, *, size: tuple[int, int] | None = None, out: Tensor | None = None) -> Tensor:
    """An image file as (h, w, 3) uint8 RGB, EXIF orientation ignored. The GIL is free meanwhile.

    JPEG goes to libjpeg-turbo, whose pixels are PIL's in less time. PIL has the last word on what that refuses (CMYK,
    for one; and it says well what is wrong), and reads PNG.

    Args:
        data: the file.
        size: height and width that it must have. Nothing is decoded if it has others.
        out: memory for an image of this size, row-major; needs `size`.

    Raises:
        OSError: a damaged file.
        ValueError: another size.
    """
    if is_jpeg(data) and (pixels := _decode_jpeg(data, size, out)) is not None:
        return pixels
    image = Image.open(io.BytesIO(data))
    if size not in (None, (image.height, image.width)):
        raise ValueError(f"is {image.height} x {image.width} pixels, the index says {size}; prepare the data again")
    pixels = torch.from_numpy(np.array(image.convert("RGB")))
    return pixels if out is None else out.copy_(pixels)


def _decode_jpeg(data: bytes, size: tuple[int, int] | None, out: Tensor | None) -> Tensor | None:
    """None leaves it to PIL."""
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        if colours not in _PLAIN or size not in (None, (height, width)):
            return None
        pixels = torch.empty((height, width, 3), dtype=torch.uint8) if out is None else out
        simplejpeg.decode_jpeg(data, "RGB", buffer=pixels.numpy())
    except ValueError:
        return None
    return pixels
