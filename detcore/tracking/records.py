"""What is logged while a training runs, as plain values, and how each kind reaches MLflow."""

import logging
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from detcore.tracking.client import is_refusal, one_line
from detcore.tracking.published import log_published_model

if TYPE_CHECKING:
    from mlflow import MlflowClient

Record = dict[str, Any]
"""`kind`, and with it:

metrics: values {name: float}, step, time_ms.
file: path, folder (below the run's artifacts). The local file is removed when it has arrived.
folder: path, folder. All files in it, which stay.
image: path, key, step, time_ms. As file; MLflow shows it as a series over steps.
model: path of a published folder, name, example (base64 image), step.
reopen: nothing; an ended run goes on.
end: status.
"""

METRICS_PER_REQUEST = 1000
_log = logging.getLogger(__name__)


def deliver_all(client: "MlflowClient", run_id: str, pending: deque[Record]) -> None:
    """Sends the records in their order and takes each from `pending` when it has arrived.

    A record that MLflow will never take is dropped with a warning.

    Raises:
        Exception: whatever MLflow, its artifact store or the network raise when they are out of reach.
    """
    one_by_one = False
    while pending:
        group = [pending[0]] if one_by_one else _next_group(pending)
        try:
            _deliver(client, run_id, group)
        except Exception as error:  # artifact stores raise errors of their own
            if not is_refusal(error):
                raise
            if len(group) > 1:
                one_by_one = True  # one bad value must not take the others with it
                continue
            _log.warning("MLflow does not take a record of kind %r: %s", group[0]["kind"], one_line(error))
        for _ in group:
            pending.popleft()


def _next_group(pending: deque[Record]) -> list[Record]:
    """The records that go in one request: metrics together, up to MLflow's limit, anything else alone."""
    group = [pending[0]]
    num_metrics = len(pending[0].get("values", ()))
    for index in range(1, len(pending)):  # not an iterator: the training appends meanwhile
        record = pending[index]
        num_metrics += len(record.get("values", ()))
        if group[0]["kind"] != "metrics" or record["kind"] != "metrics" or num_metrics > METRICS_PER_REQUEST:
            break
        group.append(record)
    return group


def _deliver(client: "MlflowClient", run_id: str, group: list[Record]) -> None:
    from mlflow.entities import Metric

    first = group[0]
    match first["kind"]:
        case "metrics":
            metrics = [
                Metric(name, value, record["time_ms"], record["step"])
                for record in group
                for name, value in record["values"].items()
            ]
            client.log_batch(run_id, metrics=metrics)
        case "file":
            client.log_artifact(run_id, first["path"], first["folder"])
            Path(first["path"]).unlink()
        case "image":
            with Image.open(first["path"]) as image:
                client.log_image(run_id, image, key=first["key"], step=first["step"], timestamp=first["time_ms"])
            Path(first["path"]).unlink()
        case "model":
            log_published_model(
                client,
                Path(first["path"]),
                name=first["name"],
                experiment_id=client.get_run(run_id).info.experiment_id,
                run_id=run_id,
                example=first["example"],
                step=first["step"],
            )
        case "reopen":
            client.update_run(run_id, status="RUNNING")
        case "end":
            client.set_terminated(run_id, status=first["status"])
        case kind:
            raise ValueError(f"no record has the kind {kind!r}")
