"""Stores on the loopback: a real S3 server (moto's, over HTTP), and a web server that can be out of order."""

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

BUCKET = "team"


@contextmanager
def s3_server(patch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket, its URL, and the environment that leads there. The server ends with the context."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    patch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
    patch.setenv("AWS_SECRET_ACCESS_KEY", "very-secret-indeed")
    patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    boto3.client("s3").create_bucket(Bucket=BUCKET)
    try:
        yield f"s3://{BUCKET}"
    finally:
        server.stop()


class FaultyServer(ThreadingHTTPServer):
    """Serves a folder with ranges.

    Attributes:
        requests: path and range of each.
        statuses: answers to the next requests instead of the file.
        cut: how many of the next answers end in the middle.
        delay_seconds: before each answer.
        ranges: False answers a range with the whole file.
    """

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.requests: list[tuple[str, str | None]] = []
        self.statuses: list[int] = []
        self.cut = 0
        self.delay_seconds = 0.0
        self.ranges = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_: object) -> None:
        """A client that hung up is what some tests want."""


class _Handler(BaseHTTPRequestHandler):
    server: FaultyServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        server, wanted = self.server, self.headers.get("Range")
        server.requests.append((self.path, wanted))
        time.sleep(server.delay_seconds)
        path = server.folder / self.path.removeprefix("/")
        if server.statuses:
            return self.answer(server.statuses.pop(0), b"", "")
        if not path.is_file():
            return self.answer(404, b"", "")
        data = path.read_bytes()
        span = re.fullmatch(r"bytes=(\d+)-(\d+)", wanted or "")
        if span is None or not server.ranges:
            return self.answer(200, data, "")
        first, last = int(span[1]), min(int(span[2]), len(data) - 1)
        if first >= len(data):
            return self.answer(416, b"", f"bytes */{len(data)}")
        return self.answer(206, data[first : last + 1], f"bytes {first}-{last}/{len(data)}")

    def answer(self, status: int, data: bytes, content_range: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        if content_range:
            self.send_header("Content-Range", content_range)
        self.end_headers()
        if data and self.server.cut:
            self.server.cut -= 1
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True
        else:
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def web_server(folder: Path) -> Iterator[FaultyServer]:
    """Serves `folder` until the context ends."""
    with FaultyServer(folder) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
