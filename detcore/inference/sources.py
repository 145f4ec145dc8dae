"""What can be predicted on: images, folders, globs, addresses, videos and cameras, and lists of these."""

import glob
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TypeVar
from urllib.parse import unquote, urlsplit

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from detcore.config.data import MAX_IMAGE_PIXELS
from detcore.data.images import _as_rgb, read_image
from detcore.inference.fetching import fetch

T = TypeVar("T")
IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
"""What counts as an image in a folder."""
VIDEO_SUFFIXES = frozenset({".avi", ".m3u8", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm", ".wmv"})
"""What counts as a video."""
STREAM_SCHEMES = frozenset({"rtmp", "rtsp", "rtsps", "srt", "tcp", "udp"})
"""Addresses that are always a video."""


@dataclass(frozen=True)
class Url:
    """An image at an http or https address; fetched once, when it is first read."""

    address: str

    def __str__(self) -> str:
        return self.address

    @property
    def name(self) -> str:
        """The file's name, as the address has it."""
        return PurePosixPath(unquote(urlsplit(self.address).path)).name or "image"

    @cached_property
    def data(self) -> bytes:
        """The file.

        Raises:
            ValueError: it cannot be had.
        """
        return fetch(self.address)


@dataclass(frozen=True, eq=False)
class Frame:
    """One image of a video.

    Attributes:
        video: the file, the address, or the camera's number.
        number: of the frame, from 0.
        image: (H, W, 3) uint8 RGB.
        fps: frames a second, of those that are looked at; 0 where it is not known.
    """

    video: str
    number: int
    image: NDArray[np.uint8]
    fps: float = 0.0

    def __str__(self) -> str:
        return f"{self.video}#{self.number}"

    @property
    def name(self) -> str:
        """As CVAT names the frames of a video, in a folder named as the video is."""
        return f"{video_stem(self.video)}/frame_{self.number:06d}.png"


@dataclass(frozen=True)
class Video:
    """A video that is not opened yet: a file, an address, or a camera's number."""

    source: str

    def __str__(self) -> str:
        return self.source

    @property
    def live(self) -> bool:
        """A camera or a stream, whose frames come as they come, and which may never end."""
        return self.source.isdecimal() or urlsplit(self.source).scheme in STREAM_SCHEMES


ImageSource = Path | Image.Image | NDArray[np.uint8] | Url | Frame
"""One image: a file, a PIL image, (H, W, 3) uint8 RGB, an address, or a frame of a video."""
Source = str | int | ImageSource | Video | Iterable["str | int | ImageSource | Video"]
"""One image, or several: a list of images, a folder, a glob such as 'scans/*.png', a video, or a camera's number."""


def expand(source: Source) -> tuple[list[ImageSource | Video], bool]:
    """The single images and videos of a source, and whether it names several images (anything but one image).

    A folder gives its images by name, subfolders and videos excluded.

    Raises:
        ValueError: if a path does not exist, or there is no image.
    """
    if isinstance(source, Image.Image | np.ndarray | Url | Frame):
        return [source], False
    if isinstance(source, Video):
        return [source], True
    if isinstance(source, int) and not isinstance(source, bool):
        return [Video(str(source))], True
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


def _expand_path(source: str | Path) -> tuple[list[ImageSource | Video], bool]:
    if isinstance(source, str) and "://" in source:
        return _expand_address(source)
    path = Path(source)
    if path.is_file():
        return ([Video(str(path))], True) if path.suffix.lower() in VIDEO_SUFFIXES else ([path], False)
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
        if not files:
            raise ValueError(f"{path}: no image in this folder (looked for {', '.join(sorted(IMAGE_SUFFIXES))})")
        return list(files), True
    if glob.has_magic(str(source)):
        matches = sorted(Path(match) for match in glob.glob(str(source), recursive=True) if Path(match).is_file())
        files = [match for match in matches if match.suffix.lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES]
        if not files:
            raise ValueError(f"{source}: matches no image")
        return [Video(str(file)) if file.suffix.lower() in VIDEO_SUFFIXES else file for file in files], True
    if isinstance(source, str) and source.isdecimal():
        return [Video(source)], True
    raise ValueError(f"{path}: no such file or folder")


def _expand_address(address: str) -> tuple[list[ImageSource | Video], bool]:
    parts = urlsplit(address)
    if parts.scheme in STREAM_SCHEMES:
        return [Video(address)], True
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ValueError(f"{address}: take an address of http, https, {', '.join(sorted(STREAM_SCHEMES))}")
    if PurePosixPath(parts.path).suffix.lower() in VIDEO_SUFFIXES:
        return [Video(address)], True
    return [Url(address)], False


def video_stem(video: str) -> str:
    """A name for what is made of a video: clip of clips/clip.mp4, camera-0 of camera 0."""
    if video.isdecimal():
        return f"camera-{video}"
    path = unquote(urlsplit(video).path) if "://" in video else video
    return PurePosixPath(path).stem or "stream"


def in_chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """So many at once, at most."""
    chunk: list[T] = []
    for item in items:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def read_rgb(source: ImageSource) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB; 16 bits are scaled to 8. A file's EXIF orientation is applied.

    Raises:
        ValueError: if a file cannot be read, or is no readable image, or an array is not (H, W, 3) uint8.
    """
    if isinstance(source, Path | Url):
        try:
            data = source.data if isinstance(source, Url) else source.read_bytes()
            picture, _ = read_image(data, max_pixels=2 * MAX_IMAGE_PIXELS)  # as many as PIL reads at all
        except OSError as error:
            raise ValueError(f"{source}: {error.strerror or error}") from error
        except ValueError as error:
            raise ValueError(f"{source}: {str(error).removeprefix(f'{source}: ')}") from error
        return np.asarray(picture.convert("RGB"))
    if isinstance(source, Image.Image):
        return np.asarray(_as_rgb(source).convert("RGB"))
    if isinstance(source, Frame):
        return source.image
    if source.dtype != np.uint8 or source.ndim != 3 or source.shape[2] != 3 or source.size == 0:
        raise ValueError(f"an image array must be (H, W, 3) uint8 in RGB order, got {source.shape} {source.dtype}")
    return source
