"""A server in a process of its own, and bare sockets to talk to it."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

_STARTING_SECONDS = 300


class Served:
    """A running `detcore serve`.

    Attributes:
        host, port: where it answers.
    """

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self.process, self._log = process, log
        deadline = time.monotonic() + _STARTING_SECONDS
        while not (found := re.search(r"answers at http://([\d.]+):(\d+);", self.said)):
            assert process.poll() is None, self.said
            assert time.monotonic() < deadline, self.said
            time.sleep(0.2)
        self.host, self.port = found[1], int(found[2])

    @property
    def said(self) -> str:
        """All that it has printed."""
        return self._log.read_text()

    def exchange(self, *pieces: bytes, timeout: float = 60.0) -> tuple[int | None, bytes]:
        """Sends bytes; the answer's status and body, or None where the server hangs up without one."""
        received = b""
        with socket.create_connection((self.host, self.port), timeout=timeout) as client, suppress(ConnectionError):
            with suppress(ConnectionError):  # it may answer, and hang up, before all is sent
                for piece in pieces:
                    client.sendall(piece)
            while more := client.recv(1 << 16):
                received += more
        head, _, body = received.partition(b"\r\n\r\n")
        status = re.match(rb"HTTP/1\.\d (\d{3})", head)
        return (int(status[1]) if status else None), body

    def open(self, *pieces: bytes) -> socket.socket:
        """A connection on which something was sent, and no more comes."""
        client = socket.create_connection((self.host, self.port), timeout=60)
        for piece in pieces:
            client.sendall(piece)
        return client

    def memory(self) -> int:
        """Bytes that it and its children have in memory."""
        parent = psutil.Process(self.process.pid)
        total = 0
        for process in (parent, *parent.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                total += process.memory_info().rss
        return total

    def interrupt(self) -> int:
        """Ctrl-C; the exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(120)


@contextmanager
def serving(*arguments: str, folder: Path, repository: Path, **environment: str) -> Iterator[Served]:
    """Runs `detcore serve` with these arguments on a free port."""
    log = folder / "serve.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "detcore.cli", "serve", *arguments, "--port", "0"],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(repository), **environment},
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
        )
    try:
        yield Served(process, log)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.wait(120)


def request(method: str, target: str, body: bytes = b"", **headers: str) -> bytes:
    """An HTTP request; names of headers are written with _ for -."""
    lines = {"Host": "localhost", "Connection": "close"}
    if body or method == "POST":
        lines["Content-Length"] = str(len(body))
    lines |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"{method} {target} HTTP/1.1\r\n{head}\r\n".encode("latin-1") + body
