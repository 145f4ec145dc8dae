"""Delivery when MLflow is there, away, back, and when it refuses. 'Away' is a closed port or a connect that fails."""

import json
import logging
import time
from pathlib import Path
from typing import Any

import pytest
from tracking_samples import MakeConfig, lines_of

from detcore.tracking import RunHandle, close_run, flush_buffer, open_run
from detcore.tracking import buffer as buffer_module
from detcore.tracking import outbox as outbox_module
from detcore.tracking.__main__ import main
from detcore.tracking.client import connect
from detcore.tracking.outbox import Outbox


def metrics(step: int, **values: float) -> dict[str, Any]:
    return {"kind": "metrics", "values": values, "step": step, "time_ms": 1_700_000_000_000 + step}


def history(store: str, run_id: str | None, key: str) -> list[tuple[int, float]]:
    assert run_id is not None
    return [(metric.step, metric.value) for metric in connect(store).get_metric_history(run_id, key)]


@pytest.fixture
def buffer_file(tmp_path: Path) -> Path:
    return tmp_path / "run" / "tracking-buffer.jsonl"


@pytest.fixture
def mlflow_away(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Undo it, and MLflow is back."""

    def fail(uri: str) -> None:
        raise ConnectionError("nobody there")

    monkeypatch.setattr(outbox_module, "connect", fail)
    monkeypatch.setattr(buffer_module, "connect", fail)
    return monkeypatch


def test_records_arrive_in_order_and_leave_no_file(
    make_config: MakeConfig, dataset: dict[str, Any], store: str, buffer_file: Path
) -> None:
    handle = open_run(make_config(), dataset=dataset)
    outbox = Outbox(handle)
    for step in range(1, 4):
        outbox.put(metrics(step, loss=1.0 / step))
    assert outbox.close()
    assert history(store, handle.run_id, "loss") == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    assert not buffer_file.exists()


def test_a_server_that_never_answers_costs_a_warning_and_loses_nothing(
    make_config: MakeConfig,
    dataset: dict[str, Any],
    store: str,
    closed_port: str,
    buffer_file: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    handle = open_run(make_config(uri=closed_port), dataset=dataset)
    assert handle.run_id is None
    outbox = Outbox(handle)
    for step in range(1, 4):
        outbox.put(metrics(step, loss=1.0 / step))
    assert not outbox.close()
    close_run(handle, "FINISHED")
    header, *records = lines_of(buffer_file)
    assert header["opening"]["params"]["optim.lr"] == "0.01"
    assert [record["kind"] for record in records] == ["metrics", "metrics", "metrics", "end"]
    warnings = [record.getMessage() for record in caplog.records]
    assert len([line for line in warnings if "out of reach" in line]) == 2, (
        "the driver's and rank 0's process, once each"
    )
    assert f"python -m detcore.tracking {handle.run_dir}" in warnings[-1]

    # The same run at a store that answers: what the last line says to type uploads all of it.
    buffer_file.write_text(buffer_file.read_text().replace(closed_port, store))
    tracking_file = buffer_file.with_name("tracking.json")
    tracking_file.write_text(tracking_file.read_text().replace(closed_port, store))
    monkeypatch.setattr("sys.argv", ["detcore.tracking", handle.run_dir])
    assert main() == 0
    assert "4 records delivered" in capsys.readouterr().out
    delivered = RunHandle.load(handle.run_dir)
    assert delivered is not None
    assert history(store, delivered.run_id, "loss") == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    run = connect(store).get_run(str(delivered.run_id))
    assert run.info.status == "FINISHED"
    assert run.data.params["optim.lr"] == "0.01"
    assert not buffer_file.exists()
    assert flush_buffer(handle.run_dir) == 0


def test_uploading_while_mlflow_is_away_says_so_and_keeps_the_file(
    make_config: MakeConfig,
    dataset: dict[str, Any],
    closed_port: str,
    buffer_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    handle = open_run(make_config(uri=closed_port), dataset=dataset)
    close_run(handle, "FAILED")
    before = buffer_file.read_text()
    monkeypatch.setattr("sys.argv", ["detcore.tracking", handle.run_dir])
    assert main() == 1
    assert "nothing is lost" in capsys.readouterr().err
    assert buffer_file.read_text() == before


def test_when_mlflow_comes_back_during_training_all_arrives(
    make_config: MakeConfig,
    dataset: dict[str, Any],
    store: str,
    buffer_file: Path,
    mlflow_away: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    handle = open_run(make_config(), dataset=dataset)
    outbox = Outbox(handle, longest_pause=0.05, rest=0.05)
    outbox.put(metrics(1, loss=3.0))
    wait_for(buffer_file.exists)
    outbox.put(metrics(2, loss=2.0))
    mlflow_away.undo()
    wait_for(lambda: not buffer_file.exists())
    outbox.put(metrics(3, loss=1.0))
    assert outbox.close()
    assert history(store, handle.run_id, "loss") == [(1, 3.0), (2, 2.0), (3, 1.0)]
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len([line for line in said if "out of reach" in line]) == 1
    assert len([line for line in said if "is back, and" in line]) == 1


def test_what_a_killed_process_left_is_delivered_by_the_next(
    make_config: MakeConfig, dataset: dict[str, Any], store: str, buffer_file: Path
) -> None:
    handle = open_run(make_config(), dataset=dataset)
    half_a_line = '{"kind": "metrics", "values": {"lo'
    lines = [json.dumps(handle.to_dict()), json.dumps(metrics(1, loss=3.0)), half_a_line]
    buffer_file.write_text("\n".join(lines))
    outbox = Outbox(handle)
    outbox.put(metrics(2, loss=2.0))
    assert outbox.close()
    assert history(store, handle.run_id, "loss") == [(1, 3.0), (2, 2.0)]
    assert not buffer_file.exists()


def test_a_new_training_sets_the_old_ones_leftovers_aside(
    make_config: MakeConfig, dataset: dict[str, Any], closed_port: str, buffer_file: Path
) -> None:
    config = make_config(uri=closed_port)
    old = open_run(config, dataset=dataset)
    close_run(old, "FAILED")
    buffer_file.with_name("tracking.json").unlink()  # as if the folder had been used with another store
    open_run(config, dataset=dataset)
    assert not buffer_file.exists()
    assert len(list(buffer_file.parent.glob("tracking-buffer-*.jsonl"))) == 1


def test_one_bad_record_does_not_take_the_others_with_it(
    make_config: MakeConfig, dataset: dict[str, Any], store: str, caplog: pytest.LogCaptureFixture
) -> None:
    handle = open_run(make_config(), dataset=dataset)
    outbox = Outbox(handle)
    outbox.put(metrics(1, loss=3.0))
    outbox.put(metrics(1, **{"not,a,name": 1.0}))
    outbox.put({"kind": "file", "path": "/gone", "folder": "any"})
    outbox.put(metrics(2, loss=2.0))
    assert outbox.close()
    assert history(store, handle.run_id, "loss") == [(1, 3.0), (2, 2.0)]
    refused = [record.getMessage() for record in caplog.records if "does not take" in record.getMessage()]
    assert len(refused) == 2
    assert "not,a,name" in refused[0]


def test_a_full_disk_does_not_end_the_thread(
    make_config: MakeConfig,
    dataset: dict[str, Any],
    store: str,
    mlflow_away: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    handle = open_run(make_config(), dataset=dataset)

    def no_space(*_: object) -> None:
        raise OSError(28, "No space left on device")

    mlflow_away.setattr(buffer_module, "write", no_space)
    outbox = Outbox(handle, longest_pause=0.05, rest=0.05)
    outbox.put(metrics(1, loss=3.0))
    wait_for(lambda: any("No space left" in record.getMessage() for record in caplog.records))
    mlflow_away.undo()
    assert outbox.close()
    assert history(store, handle.run_id, "loss") == [(1, 3.0)]


def wait_for(condition: Any, *, seconds: float = 20.0) -> None:

    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)
