"""What can be predicted on: files, folders, globs, PIL images, arrays, and lists of these."""

import glob
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from detcore.data.images import _as_rgb, read_image

IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
"""What counts as an image in a folder."""

ImageSource = Path | Image.Image | NDArray[np.uint8]
"""One image: a file, a PIL image, or (H, W, 3) uint8 RGB."""
Source = str | ImageSource | Sequence["str | ImageSource"]
"""One image, or several: a list of images, a folder, or a glob such as 'scans/*.png'."""


def expand(source: Source) -> tuple[list[ImageSource], bool]:
    """The single images of a source, and whether it names several (a list, a folder or a glob, even of one).

    A folder gives its images by name, subfolders excluded.

    Raises:
        ValueError: if a path does not exist, or there is no image.
    """
    if isinstance(source, Image.Image | np.ndarray):
        return [source], False
    if isinstance(source, str | Path):
        return _expand_path(source)
    if not isinstance(source, Sequence):
        raise ValueError(
            f"cannot predict on {type(source).__name__}: take a path, a PIL image, an array, or a list of these"
        )
    images = [image for one in source for image in expand(one)[0]]
    if not images:
        raise ValueError("no image in an empty list")
    return images, True


def _expand_path(source: str | Path) -> tuple[list[ImageSource], bool]:
    path = Path(source)
    if path.is_file():
        return [path], False
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
        if not files:
            raise ValueError(f"{path}: no image in this folder (looked for {', '.join(sorted(IMAGE_SUFFIXES))})")
        return list(files), True
    if glob.has_magic(str(source)):
        matches = sorted(Path(match) for match in glob.glob(str(source), recursive=True))
        files = [match for match in matches if match.suffix.lower() in IMAGE_SUFFIXES and match.is_file()]
        if not files:
            raise ValueError(f"{source}: matches no image")
        return list(files), True
    raise ValueError(f"{path}: no such file or folder")


def read_rgb(source: ImageSource) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB; 16 bits are scaled to 8. A file's EXIF orientation is applied.

    Raises:
        ValueError: if a file cannot be read, or is no readable image, or an array is not (H, W, 3) uint8.
    """
    if isinstance(source, Path):
        try:
            picture, _ = read_image(source.read_bytes())
        except OSError as error:
            raise ValueError(f"{source}: {error.strerror or error}") from error
        except ValueError as error:
            raise ValueError(f"{source}: {error}") from error
        return np.asarray(picture.convert("RGB"))
    if isinstance(source, Image.Image):
        return np.asarray(_as_rgb(source).convert("RGB"))
    if source.dtype != np.uint8 or source.ndim != 3 or source.shape[2] != 3 or source.size == 0:
        raise ValueError(f"an image array must be (H, W, 3) uint8 in RGB order, got {source.shape} {source.dtype}")
    return source
