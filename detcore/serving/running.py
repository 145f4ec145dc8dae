"""The server in this process, by uvicorn."""

import asyncio
import signal
import socket
from collections.abc import Callable
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

import detcore
from detcore.serving.app import create_app
from detcore.serving.detector import ServedDetector
from detcore.serving.metrics import ServingMetrics
from detcore.serving.settings import ServingSettings

_HEADER_SECONDS = 10.0
_MOST_CONNECTIONS = 1000
_GRACE_SECONDS = 10


def serve_here(settings: ServingSettings, *, host: str, port: int, on_listening: Callable[[str], None]) -> None:
    """Serves until Ctrl-C or SIGTERM; requests that are being answered then have ten seconds.

    Args:
        settings: what is served.
        host, port: where; port 0 takes a free one.
        on_listening: called with the server's address once it answers.

    Raises:
        ValueError: there is no such model.
        OSError: the port is taken.
    """
    metrics = ServingMetrics(replica="0")
    with listening_socket(host, port) as listener:
        predictor = detcore.load(settings.model, device=settings.device)
        detector = ServedDetector(predictor, settings, on_batch=metrics.batch)
        config = uvicorn.Config(
            create_app(detector, settings, metrics),
            http=_Impatient,
            ws="none",
            lifespan="off",
            access_log=False,
            log_level="error",
            server_header=False,
            limit_concurrency=_MOST_CONNECTIONS,
            timeout_graceful_shutdown=_GRACE_SECONDS,
        )
        # Once uvicorn has ended it raises again the signal that it ended for.
        handlers = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            on_listening(address_of(listener))
            uvicorn.Server(config).run(sockets=[listener])
        finally:
            detector.close()
            for number, handler in handlers.items():
                signal.signal(number, handler)


def listening_socket(host: str, port: int) -> socket.socket:
    """A socket at an address of this machine.

    Raises:
        OSError: it is no address of this machine, or taken.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        raise OSError(f"cannot listen at {host}:{port}: {error}; --port takes another") from error


def address_of(listener: socket.socket) -> str:
    """For a browser or curl."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class _Impatient(H11Protocol):
    """Hangs up on who takes too long to say what it wants: uvicorn itself waits for ever."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._deadline = self.loop.call_later(_HEADER_SECONDS, transport.close)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:  # the header is complete
            self._cancel()
        elif self._deadline is None:
            self._deadline = self.loop.call_later(_HEADER_SECONDS, self.transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel()
        super().connection_lost(exc)

    def _cancel(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
