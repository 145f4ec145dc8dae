"""The driver of a search: which trials are to run, Ray Tune over them, and what was found."""

import json
import logging
import os
import random
import shutil
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from ray import tune as ray_tune
from ray.exceptions import OutOfMemoryError
from torch import nn

from detcore.config import ClusterConfig, Config
from detcore.config.tune import TuneConfig
from detcore.config.variation import BEST, Variations, as_overrides
from detcore.data.description import read_description
from detcore.data.prepared import is_prepared
from detcore.engine.atomic import write_file
from detcore.engine.checkpoint import CheckpointFolder
from detcore.engine.fingerprint import training_config
from detcore.launch.best_settings import write_best
from detcore.launch.delivery import send
from detcore.launch.lock import only_training
from detcore.launch.ray_cluster import driver_cpus, gpus_per_worker, ray_cluster, room_for
from detcore.launch.training import ensure_shards, with_absolute_paths
from detcore.launch.tuning.board import Board, Row, console
from detcore.launch.tuning.leaving import Leaving
from detcore.launch.tuning.plan import OptunaSearch, Planned, build_scheduler, planned_values
from detcore.launch.tuning.record import NUMBER, TrialRecord, best_of, read_trials, trial_folder
from detcore.launch.tuning.results import RESULTS, write_results
from detcore.launch.tuning.trial import Sweep, Trial
from detcore.launch.tuning.watching import Watch, outcome_tags
from detcore.tracking import close_run, open_parent, tag_run
from detcore.tracking.client import tracking_uri

FOLDER = "tune"
"""Of a search, in that of the run."""
_RAY_SETTINGS = {"TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1", "RAY_AIR_NEW_OUTPUT": "0"}
"""Ray Tune neither records nor prints: MLflow and the board do."""
_SEARCH = "search.json"
"""In it, what the search is made of."""


@dataclass(frozen=True, kw_only=True)
class SweepResult:
    """What a search found.

    Attributes:
        folder: of it; `trials/` has a folder for each trial.
        overrides: the best settings; empty if the search was interrupted.
        best_file: the file that has them.
        trial: whose they are.
        metric, value, step: what that reached on val, and when.
        interrupted: the same command goes on.
    """

    folder: Path
    best_file: Path
    overrides: list[str]
    trial: int | None
    metric: str
    value: float | None
    step: int | None
    interrupted: bool


def tune(
    config: Config,
    *,
    overrides: Sequence[str] | None = None,
    params: Path | str | None = None,
    model: nn.Module | None = None,
) -> SweepResult:
    """Searches as `config.tune` says, or goes on with a search that was stopped; trials that have ended stay.

    Prepares the data first where that was not done. What decides is the metric `engine.monitor` on val.

    Args:
        config: the settings that the trials begin from.
        overrides: the words that it was composed of, where it was: a space can choose files of conf/ then.
        params: the composed file that it was read from, if any.
        model: your own detector, as `train` takes it; every trial begins with its weights as they are.

    Raises:
        ValueError: for what the space, the configuration or the data have wrong, or if every trial failed; one line.
        OSError: if something cannot be written.
    """
    if config.tune is None:
        raise ValueError("tune is not set: name a search, such as tune=asha")
    variations = Variations.around(config, overrides=overrides, file=params)
    folder = Path(config.run_dir, FOLDER).absolute()
    with only_training(Path(config.run_dir)):
        _prepare(variations, config.tune)
        _same_search(folder, variations, config.tune)
        parent = config.model_copy(update={"run_dir": str(folder), "name": f"{config.name}-tune"})
        run = None
        if config.tracking.enabled:
            dataset = read_description(config.data.shards, store=config.data.store)
            run = open_parent(parent, dataset=dataset, tags={"tune.metric": config.engine.monitor or "the headline"})
        status: Literal["FINISHED", "FAILED", "KILLED"] = "FAILED"
        try:
            parent_run = None if run is None else run.latest().run_id
            sweep = replace(_sweep(config, variations, folder), parent_run=parent_run, model=model)
            result = _search(config, sweep, parent)
            status = "KILLED" if result.interrupted else "FINISHED"
        except KeyboardInterrupt:
            status = "KILLED"
            raise
        finally:
            if run is not None:
                close_run(run, status)
    return result


def _prepare(variations: Variations, tune: TuneConfig) -> None:
    """All data that trials share, once."""
    for config in variations.bases():
        ensure_shards(config)
    for key, config in variations.each_alone(tune):
        if key.startswith("data.") and not is_prepared(config.data, seed=config.seed):
            raise ValueError(f"tune.space: {key} changes the prepared data, which all trials share: leave it out")


def _same_search(folder: Path, variations: Variations, tune: TuneConfig) -> None:
    """Sets trials of another search aside."""
    made_of = {
        "tune": tune.model_dump(mode="json", exclude={"num_trials", "max_concurrent_trials"}),
        "trainings": [training_config(config) for config in variations.bases()],
    }
    path = folder / _SEARCH
    if path.is_file() and json.loads(path.read_text()) != json.loads(json.dumps(made_of)):
        number = 1
        while (aside := folder.with_name(f"{folder.name}.previous-{number}")).exists():
            number += 1
        folder.rename(aside)
        print(f"searching anew: {folder} is of another search; it is now {aside}", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    write_file(path, json.dumps(made_of, indent=2).encode())


def _sweep(config: Config, variations: Variations, folder: Path) -> Sweep:
    assert config.tune is not None
    composed = {}
    for choices, base in zip(variations.composed, variations.bases(), strict=True):
        base = with_absolute_paths(base)
        tracking = base.tracking.model_copy(update={"uri": tracking_uri(base.tracking)})
        composed[choices] = base.model_copy(update={"tracking": tracking}).model_dump(mode="json")
    return Sweep(
        folder=folder,
        name=config.name,
        variations=Variations(groups=variations.groups, composed=composed),
        scheduler=config.tune.scheduler,
    )


def _search(config: Config, sweep: Sweep, parent: Config) -> SweepResult:
    tune, engine = config.tune, config.engine
    assert tune is not None
    records = read_trials(sweep.folder)
    if tune.search == "random":
        for number in set(range(tune.trials)) - records.keys():
            records[number] = _begin(sweep, number, planned_values(tune, number))
    board = Board(total=max(tune.trials, len(records)), steps=engine.steps, metric=engine.monitored({}))
    board.rows = {number: Row.of(record, engine) for number, record in records.items()}
    if ended := sum(record.ended for record in records.values()):
        print(f"going on with a search: {ended} of {board.total} trials have ended already", flush=True)
    failures = 0
    while ended < board.total:
        try:
            _run_trials(config, sweep, board)
            break
        except RuntimeError as error:
            failures += 1
            if not _survived(error, failures, config.cluster):
                raise
    return _conclude(config, sweep, board, parent)


def _begin(sweep: Sweep, number: int, values: dict[str, Any]) -> TrialRecord:
    return TrialRecord(number=number, folder=trial_folder(sweep.folder, number), values=values).save()


def _run_trials(config: Config, sweep: Sweep, board: Board) -> None:
    tune, engine, cluster = config.tune, config.engine, config.cluster
    assert tune is not None
    machine = max(1, int(len(os.sched_getaffinity(0)) / (cluster.most_workers * cluster.cpus_per_worker)))
    with ray_cluster(cluster, trainings=tune.max_concurrent_trials or machine):
        gpus = gpus_per_worker(cluster, device=engine.device)
        at_once = min(tune.max_concurrent_trials or board.total, room_for(cluster, gpus=gpus))
        taking_turns = tune.scheduler.type == "pbt"
        if taking_turns and cluster.most_workers > 1 and at_once < board.total:
            raise ValueError(
                f"tune.scheduler = pbt with {cluster.most_workers} workers a trial trains all {board.total} at once, "
                f"and the cluster has room for {at_once}: set cluster.num_workers=1, or tune.num_trials={at_once}"
            )
        known = list(read_trials(sweep.folder).values())
        # What failed is tried again.
        left = [replace(record, outcome=None, reason="").save() for record in known if not record.ended]
        scheduler = build_scheduler(tune, engine=engine, before=[record for record in known if record.ended])
        if tune.search == "optuna":
            search: Any = OptunaSearch(tune, known, begin=partial(_begin, sweep), engine=engine)
        else:
            search = Planned(left, at_once=0 if taking_turns else at_once)
        print(f"{board.total} trials, {at_once} at a time: {sweep.folder}", flush=True)
        own = {"CPU": cluster.cpus_per_worker, "GPU": gpus, **cluster.resources_per_worker}
        resources = own if cluster.most_workers == 1 else {"CPU": driver_cpus(cluster)}
        uri = tracking_uri(config.tracking) if config.tracking.enabled else None
        # What Ray keeps is of one process: trials are known by their records.
        shutil.rmtree(sweep.folder / "ray", ignore_errors=True)
        for setting, value in _RAY_SETTINGS.items():
            os.environ.setdefault(setting, value)
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
        warnings.filterwarnings("ignore", "Consider boosting PBT performance", UserWarning)
        random.seed(tune.seed)  # Ray's population-based training draws from it
        with board, Leaving(sweep.folder) as leaving:
            ray_tune.run(
                ray_tune.with_parameters(Trial, sweep=sweep),
                name=time.strftime("%Y%m%d-%H%M%S"),
                config={NUMBER: None, **dict.fromkeys(tune.space)},
                num_samples=len(left) + board.total - len(known),
                search_alg=search,
                scheduler=scheduler,
                resources_per_trial={kind: number for kind, number in resources.items() if number},
                max_concurrent_trials=at_once if tune.search == "optuna" else None,
                max_failures=cluster.max_failures,
                storage_path=str(sweep.folder / "ray"),
                callbacks=[Watch(sweep, board, engine=engine, scheduler=scheduler, leaving=leaving, uri=uri)],
                raise_on_failed_trial=False,
                verbose=0,
            )


def _survived(error: RuntimeError, failures: int, cluster: ClusterConfig) -> bool:
    """Whether to go on after Ray Tune has given up: it does where a node's memory was short and Ray ended a trial."""
    if not isinstance(error.__cause__, OutOfMemoryError):
        return False
    allowed = "" if cluster.max_failures < 0 else f" of {cluster.max_failures}"
    print(f"failure {failures}{allowed}: a node was short of memory, and trials on it were ended", flush=True)
    return cluster.max_failures < 0 or failures <= cluster.max_failures


def _conclude(config: Config, sweep: Sweep, board: Board, parent: Config) -> SweepResult:
    assert config.tune is not None
    engine, uri = config.engine, tracking_uri(config.tracking)
    records = read_trials(sweep.folder)
    board.rows = {number: Row.of(record, engine) for number, record in records.items()}
    interrupted = len(records) < board.total or any(record.outcome is None for record in records.values())
    good = [(record, best) for record in records.values() if record.ended and (best := best_of(record.scores(engine)))]
    if not good and not interrupted:
        reasons = {record.reason for record in records.values()}
        raise ValueError(f"every trial failed: {'; '.join(sorted(reasons))} ({sweep.folder}/trials/*/log.txt)")
    console().print(board.table())
    best_file = Path(config.run_dir, BEST)
    nothing = SweepResult(
        folder=sweep.folder, best_file=best_file, overrides=[], trial=None, metric=board.metric, value=None, step=None,
        interrupted=True,
    )  # fmt: skip
    if interrupted:
        return nothing
    record, (step, value) = max(good, key=lambda each: (each[1][1], -each[0].number))
    overrides = as_overrides(record.current)
    told = f"trial {record.number} of {len(records)}: {board.metric} {value:.2f} on val at step {step}"
    write_best(best_file, overrides, why=f"Found by a search, {told}.")
    write_results(config, sweep.folder, board, best=best_file)
    for each in records.values():
        # What was kept only for other trials to take up.
        CheckpointFolder(each.folder / "checkpoints", keep=engine.keep_checkpoints, say=print).prune()
    if config.tracking.enabled:
        for each in records.values():
            tag_run(each.folder, outcome_tags(sweep, each), uri=uri)
        send(
            parent, sweep.folder / RESULTS, artifact=FOLDER, metrics={f"best/{board.metric}": value}, step=len(records)
        )
    return SweepResult(
        folder=sweep.folder, best_file=best_file, overrides=overrides, trial=record.number, metric=board.metric,
        value=value, step=step, interrupted=False,
    )  # fmt: skip
