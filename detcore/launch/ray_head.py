"""Whether the head of the cluster still answers, asked from the driver.

Ray itself says nothing of a head that is gone, and ends this process and the nodes, without a word that a user could
understand, once it has tried to reach it for RAY_gcs_rpc_server_reconnect_timeout_s. Until then the workers go on.
"""

import os
import socket
import threading
import time
from types import TracebackType
from typing import Self

import ray

_INTERVAL_SECONDS = 2.0
_PROBE_SECONDS = 5.0
_RECONNECT = "RAY_gcs_rpc_server_reconnect_timeout_s"  # Ray's own spelling
RECONNECT_SECONDS = float(os.environ.get(_RECONNECT, "60"))
"""How long Ray tries."""


class HeadWatch:
    """A context in which a thread connects to the head every two seconds."""

    def __init__(self) -> None:
        # A client's server is not watched: it has no such address, and ends the connection itself.
        by_client = ray.util.client.ray.is_connected()  # type: ignore[no-untyped-call]
        self.address = "" if by_client else ray.get_runtime_context().gcs_address
        self._silent = 0.0
        self._ended = threading.Event()

    def __enter__(self) -> Self:
        if self.address:
            threading.Thread(target=self._ask, name="detcore-head", daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._ended.set()

    def silent_for(self) -> float:
        """Seconds in which the head did not answer when it was asked: not those in which this process was suspended."""
        return self._silent

    def _ask(self) -> None:
        host, _, port = self.address.rpartition(":")
        while not self._ended.wait(_INTERVAL_SECONDS):
            begun = time.monotonic()
            try:
                socket.create_connection((host.strip("[]"), int(port)), timeout=_PROBE_SECONDS).close()
            except OSError:
                self._silent += _INTERVAL_SECONDS + min(time.monotonic() - begun, _PROBE_SECONDS)
            else:
                self._silent = 0.0
