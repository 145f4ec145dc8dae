"""Videos, cameras and streams: their frames in, drawn frames out. By OpenCV, which is optional."""

import os
import warnings
from collections.abc import Generator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from PIL import Image

from detcore.inference.sources import Frame, Video

_FPS = 25.0
"""Of a written video, where the source does not know its own."""
VIDEO_CODECS = {".mp4": "mp4v", ".m4v": "mp4v", ".avi": "MJPG", ".webm": "VP80", ".mkv": "mp4v", ".mov": "mp4v"}
"""What a video file can be written as, by its suffix."""
_WHOLE = 0.95
"""Of the frames that a file says it has; containers count wrongly by a few."""


def opencv() -> Any:
    """The module.

    Raises:
        ValueError: it is not installed.
    """
    # What cannot be opened is told in one line of ours, not in several of FFmpeg's.
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    try:
        import cv2
    except ImportError as error:
        raise ValueError("videos and cameras need OpenCV: pip install 'detcore[video]'") from error
    return cv2


def frames(video: Video, *, stride: int = 1) -> Generator[Frame, None, None]:
    """Every `stride`th frame, from the first on. Warns where a file ends before its end.

    Raises:
        ValueError: OpenCV is not installed, or the video cannot be opened, or has no frame.
    """
    cv2 = opencv()
    capture = cv2.VideoCapture(int(video.source) if video.source.isdecimal() else video.source)
    try:
        if not capture.isOpened():
            what = f"camera {video}" if video.source.isdecimal() else str(video)
            raise ValueError(f"{what}: cannot be opened as a video")
        fps, count = capture.get(cv2.CAP_PROP_FPS), int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        number = 0
        while capture.grab():
            if number % stride == 0:
                decoded, image = capture.retrieve()
                if not decoded:
                    break
                rgb = np.ascontiguousarray(image[..., ::-1])
                yield Frame(str(video), number, rgb, max(0.0, fps) / stride)
            number += 1
        if number == 0:
            raise ValueError(f"{video}: has no frame that can be read")
        if not video.live and number < _WHOLE * count:
            warnings.warn(f"{video}: ended at frame {number} of {count}: is the file whole?", stacklevel=2)
    finally:
        capture.release()


def num_frames(video: Video, *, stride: int = 1) -> int | None:
    """How many frames `frames` gives, as the file says; None where it is not known."""
    if video.live:
        return None
    capture = opencv().VideoCapture(video.source)
    count = int(capture.get(opencv().CAP_PROP_FRAME_COUNT)) if capture.isOpened() else 0
    capture.release()
    return -(-count // stride) if count > 0 else None


class VideoWriter:
    """A video file of pictures of one size; a context manager.

    Args:
        path: .mp4, .mov, .mkv (MPEG-4), .avi (JPEG) or .webm (VP8, which browsers play).
        fps: frames a second; 0 takes 25.

    Raises:
        ValueError: another suffix, OpenCV is not installed, or no file can be written there.
    """

    def __init__(self, path: Path, *, fps: float) -> None:
        if path.suffix.lower() not in VIDEO_CODECS:
            raise ValueError(f"{path}: a video is written as {', '.join(VIDEO_CODECS)}")
        self._path, self._fps, self._cv2 = path, fps or _FPS, opencv()
        self._size: tuple[int, int] | None = None
        self._writer: Any = None

    def add(self, picture: Image.Image) -> None:
        """Appends a frame; one of another size than the first is resized."""
        if self._writer is None:
            self._size = (picture.width // 2 * 2, picture.height // 2 * 2)  # codecs want even sides
            codec = self._cv2.VideoWriter_fourcc(*VIDEO_CODECS[self._path.suffix.lower()])
            self._writer = self._cv2.VideoWriter(str(self._path), codec, self._fps, self._size)
            if not self._writer.isOpened():
                raise ValueError(f"{self._path}: no video can be written there")
        assert self._size is not None
        if picture.size != self._size:
            whole = (self._size[0] + picture.width % 2, self._size[1] + picture.height % 2) == picture.size
            picture = picture.crop((0, 0, *self._size)) if whole else picture.resize(self._size)
        self._writer.write(np.ascontiguousarray(np.asarray(picture)[..., ::-1]))

    def close(self) -> None:
        """Finishes the file."""
        if self._writer is not None:
            self._writer.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
