"""Versions that are no longer wanted: kept out of the way, or removed from the registry."""

from datetime import UTC, datetime

from detcore.tracking.client import connect_existing, in_one_line
from detcore.tracking.lineage import children
from detcore.tracking.version import ARCHIVED, WEIGHTS_SHA256, Version, find_version, parsed_name


def archive(name: str, *, undo: bool = False, uri: str | None = None) -> Version:
    """Keeps a version out of lists, and from being the latest; its own name still loads it.

    Args:
        name: `name/version`.
        undo: the reverse.
        uri: the store; None takes MLFLOW_TRACKING_URI, else the database in the working folder.

    Raises:
        ValueError: if an alias points to it, or there is no such version.
        ConnectionError: if MLflow is out of reach.
    """
    client, uri = connect_existing(uri)
    with in_one_line(uri):
        version = find_version(client, _one(name), uri=uri)
        if undo:
            if version.archived:
                client.delete_model_version_tag(version.name, str(version.version), ARCHIVED)
        else:
            _expect_no_alias(version)
            now = datetime.now(UTC).isoformat(timespec="seconds")
            client.set_model_version_tag(version.name, str(version.version), ARCHIVED, now)
        return find_version(client, version.title, uri=uri)


def delete(name: str, *, uri: str | None = None) -> Version:
    """Removes a version from the registry for good. Its run and that run's files stay.

    Args:
        name: `name/version`, archived before: what others may use is first kept out of the way.
        uri: as in `archive`.

    Raises:
        ValueError: if an alias points to it, it is not archived, other versions were trained from it, or it is not
            there.
        ConnectionError: if MLflow is out of reach.
    """
    client, uri = connect_existing(uri)
    with in_one_line(uri):
        version = find_version(client, _one(name), uri=uri)
        _expect_no_alias(version)
        if not version.archived:
            raise ValueError(f"{version.title} is not archived; first: detcore archive {version.title}")
        if version.tags.get(WEIGHTS_SHA256) and (heirs := children(client, version)):
            raise ValueError(
                f"{version.title}: {', '.join(heirs)} were trained from it, and their lineage would break off"
            )
        client.delete_model_version(version.name, str(version.version))
    return version


def _one(name: str) -> str:
    """Only an exact version: what an alias or 'the latest' means may have changed since one looked."""
    if parsed_name(name)[2] is None:
        raise ValueError(f"{name}: say which version: NAME/VERSION")
    return name


def _expect_no_alias(version: Version) -> None:
    if version.aliases:
        raise ValueError(
            f"{version.title} is {version.name}@{', @'.join(version.aliases)}: first promote another version to it"
        )
