"""The engine's callback that logs to MLflow, on rank 0."""

import json
import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from detcore.config import Config
from detcore.data import ShardedSplit
from detcore.tracking.client import one_line
from detcore.tracking.handle import RunHandle
from detcore.tracking.outbox import Outbox
from detcore.tracking.pictures import Pictured, Pictures
from detcore.tracking.published import example_image
from detcore.tracking.runs import settle
from detcore.tracking.system import SystemSampler

_log = logging.getLogger(__name__)


class Curve(Protocol):
    """Precision over recall; see `detcore.evaluation.PRCurve`."""

    def rows(self) -> list[dict[str, float | str]]: ...


class Start(Protocol):
    """What is asked of the engine's `Start`."""

    @property
    def config(self) -> Config: ...

    @property
    def step(self) -> int: ...

    @property
    def val_split(self) -> ShardedSplit: ...


class Evaluation(Pictured, Protocol):
    """What is asked of `detcore.evaluation.Evaluation`."""

    @property
    def curves(self) -> Mapping[str, Curve]: ...


class Result(Protocol):
    """What is asked of the engine's `FitResult`."""

    @property
    def model_dir(self) -> Path | None: ...

    @property
    def best_step(self) -> int | None: ...


class TrackingCallback:
    """Logs losses, metrics, pictures, curves, the machine's load and the model to a run.

    Training never waits for MLflow, and no failure of tracking leaves this class: it is a warning. A context manager:
    at its end what is queued is delivered, or kept in the run's folder. It can be pickled until the training starts.

    Args:
        handle: the run, from `open_run`.
        save_curve: writes a precision-recall curve as a picture, as `detcore.evaluation.save_pr_curve` does.
    """

    def __init__(self, handle: RunHandle, *, save_curve: Callable[[Any, Path], None]) -> None:
        self._handle = handle
        self._folder = Path(handle.run_dir, "tracking")
        self._save_curve = save_curve
        self._start: Start | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def on_start(self, start: Start) -> None:
        self._start = start
        resumed = start.step > 0
        handle = settle(self._handle, resumed=resumed)
        if handle.run_id is not None:  # else the outbox makes it, and says so
            print(f"MLflow run: {handle.address}", flush=True)
        self._outbox = Outbox(handle)
        if resumed:
            self._outbox.put({"kind": "reopen"})
        tracking = start.config.tracking
        self._pictures = Pictures(start.val_split, count=tracking.num_pictures)
        self._artist = ThreadPoolExecutor(1, thread_name_prefix="detcore-pictures")
        self._sampler = SystemSampler(self._put_metrics) if tracking.system_metrics else None

    def on_log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._put_metrics(step, {f"train/{name}": value for name, value in metrics.items()})

    def on_evaluate(self, step: int, metrics: Mapping[str, float], evaluation: Evaluation) -> None:
        self._put_metrics(step, {f"val/{name.removeprefix('val_')}": value for name, value in metrics.items()})
        self._artist.submit(self._illustrate, step, evaluation)

    def on_end(self, result: Result) -> None:
        """Logs the published model, if the training is complete, and delivers what is queued."""
        assert self._start is not None
        config, split = self._start.config, self._start.val_split
        if result.model_dir is not None and config.tracking.log_model:
            self._outbox.put(
                {
                    "kind": "model",
                    "path": str(Path(result.model_dir).absolute()),
                    "name": config.name,
                    "example": example_image(split.read(0)),
                    "step": result.best_step or 0,
                }
            )
        self.close()

    def close(self) -> None:
        """Delivers what is queued, within some minutes; a second call does nothing."""
        if self._start is None:
            return
        self._start = None
        if self._sampler is not None:
            self._sampler.close()
        self._artist.shutdown()
        self._outbox.close()
        with suppress(OSError):  # it is not there, or holds what is still to be uploaded
            self._folder.rmdir()

    def _put_metrics(self, step: int, values: Mapping[str, float]) -> None:
        record = {"values": {name: float(value) for name, value in values.items()}, "step": step}
        self._outbox.put({"kind": "metrics", "time_ms": int(1000 * time.time()), **record})

    def _illustrate(self, step: int, evaluation: Evaluation) -> None:
        try:
            folder = self._folder
            folder.mkdir(parents=True, exist_ok=True)
            now = int(1000 * time.time())
            for index, picture in enumerate(self._pictures.draw(evaluation)):
                path = folder / f"prediction-{index:02d}-step-{step:08d}.png"
                picture.save(path, compress_level=1)
                key = f"predictions/{index:02d}"
                self._outbox.put({"kind": "image", "path": str(path), "key": key, "step": step, "time_ms": now})
            for name, curve in evaluation.curves.items():
                path = folder / f"{name}-step-{step:08d}.png"
                self._save_curve(curve, path)
                path.with_suffix(".json").write_text(json.dumps(curve.rows()))
                for suffix in (".png", ".json"):
                    file = str(path.with_suffix(suffix))
                    self._outbox.put({"kind": "file", "path": file, "folder": "pr_curves"})
        except Exception as error:  # a full disk or an odd image must not end the training
            _log.warning("no pictures of step %d for MLflow: %s", step, one_line(error))
