"""What the registry holds, in as few requests as MLflow lets one ask with, however many models there are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from detcore.tracking.aliases import Move, moves
from detcore.tracking.client import connect_existing, in_one_line, without_password
from detcore.tracking.version import ALL, Version, listed

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import RegisteredModel

_MODELS_A_PAGE = 1000
_GLOB = set("*?[")


@dataclass(frozen=True, kw_only=True)
class Registered:
    """A registered model.

    Attributes:
        name: its name.
        latest: its newest version, archived or not; None where it has none.
        aliases: alias -> version number.
        history: of the aliases, the oldest first.
    """

    name: str
    latest: Version | None
    aliases: Mapping[str, int]
    history: Sequence[Move]

    def figures(self, alias: str) -> Mapping[str, float]:
        """Of the version that the alias points to, as far as the record of its moves or the latest version knows."""
        number = self.aliases[alias]
        if self.latest is not None and self.latest.version == number:
            return self.latest.monitored
        found = [move.figures for move in self.history if move.alias == alias and move.to_version == number]
        return found[-1] if found else {}

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as `--json` prints them."""
        return {
            "name": self.name,
            "latest": None if self.latest is None else self.latest.to_dict(),
            "aliases": {alias: {"version": number, **self.figures(alias)} for alias, number in self.aliases.items()},
        }


def list_models(names: Sequence[str] = (), *, alias: str | None = None, uri: str | None = None) -> list[Registered]:
    """The registered models, by name.

    Args:
        names: only these; `digits-*` is a pattern.
        alias: only those that have it.
        uri: the store; None takes MLFLOW_TRACKING_URI, else the database in the working folder.

    Raises:
        ValueError: if a name that is no pattern is not registered, or there is no registry.
        ConnectionError: if MLflow is out of reach.
    """
    client, uri = connect_existing(uri)
    with in_one_line(uri):
        found = [_registered(model) for model in _all_models(client)]
    known = [model.name for model in found]
    for name in names:
        if not _GLOB & set(name) and name not in known:
            raise ValueError(f"no model {name!r} at {without_password(uri)}, only {listed(known)}")
    return [
        model
        for model in sorted(found, key=lambda model: model.name)
        if (not names or any(fnmatchcase(model.name, name) for name in names))
        and (alias is None or alias in model.aliases)
    ]


def list_versions(
    names: Sequence[str] = (), *, data: str | None = None, archived: bool = False, uri: str | None = None
) -> list[Version]:
    """The versions, by model, the newest first.

    Args:
        names: of these models; `digits-*` is a pattern.
        data: only those that were trained on the data set of this name.
        archived: also those that are archived.
        uri: as in `list_models`.

    Raises:
        ValueError, ConnectionError: as `list_models`.
    """
    client, uri = connect_existing(uri)
    models = {model.name: model for model in list_models(names, uri=uri)}
    if data is not None and "'" in data:
        raise ValueError(f"data {data!r}: no data set is called so")
    conditions = [] if data is None else [f"tags.`data.name` = '{data}'"]
    if len(models) == 1:
        conditions.append(f"name = '{next(iter(models))}'")
    with in_one_line(uri):
        found = client.search_model_versions(" and ".join(conditions) or None, max_results=ALL)
    versions = [Version.of(version, models[version.name].aliases) for version in found if version.name in models]
    return sorted(
        (version for version in versions if archived or not version.archived),
        key=lambda version: (version.name, -version.version),
    )


def _all_models(client: "MlflowClient") -> "list[RegisteredModel]":
    found, token = [], None
    while True:
        page = client.search_registered_models(max_results=_MODELS_A_PAGE, page_token=token)
        found += list(page)
        token = page.token
        if not token:
            return found


def _registered(model: "RegisteredModel") -> Registered:
    aliases = {alias: int(number) for alias, number in sorted(model.aliases.items())}
    newest = max(model.latest_versions, key=lambda version: int(version.version), default=None)
    return Registered(
        name=model.name,
        latest=None if newest is None else Version.of(newest, aliases),
        aliases=aliases,
        history=moves(model.tags),
    )
