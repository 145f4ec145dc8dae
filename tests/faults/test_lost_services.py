"""What a training writes to is not there for a while."""

import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest
from fault_table import FaultTable
from fault_trial import STEPS, Trial
from faulty_training import Blow, passes, when_asked
from node_cluster import NodeCluster

pytestmark = [pytest.mark.faults, pytest.mark.ray, pytest.mark.timeout(900)]

PORT = 5055


def test_the_shared_folder_is_unreachable_while_saving(
    trial: Trial, table: FaultTable, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file where the folder of checkpoints was, for some seconds."""
    checkpoints, away = trial.folder / "run" / "checkpoints", trial.folder / "away"

    def take_away(address: str) -> None:
        checkpoints.rename(away)
        checkpoints.write_text("")

        def give_back() -> None:
            time.sleep(4)  # it is at once that rank 0 saves, and a new one takes longer to begin
            checkpoints.unlink()
            away.rename(checkpoints)

        threading.Thread(target=give_back, daemon=True).start()

    when_asked(trial.folder, 7, take_away)
    assert trial.train({7: Blow("ask")}).step == STEPS
    said = capsys.readouterr().out
    assert "failure 1 of 1: " in said and "cannot save this checkpoint" in said
    noted = passes(trial.folder)
    fell, back = next((a, b) for a, b in pairwise(noted) if b["step"] <= a["step"])
    fault = "the folder of checkpoints is unreachable while saving"
    lost = int(fell["step"] + 1 - back["step"])
    table.add(fault, "went on, the same weights", steps_lost=lost, seconds=back["time"] - fell["time"])
    assert trial.as_if_nothing_had_happened()
    assert back["step"] == 6
    assert lost in (3, 4, 5)  # what was saved behind the steps fails behind them


def uri_of(nodes: NodeCluster) -> str:
    return f"http://{nodes.address_of(0)}:{PORT}"


@contextmanager
def mlflow_server(nodes: NodeCluster, folder: Path) -> Iterator[None]:
    """On the head."""
    folder.mkdir(exist_ok=True)
    words = ["server", "--host", nodes.address_of(0), "--port", str(PORT), "--workers", "1"]
    words += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder / "files")]
    words += ["--allowed-hosts", "*"]
    environment = {**nodes.environment, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    mlflow = shutil.which("mlflow", path=environment["PATH"])
    assert mlflow is not None
    with (folder / "server.log").open("ab") as log:
        server = subprocess.Popen(
            nodes.inside(0, mlflow, *words), env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 120
        probe = f"import urllib.request as r; r.urlopen('{uri_of(nodes)}/health', timeout=2)"
        while subprocess.run(nodes.inside(0, "python3", "-S", "-c", probe), capture_output=True).returncode:
            assert server.poll() is None, (folder / "server.log").read_text()
            assert time.monotonic() < deadline, "MLflow does not answer"
            time.sleep(0.5)
        yield
    finally:
        for pid in nodes.processes(0):
            if _session(pid) == server.pid:
                subprocess.run(["kill", "-9", str(pid)], check=False)
        server.wait()


def _session(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[3])
    except OSError:
        return 0


def test_mlflow_is_killed_and_comes_back(trial: Trial, table: FaultTable, joined: NodeCluster) -> None:
    trial.changes.update(
        tracking__enabled=True, tracking__uri=uri_of(joined), tracking__system_metrics=False, engine__log_every=1
    )
    folder = trial.folder / "mlflow"
    first = mlflow_server(joined, folder)
    first.__enter__()
    back: list[object] = []

    def kill_and_start(address: str) -> None:
        first.__exit__(None, None, None)

        def start() -> None:
            time.sleep(3)
            second = mlflow_server(joined, folder)
            second.__enter__()
            back.append(second)

        starting.append(threading.Thread(target=start, daemon=True))
        starting[0].start()

    starting: list[threading.Thread] = []
    when_asked(trial.folder, 4, kill_and_start)
    try:
        assert trial.train({4: Blow("ask", rank=0)}).step == STEPS
        starting[0].join()
        from mlflow import MlflowClient

        from detcore.tracking import RunHandle, buffer

        buffer.flush_buffer(trial.config.run_dir)  # what was still undelivered at the end, as the next stage does
        handle = RunHandle.load(trial.config.run_dir)
        assert handle is not None
        steps = [metric.step for metric in MlflowClient(uri_of(joined)).get_metric_history(handle.run_id, "train/loss")]
        assert sorted(steps) == list(range(1, STEPS + 1))
    finally:
        for server in back:
            server.__exit__(None, None, None)  # type: ignore[attr-defined]
    lost = trial.steps_lost()
    table.add("the MLflow server is killed, and comes back", "went on; every point is in MLflow", steps_lost=lost)
    assert lost == 0
