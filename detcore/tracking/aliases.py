"""Which version an alias points to: the rule by which it moves, and the record of its moves.

Every move is a tag of its own on the registered model, `alias.NAME.TIME`: MLflow has no history of aliases, and a list
in one tag would lose an entry when two people move at once.
"""

import getpass
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from detcore.tracking.client import connect_existing, in_one_line, is_refusal
from detcore.tracking.version import VAL_HASH, Version, find_version

if TYPE_CHECKING:
    from mlflow import MlflowClient

_TAG = "alias."


@dataclass(frozen=True, kw_only=True)
class Move:
    """An alias's step from one version to another.

    Attributes:
        alias: which one.
        time: ISO 8601, UTC.
        by: the user of MLflow, else of the machine.
        from_version: None where the alias was not set.
        to_version: where it went.
        reason: by what rule, with the figures.
        forced: against the rule.
        monitor: the metric that the new version was judged by.
        figures: its values on 'val' and 'test' at that time.
    """

    alias: str
    time: str
    by: str
    from_version: int | None
    to_version: int
    reason: str
    forced: bool
    monitor: str | None
    figures: Mapping[str, float]


def judge(version: Version, holder: Version | None, *, alias: str) -> tuple[bool, str]:
    """Whether `version` should take over the alias from its `holder`, and why.

    It should if its `engine.monitor` on the validation set is higher, on the same validation set. Test figures are
    never looked at: whoever chooses by them has none left.
    """
    if holder is None:
        return True, f"there was no {alias}"
    if holder.version == version.version:
        return False, f"it is the {alias} already"
    present = f"the {alias}, version {holder.version},"
    if holder.tags.get(VAL_HASH) != version.tags.get(VAL_HASH):
        return False, f"{present} was measured on another validation set; move the alias by hand if this one is better"
    its = holder.figures("val").get(version.monitor or "")
    own = version.figures("val").get(version.monitor or "")
    if own is None or its is None:
        return False, f"{present} or this version has no {version.monitor} on val to be compared by"
    return own > its, f"{version.monitor} on val is {own:.2f}; {present} has {its:.2f}"


def promote(name: str, *, alias: str = "champion", force: bool = False, uri: str | None = None) -> Move:
    """Points an alias to a version that is better than the one it points to; see `judge`.

    Args:
        name: `name/version` or `name@alias`; `name` is its latest version.
        alias: that moves.
        force: even where the rule says no; the record says that it was forced.
        uri: the store; None takes MLFLOW_TRACKING_URI, else the database in the working folder.

    Raises:
        ValueError: if the rule says no, with the figures; if there is no such version, or it is archived.
        ConnectionError: if MLflow is out of reach.
    """
    client, uri = connect_existing(uri)
    with in_one_line(uri):
        version = find_version(client, name, uri=uri)
        if version.archived:
            raise ValueError(f"{version.title} is archived; first: detcore archive --undo {version.title}")
        current = holder(client, version.name, alias, uri=uri)
        better, reason = judge(version, current, alias=alias)
        if current is not None and current.version == version.version:
            raise ValueError(f"{version.title}: {reason}")
        if not better and not force:
            raise ValueError(f"{version.title} does not become {alias}: {reason} (--force moves it all the same)")
        return move(client, version, alias, current=current, reason=reason, forced=not better)


def holder(client: "MlflowClient", name: str, alias: str, *, uri: str) -> Version | None:
    """The version that the alias points to; None where it is not set, or its version was deleted."""
    from mlflow.exceptions import MlflowException

    if alias not in client.get_registered_model(name).aliases:
        return None
    try:
        return find_version(client, f"{name}@{alias}", uri=uri)
    except (MlflowException, ValueError) as error:
        if not is_refusal(error):
            raise
        return None


def move(
    client: "MlflowClient", version: Version, alias: str, *, current: Version | None, reason: str, forced: bool
) -> Move:
    """Sets the alias and records it."""
    done = Move(
        alias=alias,
        time=datetime.now(UTC).isoformat(timespec="microseconds"),
        by=_user(),
        from_version=None if current is None else current.version,
        to_version=version.version,
        reason=reason,
        forced=forced,
        monitor=version.monitor,
        figures=version.monitored,
    )
    client.set_registered_model_alias(version.name, alias, str(version.version))
    key = f"{_TAG}{alias}.{done.time.replace(':', '.').replace('+', '.')}"  # what MLflow takes in a key
    client.set_registered_model_tag(version.name, key, json.dumps(asdict(done)))
    return done


def moves(tags: Mapping[str, Any]) -> list[Move]:
    """What a registered model's tags record, the oldest first; tags that others made alike are passed over."""
    found = []
    for key, value in tags.items():
        if key.startswith(_TAG):
            with suppress(ValueError, TypeError):
                move = Move(**json.loads(value))
                if isinstance(move.figures, Mapping) and isinstance(move.time, str):
                    found.append(move)
    return sorted(found, key=lambda entry: entry.time)


def _user() -> str:
    stated = os.environ.get("MLFLOW_TRACKING_USERNAME")
    if stated:
        return stated
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user need not have a name
        return "unknown"
