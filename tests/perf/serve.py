"""A served model beside the bare predictor: images a second, and how long a client waits.

    python tests/perf/serve.py MODEL FOLDER [--images 200] [--clients 1,4,16] [--ray] [--replicas 1] [--json FILE]

MODEL is a published model, FOLDER holds photographs; fewer than --images are sent again from the front. Clients are
threads of this process that send a file, wait for its JSON and send the next, each on a connection of its own. The bare
predictor looks at the same files in batches of 8, in this process, while the server has nothing to do. They take turns,
round by round; rates are medians of rounds, waiting times those of all requests. The machine's cores are shared: what a
server and its clients spend besides the model, in HTTP, JSON and run lengths, is what the ratio lacks to 1.

--batches 1,8 runs a server for each --max-batch, to see what batching gives.
"""

import argparse
import http.client
import json
import statistics
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from detcore.inference import Predictor, load_folder
from detcore.inference.sources import expand

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from served_model import Served, serving  # tests are no package

BAR = 0.9
_ROUNDS = 3
_BATCH = 8


class Client(threading.Thread):
    """Sends its share of the files, one after the other."""

    def __init__(self, served: Served, files: list[bytes], query: str) -> None:
        super().__init__()
        self._files, self._query = files, query
        self._connection = http.client.HTTPConnection(served.host, served.port, timeout=120)
        self.seconds: list[float] = []

    def run(self) -> None:
        for data in self._files:
            began = time.perf_counter()
            self._connection.request("POST", f"/predict{self._query}", data, {"Content-Type": "image/jpeg"})
            answer = self._connection.getresponse()
            body = answer.read()
            if answer.status != 200:
                raise RuntimeError(f"{answer.status}: {body[:200]!r}")
            self.seconds.append(time.perf_counter() - began)
        self._connection.close()


def load(served: Served, files: list[bytes], clients: int, query: str) -> tuple[float, list[float]]:
    """Images a second, and each request's seconds."""
    threads = [Client(served, files[first::clients], query) for first in range(clients)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    spent = [seconds for thread in threads for seconds in thread.seconds]
    if len(spent) != len(files):
        raise RuntimeError(f"{len(files) - len(spent)} requests were not answered")
    return len(files) / (time.perf_counter() - began), spent


def bare(predictor: Predictor, paths: list[Path]) -> float:
    """Images a second of the predictor alone."""
    began = time.perf_counter()
    for _ in predictor.stream(paths, batch_size=_BATCH):
        pass
    return len(paths) / (time.perf_counter() - began)


def mean_batch(served: Served) -> tuple[float, float]:
    """Images and batches so far."""
    _, body = served.exchange(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    lines = (line.rsplit(" ", 1) for line in body.decode().splitlines() if line.startswith("detcore_batch_images_"))
    values = {name: float(value) for name, value in lines}
    total = {name: sum(value for key, value in values.items() if f"_{name}{{" in key) for name in ("sum", "count")}
    return total["sum"], total["count"]


def measure(options: argparse.Namespace, paths: list[Path]) -> list[dict[str, Any]]:
    """A row for each server and number of clients."""
    predictor, files = load_folder(options.model, device="cpu"), [path.read_bytes() for path in paths]
    rows = []
    mode = [f"--replicas={options.replicas}"] if options.ray else ["--local"]
    repository = Path(__file__).resolve().parents[2]
    for batch in options.batches:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            arguments = [str(options.model.absolute()), *mode, f"--max-batch={batch}"]
            served = stack.enter_context(serving(*arguments, folder=folder, repository=repository))
            load(served, files[:16], 4, options.query)
            bare(predictor, paths[:16])
            for clients in options.clients:
                before = mean_batch(served)
                rates, alone, spent = [], [], []
                for _ in range(_ROUNDS):
                    alone.append(bare(predictor, paths))
                    rate, seconds = load(served, files, clients, options.query)
                    rates.append(rate)
                    spent += seconds
                after = mean_batch(served)
                ours, theirs = statistics.median(rates), statistics.median(alone)
                full = clients >= batch == _BATCH
                rows.append(
                    {
                        "case": f"{'ray' if options.ray else 'local'}, max batch {batch}, {clients} clients",
                        "unit": "images/s",
                        "ours": ours,
                        "theirs": theirs,
                        "ratio": ours / theirs,
                        "bar": BAR if full else None,
                        "met": ours / theirs >= BAR if full else None,
                        "p50_ms": 1000 * float(np.percentile(spent, 50)),
                        "p99_ms": 1000 * float(np.percentile(spent, 99)),
                        "mean_batch": (after[0] - before[0]) / max(1.0, after[1] - before[1]),
                    }
                )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    numbers = lambda text: [int(word) for word in text.split(",")]  # noqa: E731
    parser.add_argument("model", type=Path)
    parser.add_argument("folder")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--clients", type=numbers, default=[1, 4, 16])
    parser.add_argument("--batches", type=numbers, default=[1, _BATCH])
    parser.add_argument("--query", default="", help="such as ?masks=none")
    parser.add_argument("--ray", action="store_true")
    parser.add_argument("--replicas", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    files: list[Any] = expand(options.folder)[0]
    rows = measure(options, (files * -(-options.images // len(files)))[: options.images])
    print(f"{'case':32} {'served':>8} {'bare':>8} {'ratio':>6} {'bar':>4} {'p50 ms':>8} {'p99 ms':>8} {'batch':>6}")
    for row in rows:
        print(
            f"{row['case']:32} {row['ours']:8.1f} {row['theirs']:8.1f} {row['ratio']:6.2f} {row['bar'] or '':>4} "
            f"{row['p50_ms']:8.1f} {row['p99_ms']:8.1f} {row['mean_batch']:6.2f}"
        )
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
