"""How samples of a store are best read: by range, from whole shards, or as detcore does, by range until they are here.

    python tests/perf/stores.py [--latency-ms 20] [--samples 600] [--kilobytes 150] [--json FILE]

Three shuffled epochs by 4 threads (no decoding) from a web server in a process of its own, which answers each request
after the latency. Each way has an empty cache and a run of its own; the medians of three alternating runs are shown.
"""

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from store_servers import FaultyServer

from detcore.config.stores import Store
from detcore.data import Sample, ShardedSplit, write_split
from detcore.data.stores import cache as machine

THREADS, EPOCHS, BATCH, RUNS = 4, 3, 16, 3
WAYS = ("detcore", "ranges alone", "whole shards")


def write(folder: Path, *, samples: int, kilobytes: int) -> None:
    """Images of noise, of about so many bytes as PNG, 100 a shard."""
    side = max(16, int((kilobytes * 1000 / 3) ** 0.5))
    random = np.random.default_rng(0)
    made = (
        Sample(
            image=random.integers(0, 256, (side, side, 3), dtype=np.uint8),
            boxes_xyxy=np.array([[1.0, 1.0, 9.0, 9.0]]),
            labels=np.array([0]),
        )
        for _ in range(samples)
    )
    write_split(made, folder, split="train", categories=["x"], samples_per_shard=100)


def serve(folder: str, latency_ms: str) -> None:
    with FaultyServer(Path(folder)) as server:
        server.delay_seconds = float(latency_ms) / 1000
        print(server.url, flush=True)
        server.serve_forever()


def run(url: str, way: str) -> list[float]:
    """Seconds until the first batch is here, and of each epoch."""
    store = Store(cache_gb=1e-3 if way == "ranges alone" else 10.0)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        machine.cache_folder = lambda: folder
        split = stack.enter_context(contextlib.closing(ShardedSplit.open(url, "train", store=store)))
        pool = stack.enter_context(ThreadPoolExecutor(THREADS))
        started = time.perf_counter()
        if way != "ranges alone":
            split.prefetch()
        while way == "whole shards" and sum(1 for _ in folder.glob("shards/" + "?" * 64)) < len(split.shards) + 2:
            time.sleep(0.005)
        seconds = []
        for epoch in range(EPOCHS):
            order = np.random.default_rng(epoch).permutation(len(split)).tolist()
            for index, _ in enumerate(pool.map(split.read, order), 1):
                if epoch == 0 and index == BATCH:
                    seconds.append(time.perf_counter() - started)
            seconds.append(time.perf_counter() - started)
        return [seconds[0], *np.diff([0.0, *seconds[1:]]).tolist()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latency-ms", type=float, default=20.0)
    parser.add_argument("--samples", type=int, default=600)
    parser.add_argument("--kilobytes", type=int, default=150)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the table's rows to FILE")
    arguments = parser.parse_args()
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), samples=arguments.samples, kilobytes=arguments.kilobytes)
        command = [sys.executable, __file__, "--serve", folder, str(arguments.latency_ms)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            url = server.stdout.readline().strip()
            found = {way: [] for way in WAYS}
            for _ in range(RUNS):
                for way in WAYS:
                    found[way].append(run(url, way))
            server.terminate()
    medians = {way: [statistics.median(values) for values in zip(*runs, strict=True)] for way, runs in found.items()}
    for index, what in enumerate(("first batch", *(f"epoch {epoch + 1}" for epoch in range(EPOCHS)))):
        for way in WAYS[1:]:
            ours, theirs = medians["detcore"][index], medians[way][index]
            case = f"{what}, against {way}"
            row = {"case": case, "unit": "s", "ours": ours, "theirs": theirs, "ratio": theirs / ours}
            rows.append({**row, "bar": None, "met": None})
    data = np.random.default_rng(0).bytes(arguments.kilobytes * 1000)
    started = time.perf_counter()
    for _ in range(200):
        zlib.crc32(data)
    micro = (time.perf_counter() - started) / 200 * 1e6
    rows.append({"case": "checksum of a sample", "unit": "us", "ours": micro, "theirs": None, "ratio": None})
    print(f"{'case':<36}{'unit':<6}{'ours':>9}{'theirs':>9}{'ratio':>8}")
    for row in rows:
        cells = "".join(f"{'' if row[key] is None else format(row[key], '.3f'):>9}" for key in ("ours", "theirs"))
        print(
            f"{row['case']:<36}{row['unit']:<6}{cells}{'' if row['ratio'] is None else format(row['ratio'], '.2f'):>8}"
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(*sys.argv[2:])
    else:
        main()
