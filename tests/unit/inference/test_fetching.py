"""Images at addresses, served by this machine."""

import io
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image

from detcore.inference.fetching import fetch
from detcore.inference.sources import Url, expand, read_rgb


def png() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.arange(300, dtype=np.uint8).reshape(10, 10, 3)).save(buffer, "PNG")
    return buffer.getvalue()


class Handler(BaseHTTPRequestHandler):
    asked: list[str] = []  # noqa: RUF012

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.path == "/gone.png":
            self.send_error(404)
            return
        if self.path == "/elsewhere":
            self.send_response(302)
            self.send_header("Location", "http://localhost:1/a.png")
            self.end_headers()
            return
        if self.path == "/file":
            self.send_response(302)
            self.send_header("Location", "file:///etc/passwd")
            self.end_headers()
            return
        data = b"<html>" if self.path == "/page" else png()
        self.send_response(200)
        if self.path == "/endless.png":
            self.end_headers()
            for _ in range(100):
                self.wfile.write(bytes(1000))
            return
        self.send_header("Content-Length", str(len(data) + 10 * (self.path == "/cut.png")))
        self.end_headers()
        if self.path == "/slow.png":
            threading.Event().wait(1.0)
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Silent."""


@pytest.fixture
def server() -> Iterator[str]:
    Handler.asked.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_an_address_is_read_once(server: str) -> None:
    (url,), several = expand(f"{server}/some%20scene.png?size=1")
    assert isinstance(url, Url) and not several and url.name == "some scene.png"
    for _ in range(2):
        np.testing.assert_array_equal(read_rgb(url), np.arange(300, dtype=np.uint8).reshape(10, 10, 3))
    assert len(Handler.asked) == 1


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/gone.png", r"^http\S+gone\.png: 404 Not Found$"),
        ("/page", r"^http\S+page: unreadable image: of no known format$"),
        ("/cut.png", r"cut\.png: cut off at \d+ of \d+ bytes$"),
        ("/file", r"/file: redirected to file:///etc/passwd|/file: .*not allowed"),
    ],
)
def test_what_cannot_be_had_is_one_line(server: str, path: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        read_rgb(Url(server + path))
    assert "\n" not in str(error.value)


def test_limits(server: str) -> None:
    for path in ("/a.png", "/endless.png"):
        with pytest.raises(ValueError, match=r"larger than 50 bytes; download it, and give the file"):
            fetch(server + path, most_bytes=50)
    with pytest.raises(ValueError, match="timed out"):
        fetch(f"{server}/slow.png", timeout_seconds=0.2)
    with pytest.raises(ValueError, match="refused"):
        fetch("http://127.0.0.1:9/a.png")


@pytest.mark.parametrize("address", ["ftp://example.org/a.png", "file:///etc/passwd", "http://"])
def test_other_addresses_are_refused(address: str) -> None:
    with pytest.raises(ValueError, match=r"take an address of http, https, rtmp"):
        expand(address)
    with pytest.raises(ValueError, match=r"only http and https are fetched|no host"):
        fetch(address)


def test_only_hosts_that_are_allowed_also_by_redirection(server: str) -> None:
    hosts = frozenset({"127.0.0.1"})
    assert fetch(f"{server}/scene.png", hosts=hosts) == png()
    with pytest.raises(ValueError, match=r"nothing is fetched from localhost, only from 127\.0\.0\.1"):
        fetch(f"{server}/elsewhere", hosts=hosts)
    asked = len(Handler.asked)
    with pytest.raises(ValueError, match=r"nothing is fetched from 127\.0\.0\.1, only from images\.example"):
        fetch(f"{server}/scene.png", hosts=frozenset({"images.example"}))
    assert len(Handler.asked) == asked
