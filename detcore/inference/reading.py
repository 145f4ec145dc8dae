"""Images read by threads, ahead of the model."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detcore.inference.sources import ImageSource, Url, Video, read_rgb
from detcore.inference.video import frames

Read = tuple[ImageSource, NDArray[np.uint8]]
OnUnreadable = Callable[[ImageSource | Video, ValueError], None]
_THREADS = 4


def opened(
    sources: Iterable[ImageSource | Video], on_unreadable: OnUnreadable | None, *, frame_stride: int
) -> Iterator[ImageSource]:
    """The images, with the frames of each video in its place.

    Raises:
        ValueError: a video cannot be opened, and `on_unreadable` is None.
    """
    for source in sources:
        if isinstance(source, Video):
            with closing(frames(source, stride=frame_stride)) as own:
                try:
                    yield from own
                except ValueError as error:
                    if on_unreadable is None:
                        raise
                    on_unreadable(source, error)
        else:
            yield source


def read_ahead(sources: Iterable[ImageSource], on_unreadable: OnUnreadable | None, *, ahead: int) -> Iterator[Read]:
    """Each image with its pixels, in order.

    Args:
        sources: which may be without end.
        on_unreadable: called, in this thread, with what cannot be read, which is then left out; None raises.
        ahead: images that are read before they are asked for.

    Raises:
        ValueError: an image cannot be read.
    """
    waiting: deque[tuple[ImageSource, Callable[[], NDArray[np.uint8]]]] = deque()
    executor = ThreadPoolExecutor(_THREADS, thread_name_prefix="detcore-read")

    def first() -> Iterator[Read]:
        source, pixels = waiting.popleft()
        try:
            yield source, pixels()
        except ValueError as error:
            if on_unreadable is None:
                raise
            on_unreadable(source, error)

    try:
        for source in sources:
            outside = isinstance(source, Path | Url)  # a thread costs more than what is in memory
            waiting.append((source, executor.submit(read_rgb, source).result if outside else partial(read_rgb, source)))
            if len(waiting) > ahead:
                yield from first()
        while waiting:
            yield from first()
    finally:
        executor.shutdown(wait=False, cancel_futures=True)
