"""Delivery to MLflow in a background thread: training never waits for it, and what cannot be delivered is kept."""

import logging
import threading
import time
from collections import deque

from detcore.tracking import buffer
from detcore.tracking.client import connect, one_line, without_password
from detcore.tracking.handle import RunHandle
from detcore.tracking.opening import finish_opening
from detcore.tracking.records import Record, deliver_all

_log = logging.getLogger(__name__)


class Outbox:
    """A queue of records for one run, emptied by its own thread.

    While MLflow is out of reach the records are kept in the buffer file of the run's folder, and delivery is tried
    again after 1, 2, 4 … `longest_pause` seconds. One warning says that it is out of reach, one that it is back.

    Args:
        handle: the run, settled. Records that its buffer holds from before go first.
        longest_pause: seconds between two attempts, at most.
        rest: seconds after a delivery in which what comes is gathered: a request costs more than what is in it.
    """

    def __init__(self, handle: RunHandle, *, longest_pause: float = 60.0, rest: float = 5.0) -> None:
        self._handle = handle
        self._rest = rest
        self._longest_pause = longest_pause
        self._pending: deque[Record] = deque(buffer.read(handle.run_dir, uri=handle.uri)[1])
        self._num_kept = len(self._pending)
        self._reported = False
        self._lock = threading.Lock()
        self._changed = threading.Event()
        self._closing = threading.Event()
        self._changed.set()
        self._thread = threading.Thread(target=self._run, name="detcore-tracking", daemon=True)
        self._thread.start()

    def put(self, record: Record) -> None:
        """Queues a record. Neither waits nor raises."""
        self._pending.append(record)
        self._changed.set()

    def close(self, *, timeout: float = 300.0) -> bool:
        """Makes a last attempt, of `timeout` seconds at most. What then remains is kept in the buffer.

        Returns:
            Whether all was delivered.
        """
        self._closing.set()
        self._changed.set()
        self._thread.join(timeout)
        if self._pending:
            self._keep(rewrite=True)
        return not self._pending

    def _run(self) -> None:
        pause = 1.0
        while not self._closing.is_set():
            self._changed.wait()
            self._changed.clear()
            if self._attempt():
                pause = 1.0
                self._closing.wait(self._rest)
                continue
            again = time.monotonic() + pause
            while not self._closing.is_set() and (left := again - time.monotonic()) > 0:
                if self._changed.wait(left):
                    self._changed.clear()
                    self._keep()
            pause = min(2 * pause, self._longest_pause)
            self._changed.set()
        self._attempt()

    def _attempt(self) -> bool:
        """Delivers what is queued; False if MLflow is out of reach."""
        before = len(self._pending)
        try:
            if self._pending or self._handle.opening:
                client = connect(self._handle.uri)
                known = self._handle.run_id
                self._handle = finish_opening(client, self._handle.latest())
                if known is None:
                    print(f"MLflow run: {self._handle.address}", flush=True)
                assert self._handle.run_id is not None
                deliver_all(client, self._handle.run_id, self._pending)
        except Exception as error:  # whatever MLflow and its artifact store raise must not end this thread
            if not self._reported:
                buffer.warn_out_of_reach(self._handle, error)
                self._reported = True
            self._keep(rewrite=len(self._pending) != before)
            return False
        if self._num_kept:
            self._keep(rewrite=True)
        if self._reported:
            _log.warning("MLflow at %s is back, and has all that was kept", without_password(self._handle.uri))
            self._reported = False
        return True

    def _keep(self, *, rewrite: bool = False) -> None:
        """Puts what is queued into the buffer file: what is new, or, after a partial delivery, all."""
        with self._lock:
            records = list(self._pending)
            try:
                if rewrite or not self._num_kept:
                    buffer.write(self._handle, records)
                else:
                    buffer.append(self._handle, records[self._num_kept :])
            except OSError as error:
                _log.warning("what MLflow could not take is kept in memory only: %s", one_line(error))
            else:
                self._num_kept = len(records)
