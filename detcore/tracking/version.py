"""A version in the registry as detcore sees it: what it is tagged with, and its names."""

import json
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from detcore.tracking.client import is_refusal, without_password

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion, RegisteredModel

MONITOR = "monitor"
"""The tag with the metric that versions are judged by."""
VAL_HASH = "data.val_hash"
"""The tag with the identity of the validation set: figures are compared only on the same one."""
DATA_NAME, DATA_HASH = "data.name", "data.content_hash"
WEIGHTS_SHA256 = "weights_sha256"
PARENT_SHA256 = "parent.weights_sha256"
"""The tag with the hash of the weights that the training started from."""
BACKBONE = "backbone.weights"
ARCHIVED = "archived"
"""The tag with the time since when a version is kept out of lists, and is never the latest."""
ALL = 200_000
"""The most versions that MLflow gives in one answer."""

_NAME = re.compile(r"(?:models:/)?([^/@]+)(?:@([^/@]+)|/(\d+))?/?")


@dataclass(frozen=True, kw_only=True)
class Version:
    """One version of a registered model.

    Attributes:
        name, version: `detcore.load(f"{name}/{version}")` gives the model.
        aliases: that point to it, sorted.
        created_ms: since 1970.
        run_id: of the training, or None.
        tags: all of them.
    """

    name: str
    version: int
    aliases: tuple[str, ...]
    created_ms: int
    run_id: str | None
    tags: Mapping[str, str]

    @classmethod
    def of(cls, found: "ModelVersion", aliases: Mapping[str, Any]) -> "Version":
        """MLflow's entity; `aliases` are the registered model's: alias -> version."""
        number = int(found.version)
        return cls(
            name=found.name,
            version=number,
            aliases=tuple(sorted(alias for alias, own in aliases.items() if int(own) == number)),
            created_ms=int(found.creation_timestamp or 0),
            run_id=found.run_id or None,
            tags=dict(found.tags),
        )

    @property
    def title(self) -> str:
        return f"{self.name}/{self.version}"

    @property
    def created(self) -> str:
        """As 2026-11-30 14:05, UTC."""
        return datetime.fromtimestamp(self.created_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M")

    @property
    def archived(self) -> bool:
        return ARCHIVED in self.tags

    @property
    def monitor(self) -> str | None:
        """The metric that it is judged by."""
        return self.tags.get(MONITOR)

    def figures(self, split: str) -> dict[str, float]:
        """The metrics on 'val' or 'test', in percent; a tag called alike that is no number is none."""
        found = {}
        for key, value in self.tags.items():
            if key.startswith(f"{split}."):
                with suppress(ValueError):
                    found[key.removeprefix(f"{split}.")] = float(value)
        return found

    @property
    def monitored(self) -> dict[str, float]:
        """The figures of the metric that it is judged by: {'val': …, 'test': …}, as far as it has them."""
        tables = {split: self.figures(split) for split in ("val", "test")}
        return {split: own[self.monitor] for split, own in tables.items() if self.monitor in own}

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as `--json` prints them."""
        labels = None
        with suppress(ValueError):
            labels = json.loads(self.tags.get("labels", "null"))
        return {
            "name": self.name,
            "version": self.version,
            "aliases": list(self.aliases),
            "created": datetime.fromtimestamp(self.created_ms / 1000, UTC).isoformat(timespec="seconds"),
            "archived": self.archived,
            "monitor": self.monitor,
            "val": self.figures("val"),
            "test": self.figures("test"),
            "data": {"name": self.tags.get(DATA_NAME), "content_hash": self.tags.get(DATA_HASH)},
            "labels": labels,
            "weights_sha256": self.tags.get(WEIGHTS_SHA256),
            "parent_sha256": self.tags.get(PARENT_SHA256),
            "run_id": self.run_id,
        }


def parsed_name(name: str) -> tuple[str, str | None, int | None]:
    """'digits@champion' and 'models:/digits/3' as name, alias and version number.

    Raises:
        ValueError: for anything else.
    """
    found = _NAME.fullmatch(name)
    if found is None:
        raise ValueError(f"{name!r} is no registered name: give NAME@ALIAS, NAME/VERSION or NAME")
    return found[1], found[2], None if found[3] is None else int(found[3])


def find_version(client: "MlflowClient", name: str, *, uri: str) -> Version:
    """The version that a name stands for; without alias and number the latest one that is not archived.

    Raises:
        ValueError: if there is no such model, alias or version; it says what there is.
    """
    from mlflow.exceptions import MlflowException

    base, alias, number = parsed_name(name)
    model = _model(client, base, name=name, uri=uri)
    if alias is not None:
        if alias not in model.aliases:
            raise ValueError(f"{name}: {base} has no alias {alias!r}, only {listed(sorted(model.aliases))}")
        number = int(model.aliases[alias])
    if number is not None:
        try:
            return Version.of(client.get_model_version(base, str(number)), model.aliases)
        except MlflowException as error:
            if not is_refusal(error):
                raise
    versions = sorted(int(found.version) for found in all_versions(client, base) if ARCHIVED not in found.tags)
    if number is not None:
        raise ValueError(f"{name}: {base} has no version {number}, only {listed(versions)}")
    if not versions:
        raise ValueError(f"{name}: {base} has no version, or all are archived")
    return Version.of(client.get_model_version(base, str(versions[-1])), model.aliases)


def all_versions(client: "MlflowClient", name: str) -> "list[ModelVersion]":
    """Of one registered model, in one request."""
    return list(client.search_model_versions(f"name = '{name}'", max_results=ALL))


def _model(client: "MlflowClient", base: str, *, name: str, uri: str) -> "RegisteredModel":
    from mlflow.exceptions import MlflowException

    try:
        return client.get_registered_model(base)
    except MlflowException as error:
        if not is_refusal(error):
            raise
        names = [model.name for model in client.search_registered_models()]
        raise ValueError(f"{name}: no model {base!r} at {without_password(uri)}, only {listed(names)}") from error


def listed(things: Iterable[object]) -> str:
    return ", ".join(map(str, things)) or "none"
