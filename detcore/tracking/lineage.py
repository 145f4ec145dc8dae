"""Where a version comes from: its run, code and data, and the model that it was trained from, back to the first."""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from detcore.tracking.client import connect_existing, find_run, in_one_line
from detcore.tracking.opening import DVC_MD5, GIT_COMMIT, GIT_DIRTY
from detcore.tracking.version import (
    ALL,
    BACKBONE,
    DATA_HASH,
    DATA_NAME,
    PARENT_SHA256,
    WEIGHTS_SHA256,
    Version,
    find_version,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient


@dataclass(frozen=True, kw_only=True)
class Generation:
    """One model in a line of descent; None for what was not recorded.

    Attributes:
        version: `name/version`; None for weights that are not registered here.
        aliases, created: of the version.
        monitor, figures: the metric it is judged by, and its values on 'val' and 'test'.
        weights_sha256: of it.
        run_id, run_name, experiment: of the training; None where it is deleted or was not tracked.
        git_commit: of the code.
        git_dirty: whether tracked files differed from it.
        data: the data set's name.
        data_hash: of all prepared data.
        dvc_md5: DVC's hash of it.
        backbone: the pretrained weights of the backbone, where no whole model's were taken.
        parent_sha256: of the weights that the training started from.
    """

    version: str | None
    aliases: tuple[str, ...] = ()
    created: str | None = None
    monitor: str | None = None
    figures: dict[str, float] | None = None
    weights_sha256: str | None = None
    run_id: str | None = None
    run_name: str | None = None
    experiment: str | None = None
    git_commit: str | None = None
    git_dirty: bool = False
    data: str | None = None
    data_hash: str | None = None
    dvc_md5: str | None = None
    backbone: str | None = None
    parent_sha256: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def lineage(name: str, *, uri: str | None = None) -> list[Generation]:
    """The version, its parent, its parent's parent, as far back as the registry knows.

    A parent is found by the hash of its weights, in whichever registered model it is. The last generation is one
    without a parent, or a parent that is not registered here.

    Args:
        name: `name@alias`, `name/version` or `name` (the latest).
        uri: the store; None takes MLFLOW_TRACKING_URI, else the database in the working folder.

    Raises:
        ValueError: if there is no such version.
        ConnectionError: if MLflow is out of reach.
    """
    client, uri = connect_existing(uri)
    found: list[Generation] = []
    with in_one_line(uri):
        version: Version | None = find_version(client, name, uri=uri)
        seen: set[str] = set()
        while version is not None:
            found.append(_generation(client, version))
            parent = found[-1].parent_sha256
            if parent is None or parent in seen:
                return found
            seen.add(parent)
            version = _with_weights(client, parent, near=version.name)
        found.append(Generation(version=None, weights_sha256=parent))
    return found


def children(client: "MlflowClient", version: Version) -> list[str]:
    """The versions, as `name/version`, that were trained from this one's weights."""
    condition = f"tags.`{PARENT_SHA256}` = '{version.tags[WEIGHTS_SHA256]}'"
    found = client.search_model_versions(condition, max_results=ALL)
    return sorted(f"{heir.name}/{heir.version}" for heir in found)


def _with_weights(client: "MlflowClient", sha256: str, *, near: str) -> Version | None:
    """The first version with these weights: of the model called `near` if it has one, else of any."""
    found = client.search_model_versions(f"tags.{WEIGHTS_SHA256} = '{sha256}'", max_results=ALL)
    if not found:
        return None
    first = min(found, key=lambda own: (own.name != near, own.creation_timestamp or 0, own.name))
    return Version.of(first, client.get_registered_model(first.name).aliases)


def _generation(client: "MlflowClient", version: Version) -> Generation:
    tags = version.tags
    run = None if version.run_id is None else find_run(client, version.run_id)
    return Generation(
        version=version.title,
        aliases=version.aliases,
        created=version.created,
        monitor=version.monitor,
        figures=version.monitored,
        weights_sha256=tags.get(WEIGHTS_SHA256),
        run_id=None if run is None else run.info.run_id,
        run_name=None if run is None else run.info.run_name,
        experiment=None if run is None else client.get_experiment(run.info.experiment_id).name,
        git_commit=tags.get(GIT_COMMIT),
        git_dirty=tags.get(GIT_DIRTY) == "true",
        data=tags.get(DATA_NAME),
        data_hash=tags.get(DATA_HASH),
        dvc_md5=tags.get(DVC_MD5),
        backbone=tags.get(BACKBONE),
        parent_sha256=tags.get(PARENT_SHA256),
    )
