"""Commands about the registry: what is in it, which version an alias points to, where a version comes from."""

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Literal

from detcore.cli.commands import Answer, Commands

if TYPE_CHECKING:
    from rich.table import Table

    from detcore.tracking.lineage import Generation
    from detcore.tracking.listing import Registered
    from detcore.tracking.version import Version

Row = tuple[str, ...]

_PROMOTE = """\
  detcore promote digits-mask-rcnn/7
  detcore promote digits-mask-rcnn/7 --alias candidate
  detcore promote digits-mask-rcnn/6 --force"""
_LINEAGE = """\
  detcore lineage digits-mask-rcnn@champion
  detcore lineage digits-mask-rcnn/3 --json"""
_ARCHIVE = """\
  detcore archive digits-mask-rcnn/3
  detcore archive --undo digits-mask-rcnn/3"""
_DELETE = "  detcore delete digits-mask-rcnn/3"
_SHORT = 12
"""Digits of a hash that people are shown."""


def declare(commands: Commands) -> None:
    """Adds the commands."""
    summary = "point an alias to a version, if it is better on the validation split than the one that has it"
    promote = commands.add("promote", summary, _promote, examples=_PROMOTE, answers=True)
    promote.add_argument("version", metavar="NAME/VERSION", help="NAME/VERSION, NAME@ALIAS, or NAME for the latest")
    promote.add_argument("--alias", default="champion", help="which one (default: champion)")
    promote.add_argument("--force", action="store_true", help="whatever the figures say; recorded as such")

    lineage = commands.add(
        "lineage", "say where a version comes from, back to the first", _lineage, examples=_LINEAGE, answers=True
    )
    lineage.add_argument("version", metavar="NAME", help="NAME@ALIAS, NAME/VERSION, or NAME for the latest")

    summary = "keep a version out of lists and from being the latest; refused while an alias points to it"
    archive = commands.add("archive", summary, _archive, examples=_ARCHIVE, answers=True)
    archive.add_argument("version", metavar="NAME/VERSION")
    archive.add_argument("--undo", action="store_true", help="the reverse")

    summary = "remove an archived version from the registry for good; its run and files stay"
    delete = commands.add("delete", summary, _delete, examples=_DELETE, answers=True)
    delete.add_argument("version", metavar="NAME/VERSION")


def list_registry(options: argparse.Namespace) -> Answer:
    """`detcore models --registry`: a row a model, or a row a version of the models that are named."""
    from detcore.tracking.listing import list_models, list_versions

    if options.names or options.versions or options.data is not None:
        versions = list_versions(options.names, data=options.data, archived=options.archived)
        if options.alias is not None:
            versions = [version for version in versions if options.alias in version.aliases]
        found: Sequence[Registered | Version] = versions
        table = _version_rows(versions)
    else:
        models = list_models(alias=options.alias)
        found, table = models, _model_rows(models)
    text = _table(table) if found else "nothing registered that fits"
    return Answer(facts=[each.to_dict() for each in found], text=text)


def _model_rows(models: Iterable["Registered"]) -> list[Row]:
    rows: list[Row] = [("model", "latest", "created", "metric", "val", "test", "aliases")]
    for model in models:
        aliases = ", ".join(f"{alias} {number}{_reached(model, alias)}" for alias, number in model.aliases.items())
        if (latest := model.latest) is None:
            rows.append((model.name, "", "", "", "", "", aliases))
        else:
            number, metric = str(latest.version), latest.monitor or ""
            rows.append((model.name, number, latest.created, metric, *_figures(latest), aliases))
    return rows


def _reached(model: "Registered", alias: str) -> str:
    figures = model.figures(alias)
    return f" (val {figures['val']:.2f})" if "val" in figures else ""


def _version_rows(versions: Iterable["Version"]) -> list[Row]:
    rows: list[Row] = [("version", "created", "metric", "val", "test", "data", "aliases")]
    for version in versions:
        aliases = ", ".join(version.aliases) or ("archived" if version.archived else "")
        data = version.tags.get("data.name", "")
        rows.append((version.title, version.created, version.monitor or "", *_figures(version), data, aliases))
    return rows


def _figures(version: "Version") -> tuple[str, str]:
    found = version.monitored
    val, test = (f"{found[split]:.2f}" if split in found else "" for split in ("val", "test"))
    return val, test


def _table(rows: Sequence[Row]) -> "Table":
    from rich.table import Table

    shown = Table(box=None, pad_edge=False, header_style="bold")
    for name in rows[0]:
        justify: Literal["left", "right"] = "right" if name in ("latest", "val", "test") else "left"
        shown.add_column(name, justify=justify, overflow="fold")
    for row in rows[1:]:
        shown.add_row(*row)
    return shown


def _promote(options: argparse.Namespace) -> Answer:
    from detcore.tracking.aliases import promote

    moved = promote(options.version, alias=options.alias, force=options.force)
    name = options.version.removeprefix("models:/").partition("@")[0].partition("/")[0]
    before = "" if moved.from_version is None else f", before version {moved.from_version}"
    forced = "forced: " if moved.forced else ""
    text = f"{name}@{moved.alias} is version {moved.to_version}{before} ({forced}{moved.reason})"
    return Answer(facts=asdict(moved), text=text)


def _lineage(options: argparse.Namespace) -> Answer:
    from detcore.tracking.lineage import lineage

    found = lineage(options.version)
    lines: list[str] = []
    for number, generation in enumerate(found):
        lines.append(("trained from " if number else "") + _headline(generation))
        lines += [f"  {name:<9} {value}" for name, value in _facts(generation)]
    return Answer(facts=[generation.to_dict() for generation in found], text="\n".join(lines))


def _headline(generation: "Generation") -> str:
    if generation.version is None:
        return f"weights {(generation.weights_sha256 or '')[:_SHORT]}, which are not registered here"
    aliases = "".join(f" @{alias}" for alias in generation.aliases)
    return f"{generation.version}{aliases}  {generation.created}"


def _facts(generation: "Generation") -> Iterable[tuple[str, str]]:
    if generation.figures:
        yield generation.monitor or "", "  ".join(f"{split} {value:.2f}" for split, value in generation.figures.items())
    if generation.run_id is not None:
        yield "run", f"{generation.run_name} ({generation.run_id}) in {generation.experiment}"
    elif generation.version is not None:
        yield "run", "none: it was not tracked, or is deleted"
    if generation.git_commit is not None:
        dirty = " and uncommitted changes" if generation.git_dirty else ""
        yield "git", f"{generation.git_commit[:_SHORT]}{dirty}"
    if generation.data is not None:
        md5 = "" if generation.dvc_md5 is None else f", DVC {generation.dvc_md5}"
        yield "data", f"{generation.data} {(generation.data_hash or '')[:_SHORT]}{md5}"
    if generation.weights_sha256 is not None and generation.version is not None:
        yield "weights", generation.weights_sha256[:_SHORT]
    if generation.backbone is not None:
        yield "backbone", generation.backbone


def _archive(options: argparse.Namespace) -> Answer:
    from detcore.tracking.archive import archive

    version = archive(options.version, undo=options.undo)
    text = f"{version.title} is {'archived' if version.archived else 'no longer archived'}"
    return Answer(facts=version.to_dict(), text=text)


def _delete(options: argparse.Namespace) -> Answer:
    from detcore.tracking.archive import delete

    version = delete(options.version)
    kept = f"; run {version.run_id} keeps its files" if version.run_id else ""
    return Answer(facts=version.to_dict(), text=f"{version.title} is no longer registered{kept}")
