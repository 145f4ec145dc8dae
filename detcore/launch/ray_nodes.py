"""What a training on a cluster reads and writes must be where all its nodes have it: asked before anything else begins.

Ray by itself starts the workers first, on whatever nodes, and each then finds that something is not there.
"""

import ipaddress
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from detcore.config import Config
from detcore.config.stores import is_url
from detcore.launch.kept import SERVER
from detcore.launch.ray_cluster import gpus_per_worker
from detcore.tracking.client import sqlite_path, tracking_uri, without_password

DESCRIPTION = "dataset.json"
_PATIENCE_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class Needed:
    """A file that a node must have, and what to say of one that has not: "node N " and `lack`.

    Attributes:
        content: what must be in it; None is satisfied with any.
    """

    path: Path
    lack: str
    content: bytes | None = None


def check_places(config: Config) -> None:
    """Asks the nodes of the connected cluster for the folders of a training, and looks where its records would go.

    Nodes that come later are for `ray_worker.check_shared`, which each worker asks first.

    Raises:
        ValueError: something is not where a worker may be; with the remedy.
    """
    nodes = _other_nodes(config)
    if not nodes:
        return
    _check_tracking(config, nodes=len(nodes))
    run_dir, shards = Path(config.run_dir).absolute(), Path(config.data.shards).absolute()
    with ExitStack() as marks:
        needed = [Needed(path=marks.enter_context(_mark(run_dir)), lack=no_run_dir(config))]
        if not is_url(config.data.shards):
            if (shards / DESCRIPTION).is_file():
                content = (shards / DESCRIPTION).read_bytes()
                needed.append(Needed(path=shards / DESCRIPTION, lack=no_shards(config), content=content))
            else:  # they are to be prepared
                there = next(folder for folder in shards.parents if folder.is_dir())
                needed.append(Needed(path=marks.enter_context(_mark(there)), lack=no_shards(config)))
        _ask(nodes, needed)


def check_files(config: Config) -> None:
    """Asks the nodes of the connected cluster for the single files that the configuration names.

    Args:
        config: with absolute paths.

    Raises:
        ValueError: a node that may get a worker does not have one.
    """
    named = {
        "model.weights": getattr(config.model, "weights", None),
        "model.backbone.weights": getattr(getattr(config.model, "backbone", None), "weights", None),
        "data.sampling.file": getattr(config.data.sampling, "file", None),
        "data.train_subset.file": getattr(config.data.train_subset, "file", None),
        "engine.evaluation.hierarchy": config.engine.evaluation.hierarchy,
    }
    files = [
        Needed(path=Path(path), lack=f"does not have {setting} {path}: put it on a file system that all nodes mount")
        for setting, path in named.items()
        if path is not None and Path(path).is_file()
    ]
    if files and (nodes := _other_nodes(config)):
        _ask(nodes, files)


def no_run_dir(config: Config) -> str:
    """Of a node that has another folder by its name."""
    return (
        f"does not share run_dir {config.run_dir} with the driver: checkpoints would be lost with the node; set "
        "run_dir to a folder of a file system that all nodes mount"
    )


def no_shards(config: Config) -> str:
    """Of a node that does not have them."""
    return (
        f"does not have data.shards {config.data.shards}: put them on a file system that all nodes mount, or into a "
        "store: data.shards=s3://BUCKET/NAME"
    )


def _check_tracking(config: Config, *, nodes: int) -> None:
    if not config.tracking.enabled:
        return
    uri = tracking_uri(config.tracking)
    others = f"and workers may be on {nodes} other{'s' if nodes > 1 else ''}"
    if sqlite_path(uri) is not None:
        raise ValueError(f"MLflow's database {uri} is of this node alone, {others}: {SERVER}")
    if _is_loopback(urlsplit(uri).hostname):
        raise ValueError(
            f"MLflow at {without_password(uri)} answers this node alone, {others}: use its name or address in the "
            "network that the nodes share"
        )


def _is_loopback(host: str | None) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


def _other_nodes(config: Config) -> dict[str, str]:
    """Nodes besides this one that a worker may be on: name and address by id."""
    cluster = config.cluster
    gpus = gpus_per_worker(cluster, device=config.engine.device)
    asked = {"CPU": cluster.cpus_per_worker, "GPU": gpus, **cluster.resources_per_worker}
    here = ray.get_runtime_context().get_node_id()  # type: ignore[no-untyped-call]
    return {
        node["NodeID"]: f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
        for node in ray.nodes()  # type: ignore[no-untyped-call]
        if node["Alive"] and node["NodeID"] != here and _has(node["Resources"], asked)
    }


def _has(resources: Mapping[str, float], asked: Mapping[str, float]) -> bool:
    return all(resources.get(kind, 0.0) >= number for kind, number in asked.items())


@contextmanager
def _mark(folder: Path) -> Iterator[Path]:
    """A file in it for as long as the context lasts."""
    path = folder / f".shared-{uuid.uuid4().hex}"
    with suppress(OSError):  # then nobody has it, and that is said
        path.touch()
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def _ask(nodes: Mapping[str, str], needed: list[Needed]) -> None:
    """Raises for what a node does not have. One that does not answer is left to its workers, should it get any."""

    # Within this function, so that it is sent as it is, and the node need not import what this module does.
    def missing(files: list[tuple[str, bytes | None]]) -> list[int]:
        from pathlib import Path

        def has(path: Path, content: bytes | None) -> bool:
            return path.is_file() and (content is None or path.read_bytes() == content)

        return [number for number, (path, content) in enumerate(files) if not has(Path(path), content)]

    files = [(str(each.path), each.content) for each in needed]
    task = ray.remote(num_cpus=0, max_retries=0)(missing)
    asked: dict[Any, str] = {
        task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(files): name
        for node, name in nodes.items()
    }
    answered, _ = ray.wait(list(asked), num_returns=len(asked), timeout=_PATIENCE_SECONDS)
    lacking: dict[int, list[str]] = {}
    for answer in answered:
        with suppress(RayError):
            for number in ray.get(answer):
                lacking.setdefault(number, []).append(asked[answer])
    for number, names in sorted(lacking.items()):
        more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
        raise ValueError(f"node {min(names)}{more} {needed[number].lack}")
