"""What was found, drawn: a picture an image, a video a video."""

import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

from detcore.inference.prediction import Prediction
from detcore.inference.sources import Frame, video_stem
from detcore.inference.video import VIDEO_CODECS, VideoWriter

_BEHIND = 16
"""Pictures, which are held in memory with their image."""


class PictureWriter:
    """Draws predictions into files, none on another's: a.jpg and b/a.png give a.jpg and a-2.jpg. A context manager.

    A thread draws and writes, in order, while the model looks at the next images; it lags 16 pictures behind at most.

    Args:
        path: a folder, which is made; or a video file, for the frames of one video.

    Raises:
        ValueError: no video file can be written.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._is_video = path, is_video_file(path)
        self._taken: set[str] = set()
        self._video, self._video_of = None, ""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="detcore-draw")
        self._pending: deque[Future[None]] = deque()
        if not self._is_video:
            if path.is_file():
                raise ValueError(f"{path}: is a file; name a folder for the drawn pictures, or a video file")
            path.mkdir(parents=True, exist_ok=True)
        elif path.is_dir() or not os.access(path.parent, os.W_OK):
            raise ValueError(f"{path}: no file can be written there")

    _video: VideoWriter | None

    def add(self, prediction: Prediction) -> None:
        """Has one drawn.

        Raises:
            ValueError: of this or an earlier one: OpenCV is not installed, or no video can be written.
            OSError: likewise, if a picture cannot be written.
        """
        self._pending.append(self._thread.submit(self._draw, prediction))
        if len(self._pending) > _BEHIND:
            self._pending.popleft().result()

    def close(self) -> None:
        """Waits for what is still to be drawn, and finishes the video. Raises as `add` does."""
        try:
            while self._pending:
                self._pending.popleft().result()
        finally:
            self._thread.shutdown(cancel_futures=True)
            self._finish_video()

    def _draw(self, prediction: Prediction) -> None:
        source = prediction.source
        if isinstance(source, Frame):
            if self._video is None or self._video_of != source.video:
                self._finish_video()
                path = self._path if self._is_video else self._path / self._free(video_stem(source.video), ".mp4")
                self._video, self._video_of = VideoWriter(path, fps=source.fps), source.video
            self._video.add(prediction.draw())
        else:
            stem = Path(prediction.file_name or "image").stem
            prediction.draw().save(self._path / self._free(stem, ".jpg"), quality=92)

    def _finish_video(self) -> None:
        if self._video is not None:
            self._video.close()
            self._video = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _free(self, stem: str, suffix: str) -> str:
        name, number = f"{stem}{suffix}", 2
        while name in self._taken:
            name, number = f"{stem}-{number}{suffix}", number + 1
        self._taken.add(name)
        return name


def is_video_file(path: Path) -> bool:
    """Whether a path is meant as a video file, by its suffix."""
    return path.suffix.lower() in VIDEO_CODECS and not path.is_dir()
