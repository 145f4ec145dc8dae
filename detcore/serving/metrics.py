"""Counts and times of a server, as Prometheus reads them."""

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
_IMAGES = (1, 2, 4, 8, 16, 32, 64)


class ServingMetrics:
    """What one replica has done.

    Args:
        replica: a label of all series, so that several replicas behind one address are told apart.
    """

    def __init__(self, *, replica: str) -> None:
        self._registry = own = CollectorRegistry()
        requests = Counter("detcore_requests", "answered, by status", ["replica", "path", "status"], registry=own)
        seconds = Histogram(
            "detcore_request_seconds", "from the first byte to the answer", ["replica"], buckets=_SECONDS, registry=own
        )
        batches = Histogram(
            "detcore_batch_images", "images looked at together", ["replica"], buckets=_IMAGES, registry=own
        )
        waiting = Gauge("detcore_requests_now", "worked on or waiting", ["replica"], registry=own)
        self._replica = replica
        self._requests = requests
        self._seconds = seconds.labels(replica)
        self._batches = batches.labels(replica)
        self._now = waiting.labels(replica)

    def batch(self, size: int) -> None:
        """A batch of so many images begins."""
        self._batches.observe(size)

    def now(self, count: int) -> None:
        """So many requests are worked on or wait."""
        self._now.set(count)

    def answered(self, path: str, status: int, seconds: float) -> None:
        """A request is done with; `path` is one of the server's own, so that strangers cannot make series."""
        self._requests.labels(self._replica, path, str(status)).inc()
        self._seconds.observe(seconds)

    def text(self) -> bytes:
        """All of it."""
        return generate_latest(self._registry)
