"""A predictor that many ask at once."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from detcore.inference import Predictor
from detcore.inference.predictor import MakePrediction
from detcore.inference.seen import class_thresholds
from detcore.serving.answers import JsonQuestion, Question
from detcore.serving.batching import Batcher
from detcore.serving.images import read_pixels
from detcore.serving.refused import Refused
from detcore.serving.settings import ServingSettings

T = TypeVar("T")
_READERS = 4
_ANSWERERS = 2
"""To draw on a large image takes some GB, in so many threads at once."""
_STUCK_AFTER_TIMEOUTS = 4.0


class ServedDetector:
    """Image files in, answers out; images that come at the same time share a batch.

    Threads read images while the model looks at others, in a thread of its own, so that the event loop answers always.
    At most two batches of images are in memory as pixels.

    Args:
        predictor: is asked for a grey image at once: what is built or compiled on first use is then there.
        settings: limits.
        on_batch: told the size of each batch.
    """

    def __init__(
        self, predictor: Predictor, settings: ServingSettings, *, on_batch: Callable[[int], None] = lambda size: None
    ) -> None:
        self.predictor = predictor
        self._settings = settings
        self._room = asyncio.Semaphore(2 * settings.max_batch)
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="detcore-read")
        self._answerers = ThreadPoolExecutor(_ANSWERERS, thread_name_prefix="detcore-answer")
        self._model = ThreadPoolExecutor(1, thread_name_prefix="detcore-model")
        self._began: float | None = None
        self._batcher: Batcher[tuple[NDArray[np.uint8], Tensor], MakePrediction] = Batcher(
            self._work,
            max_size=settings.max_batch,
            max_wait_seconds=settings.max_wait_ms / 1000,
            on_batch=on_batch,
        )
        self._look([(np.full((64, 64, 3), 128, np.uint8), self.thresholds(JsonQuestion()))])

    @property
    def stuck(self) -> bool:
        """Whether a batch takes so long that it will hardly end."""
        limit = _STUCK_AFTER_TIMEOUTS * self._settings.timeout_seconds
        return self._began is not None and time.monotonic() - self._began > limit

    def thresholds(self, question: Question) -> Tensor:
        """What each class's score must reach.

        Raises:
            Refused: no such class.
        """
        try:
            return class_thresholds(
                self.predictor.labels, score_threshold=question.score, classes=question.class_names()
            )
        except ValueError as error:
            raise Refused(422, str(error)) from None

    async def answer(self, data: bytes, question: Question) -> bytes:
        """What is asked of an image file.

        Raises:
            Refused: it cannot be read.
        """
        thresholds = self.thresholds(question)
        async with self._room:
            pixels = await self._in(self._readers, lambda: read_pixels(data, max_pixels=self._settings.max_pixels))
            make = await self._batcher((pixels, thresholds))
            return await self._in(self._answerers, lambda: question.answer(make(masks=question.made_of)))

    def close(self) -> None:
        """Ends its threads; what is being worked on is finished."""
        for pool in (self._readers, self._answerers, self._model):
            pool.shutdown(wait=False, cancel_futures=True)

    async def _in(self, pool: ThreadPoolExecutor, action: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(pool, action)

    async def _work(self, items: list[tuple[NDArray[np.uint8], Tensor]]) -> list[MakePrediction | Exception]:
        return await self._in(self._model, lambda: self._look(items))

    def _look(self, items: list[tuple[NDArray[np.uint8], Tensor]]) -> list[MakePrediction | Exception]:
        """One image that the model fails on must not take the others with it."""
        self._began = time.monotonic()
        try:
            return list(self.predictor.look([(pixels, pixels) for pixels, _ in items], [limit for _, limit in items]))
        except Exception as error:
            if len(items) == 1:
                return [error]
            return [result for item in items for result in self._look([item])]
        finally:
            self._began = None
