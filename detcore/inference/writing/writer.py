"""What the writers of all formats have in common."""

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from detcore.inference.prediction import Prediction


class Writer(ABC):
    """Takes predictions one by one; what it has when it is closed is written, also where an error ends the run.

    Args:
        folder, categories, keypoint_names, skeleton, root: as of `writer_of`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        categories: Sequence[str],
        keypoint_names: Sequence[str],
        skeleton: Sequence[tuple[int, int]],
        root: Path | None,
    ) -> None:
        self.folder = folder
        self.categories, self.keypoint_names, self.skeleton = tuple(categories), tuple(keypoint_names), tuple(skeleton)
        self._root = root
        self._taken: set[str] = set()
        if folder.is_file():
            raise ValueError(f"{folder}: is a file; name a folder for what is written")
        folder.mkdir(parents=True, exist_ok=True)

    @abstractmethod
    def add(self, prediction: Prediction) -> None:
        """Takes what was found in one image.

        Raises:
            ValueError: the format cannot tell that image from one before.
        """

    @abstractmethod
    def close(self) -> None:
        """Writes what is not written yet."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def image_name(self, prediction: Prediction) -> str:
        """The file name of an image, relative to the root; of one that is no file, made up.

        Raises:
            ValueError: two images of one name.
        """
        source = prediction.source
        if not isinstance(source, Path):
            name = prediction.file_name or f"image_{len(self._taken) + 1:06d}.png"
        elif self._root is None:
            name = source.name
        else:
            name = Path(os.path.relpath(source, self._root)).as_posix()
        if name in self._taken:
            raise ValueError(
                f"{source}: the second image that is named {name}; write each of them to a folder of its own"
            )
        self._taken.add(name)
        return name


def common_folder(sources: Iterable[object]) -> Path | None:
    """The deepest folder that all files among the sources lie in; None where there is no file."""
    folders = {os.path.abspath(source.parent) for source in sources if isinstance(source, Path)}
    return Path(os.path.commonpath(folders)) if folders else None


def seen_keypoints(prediction: Prediction, index: int) -> list[tuple[float, float, int]]:
    """x, y in pixels and visibility of an object's keypoints: 2, and 0 where their score is not above 0."""
    assert prediction.keypoints is not None
    return [(x, y, 2) if score > 0 else (0.0, 0.0, 0) for x, y, score in prediction.keypoints[index].tolist()]
