"""What was found, drawn: a picture an image, a video a video."""

import os
from pathlib import Path
from types import TracebackType
from typing import Self

from detcore.inference.prediction import Prediction
from detcore.inference.sources import Frame, video_stem
from detcore.inference.video import VIDEO_CODECS, VideoWriter


class PictureWriter:
    """Draws predictions into files, none on another's: a.jpg and b/a.png give a.jpg and a-2.jpg. A context manager.

    Args:
        path: a folder, which is made; or a video file, for the frames of one video.

    Raises:
        ValueError: no video file can be written.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._is_video = path, is_video_file(path)
        self._taken: set[str] = set()
        self._video, self._video_of = None, ""
        if not self._is_video:
            path.mkdir(parents=True, exist_ok=True)
        elif path.is_dir() or not os.access(path.parent, os.W_OK):
            raise ValueError(f"{path}: no file can be written there")

    _video: VideoWriter | None

    def add(self, prediction: Prediction) -> None:
        """Draws one.

        Raises:
            ValueError: OpenCV is not installed, or no video can be written.
        """
        source = prediction.source
        if isinstance(source, Frame):
            if self._video is None or self._video_of != source.video:
                self.close()
                path = self._path if self._is_video else self._path / self._free(video_stem(source.video), ".mp4")
                self._video, self._video_of = VideoWriter(path, fps=source.fps), source.video
            self._video.add(prediction.draw())
        else:
            stem = Path(prediction.file_name or "image").stem
            prediction.draw().save(self._path / self._free(stem, ".jpg"), quality=92)

    def close(self) -> None:
        """Finishes the video that is being written."""
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
