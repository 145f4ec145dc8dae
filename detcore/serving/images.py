"""A stranger's bytes to pixels."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from detcore.data.images import FORMATS, read_image
from detcore.serving.refused import Refused


def read_pixels(data: bytes, *, max_pixels: int) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB of an image file.

    Raises:
        Refused: it is no image (415), has too many pixels (413), or is broken (422).
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
    except Image.DecompressionBombError:
        raise Refused(413, f"the image has more than {max_pixels:,} pixels") from None
    except Exception:  # decoders raise nearly anything on a broken file
        kinds = "JPEG, PNG, WebP, TIFF, BMP or GIF"
        raise Refused(415, f"the {len(data):,} bytes sent as the image are no {kinds} file") from None
    if width * height > max_pixels:
        raise Refused(413, f"an image of {width:,} x {height:,} pixels; this server takes up to {max_pixels:,}")
    try:
        picture, _ = read_image(data, max_pixels=max_pixels)
    except ValueError as error:
        raise Refused(422, str(error)) from None
    return np.asarray(picture.convert("RGB"))
