"""Image files on their way into shards: fully decoded once, kept as they are where every decoder reads them alike."""

import io
import warnings
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from detcore.config.data import MAX_IMAGE_PIXELS

PNG_BITS = 24
"""Where a PNG says how many bits a channel has."""
_ORIENTATION = 0x0112  # EXIF tag
_JPEG_FORMATS = ("JPEG", "MPO")  # MPO: a phone's JPEG with further pictures behind the first
FORMATS = ("AVIF", "BMP", "DIB", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
"""What files are read. PIL knows more, among them EPS, which it hands to Ghostscript: a stranger's program."""
_ANIMATED_FORMATS = ("GIF", "PNG", "WEBP", "AVIF")  # the further pictures of others are thumbnails, or pages
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # `read_image` has a limit of its own


@dataclass(frozen=True, slots=True)
class StoredImage:
    """The bytes of an image as a shard holds it."""

    data: bytes
    extension: Literal["jpg", "png"]
    height: int
    width: int

    @classmethod
    def unchanged(cls, data: bytes, height: int, width: int) -> Self:
        """A file that may stay as it is, of this size."""
        return cls(data, _extension(data), height, width)


def _extension(data: bytes) -> Literal["jpg", "png"]:
    """What a file becomes in a shard: a JPEG stays one, all else is or becomes PNG."""
    return "jpg" if data.startswith(b"\xff\xd8") else "png"


def read_image(
    data: bytes, *, declared: tuple[int, int] | None = None, max_pixels: int = MAX_IMAGE_PIXELS
) -> tuple[Image.Image, bool]:
    """Decodes an image file wholly, unless its header says that it has more than `max_pixels`.

    EXIF orientation is applied, as in the viewers and labelling tools that people draw boxes in. Where the declared
    (height, width) fits only the image as stored, as in COCO, the boxes refer to that, and the tag is ignored.

    Returns:
        The image in mode RGB or L, and whether the file's own bytes may stand for it: a JPEG of 1 or 3 components or
        an 8-bit grey or RGB PNG, with nothing to turn.

    Raises:
        ValueError: the file is empty, cut off or otherwise no readable image, an animation, or has too many pixels.
    """
    if not data:
        raise ValueError("unreadable image: an empty file")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        _refuse_too_much(image, max_pixels)
        image.load()
        turned = image.getexif().get(_ORIENTATION, 1) in range(2, 9)
        upright = ImageOps.exif_transpose(image) if turned else image
    except UnidentifiedImageError as error:
        raise ValueError("unreadable image: of no known format") from error
    except _Refused:
        raise
    except Image.DecompressionBombError as error:
        raise ValueError(
            f"refused: it has more than {2 * MAX_IMAGE_PIXELS} pixels, and no file of so many is read; cut it into "
            "several files (to predict, its pixels as an array will do: detcore.load(MODEL).predict(array, tile=1024))"
        ) from error
    except Exception as error:  # decoders raise nearly anything on a broken file
        raise ValueError(f"unreadable image: {error or type(error).__name__}") from error
    if declared == (image.height, image.width) != (upright.height, upright.width):
        turned, upright = False, image
    plain = image.format in _JPEG_FORMATS or (image.format == "PNG" and data[PNG_BITS] == 8)
    return _as_rgb(upright), plain and not turned and image.mode in ("RGB", "L")


class _Refused(ValueError):
    """An image that could be read."""


def _refuse_too_much(image: Image.Image, max_pixels: int) -> None:
    if image.width * image.height > max_pixels:
        raise _Refused(
            f"{image.width} x {image.height} pixels, refused: more than data.max_image_pixels = {max_pixels}; raise "
            "that if the image is not made to fill the memory, or cut it into tiles"
        )
    frames = getattr(image, "n_frames", 1) if image.format in _ANIMATED_FORMATS else 1
    if frames > 1:
        raise _Refused(
            f"an animation of {frames} frames, refused: save the one that is labelled as an image of its own"
        )


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("RGB", "L"):
        return image
    if image.mode.startswith("I"):  # 16 bits: PIL's own conversion would clip at 255
        return Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8))
    return image.convert("RGB")


def store_image(
    image: bytes | NDArray[np.uint8],
    *,
    declared: tuple[int, int] | None = None,
    max_pixels: int = MAX_IMAGE_PIXELS,
) -> StoredImage:
    """An image as a shard holds it; see `read_image` for orientation.

    A file that may stay as it is keeps its bytes. What must be converted (CMYK, palette, alpha, 16 bits, EXIF
    orientation, other formats, arrays) becomes a lossless PNG, or, if it was a JPEG, a JPEG of quality 95 without
    chroma subsampling.

    Args:
        image: the bytes of an image file, or (H, W, 3) uint8 RGB.
        declared: (height, width) as the annotations say.
        max_pixels: of a file.

    Raises:
        ValueError: as `read_image`.
    """
    if isinstance(image, bytes):
        picture, kept = read_image(image, declared=declared, max_pixels=max_pixels)
        if kept:
            return StoredImage.unchanged(image, picture.height, picture.width)
        lossy = _extension(image) == "jpg"
    else:
        picture, lossy = Image.fromarray(image), False
    picture.info.clear()  # colour profiles and the like belong to the old file
    buffer = io.BytesIO()
    if lossy:
        picture.save(buffer, "JPEG", quality=95, subsampling=0)
    else:
        picture.save(buffer, "PNG", compress_level=3)
    return StoredImage.unchanged(buffer.getvalue(), picture.height, picture.width)
