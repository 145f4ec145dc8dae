"""Batches in the making: their rows are read by several threads, none of which waits for another."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future

from detcore.data.batching import Row
from detcore.data.rendering import Rendered

Read = Callable[[], list[Row | None]]


class Making:
    """A batch whose parts were given to threads. The thread that reads the last part makes the batch.

    Attributes:
        num_made: rows that are not empty, once there is a result.
    """

    def __init__(
        self, executor: Executor, parts: Sequence[Read], *, render: Callable[[list[Row | None]], Rendered]
    ) -> None:
        """Submits the parts.

        Args:
            executor: the threads.
            parts: each reads some rows; together, in this order, all.
            render: makes the batch of the rows.
        """
        self.num_made = 0
        self._lock = threading.Lock()
        self._render = render
        self._read: list[list[Row | None]] = [[] for _ in parts]
        self._unread = len(parts)
        self._result: Future[Rendered] = Future()
        self._futures = [executor.submit(self._run, place, part) for place, part in enumerate(parts)]

    def result(self) -> Rendered:
        """Waits for the batch.

        Raises:
            Exception: what the first of the parts to fail, or the rendering, did; asked again, the same.
        """
        return self._result.result()

    def cancel(self) -> None:
        """What was not begun is never done; nobody may wait for the batch any more."""
        for future in self._futures:
            future.cancel()

    def _run(self, place: int, part: Read) -> None:
        try:
            self._read[place] = part()
            with self._lock:
                self._unread -= 1
                last = not self._unread
            if last:
                rows = [row for rows in self._read for row in rows]
                self.num_made = sum(row is not None for row in rows)
                self._read.clear()  # the images go once they are rendered, not only when the batch is taken
                self._result.set_result(self._render(rows))
        except BaseException as error:
            with self._lock:
                if not self._result.done():
                    self._result.set_exception(error)
