"""Image files to pixels, as the loader does it by the thousand."""

import io
import struct

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

_JPEG_START = b"\xff\xd8"
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""Markers that begin a frame header, whichever the coding."""


def is_jpeg(data: bytes) -> bool:
    return data.startswith(_JPEG_START)


def decode(
    data: bytes, *, size: tuple[int, int] | None = None, out: NDArray[np.uint8] | None = None
) -> NDArray[np.uint8]:
    """An image file as (h, w, 3) uint8 RGB, EXIF orientation ignored. The GIL is free meanwhile.

    JPEG goes to libjpeg-turbo, whose pixels are PIL's in less time. PIL has the last word on what that refuses (CMYK,
    for one; and it says well what is wrong), and reads PNG.

    Args:
        data: the file.
        size: height and width that it must have. Nothing is decoded if it is larger.
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
    pixels = np.array(image.convert("RGB"))
    if out is None:
        return pixels
    out[...] = pixels
    return out


def _decode_jpeg(data: bytes, size: tuple[int, int] | None, out: NDArray[np.uint8] | None) -> NDArray[np.uint8] | None:
    """None leaves it to PIL."""
    height, width, components = _jpeg_frame(data)
    # Of one or three components every decoder makes the same RGB.
    if components not in (1, 3) or size not in (None, (height, width)):
        return None
    pixels = np.empty((height, width, 3), np.uint8) if out is None else out
    try:
        simplejpeg.decode_jpeg(data, "RGB", buffer=pixels)
    except ValueError:
        return None
    return pixels


def _jpeg_frame(data: bytes) -> tuple[int, int, int]:
    """Height, width and components of a JPEG; of a damaged one anything. By hand, as decoders let the GIL go for it."""
    at = len(_JPEG_START)
    try:
        while data[at] == 0xFF:
            marker = data[at + 1]
            if marker in _FRAMES:
                height, width, components = struct.unpack_from(">HHB", data, at + 5)
                return height, width, components
            # A byte of padding has no length.
            at += 1 if marker == 0xFF else 2 + int.from_bytes(data[at + 2 : at + 4])
    except (IndexError, struct.error):
        pass
    return 0, 0, 0
