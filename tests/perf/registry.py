"""A registry of 200 models x 20 versions in sqlite: how long a list and a name take.

    python tests/perf/registry.py [--models 200] [--versions 20] [--json FILE]

One version is registered as the register stage does it, with its figures as tags; the others are copies of its rows in
the database, each model with a champion. Seconds are medians of three runs in this process, after one that loads
MLflow; those of a command are of a new process with all its imports. Beside them stands how long the processor worked
for it: on a busy machine the rest is waiting. There is no other program's figure to compare with.
"""

import argparse
import json
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tiny_training import TinyDetector, tiny_config, write_shards

import detcore
from detcore.launch import train
from detcore.tracking import register, resolve
from detcore.tracking.lineage import lineage
from detcore.tracking.listing import list_models, list_versions

RUNS = 3
COPIED = ("model_versions", "model_version_tags")
NAMES = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ar100")
FIGURES = [f"{kind}_{name}" for kind in ("box", "mask") for name in NAMES]


def fill(folder: Path, *, models: int, versions: int) -> str:
    """The database's address. The models are called model-000 and so on."""
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    shards = write_shards(folder / "shards", train=4, val=2)
    config = tiny_config(folder / "run", shards, engine__steps=1, tracking__enabled=False)
    tracking = config.tracking.model_copy(update={"uri": uri, "registered_name": "model-000"})
    config = config.model_copy(update={"tracking": tracking})
    model_dir = train(config, model=TinyDetector()).model_dir
    assert model_dir is not None
    figures = dict.fromkeys(FIGURES, 50.0)
    register(model_dir, config=config, metrics_val=figures, metrics_test=figures)
    with closing(sqlite3.connect(folder / "mlflow.db")) as database, database:
        for index in range(models):
            name = f"model-{index:03d}"
            if index:
                _copy(database, "registered_models", {"name": name})
                _copy(database, "registered_model_tags", {"name": name})
                _copy(database, "registered_model_aliases", {"name": name})
            for version in range(1, versions + 1):
                if (index, version) != (0, 1):
                    for table in COPIED:
                        _copy(database, table, {"name": name, "version": version})
    return uri


def _copy(database: sqlite3.Connection, table: str, changes: dict[str, Any]) -> None:
    """The rows of the first model's first version once more, with other values."""
    columns = [row[1] for row in database.execute(f"pragma table_info({table})")]
    chosen = ", ".join("?" if column in changes else column for column in columns)
    where = "name = 'model-000'" + (" and version = 1" if "version" in changes else "")
    values = [changes[column] for column in columns if column in changes]
    database.execute(f"insert into {table} select {chosen} from {table} where {where}", values)


def seconds_of(call: Callable[[], Any]) -> tuple[float, float]:
    """By the clock, and of the processor, this process's and its children's."""
    taken = []
    for _ in range(RUNS):
        started, worked = time.perf_counter(), _processor()
        call()
        taken.append((time.perf_counter() - started, _processor() - worked))
    clock, processor = zip(*taken, strict=True)
    return statistics.median(clock), statistics.median(processor)


def _processor() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def command(uri: str, *words: str) -> None:
    environment, line = {**os.environ, "MLFLOW_TRACKING_URI": uri}, [sys.executable, "-m", "detcore.cli", *words]
    done = subprocess.run(line, env=environment, capture_output=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.decode())


def measure(uri: str, *, models: int, versions: int) -> list[dict[str, Any]]:
    base = f"model-{models // 2:03d}"
    name = f"{base}@champion"
    assert len(list_models(uri=uri)) == models
    os.environ["MLFLOW_TRACKING_URI"] = uri
    folder = resolve(name, uri=uri)

    def load(model: str | Path) -> None:
        detcore.load(model, device="cpu", model=TinyDetector())

    reading, loading = seconds_of(lambda: load(folder)), seconds_of(lambda: load(name))
    return [
        _row(f"list of {models} models", seconds_of(lambda: list_models(uri=uri)), bar=2.0),
        _row("detcore models --registry, as a command", seconds_of(lambda: command(uri, "models", "--registry"))),
        _row(f"list of one model's {versions} versions", seconds_of(lambda: list_versions([base], uri=uri))),
        _row(f"list of all {models * versions:,} versions", seconds_of(lambda: list_versions(uri=uri))),
        _row("load by alias, without reading", (loading[0] - reading[0], loading[1] - reading[1]), bar=3.0),
        _row("lineage of a version", seconds_of(lambda: lineage(name, uri=uri))),
    ]


def _row(case: str, seconds: tuple[float, float], *, bar: float | None = None) -> dict[str, Any]:
    met = None if bar is None else seconds[0] < bar
    row = {"case": case, "unit": "s", "ours": seconds[0], "theirs": None, "ratio": None, "bar": bar, "met": met}
    return {**row, "processor": seconds[1]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=200)
    parser.add_argument("--versions", type=int, default=20)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the table's rows to FILE")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        uri = fill(Path(folder), models=arguments.models, versions=arguments.versions)
        rows = measure(uri, models=arguments.models, versions=arguments.versions)
    for row in rows:
        bar = "" if row["bar"] is None else f"  bar {row['bar']:.0f} s: {'met' if row['met'] else 'missed'}"
        print(f"{row['case']:<42} {row['ours']:7.2f} s  processor {row['processor']:6.2f} s{bar}")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
