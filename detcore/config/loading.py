"""The one door to the configuration: compose `conf/` through Hydra, or read a composed file; then validate."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError

from detcore.config.data import DataConfig
from detcore.config.faults import fault_lines
from detcore.config.model.detector import published_name
from detcore.config.preparing import settings_hash
from detcore.config.root import Config
from detcore.spelling import meant

CONF_SHA256 = "conf_sha256"
"""The key under which a composed file records what `conf/` it came from."""
STARTS_FROM = "starts_from"
"""The key under which a composed file names what DVC's train stage reads besides the data."""
SHARDS_SHA256 = "shards_sha256"
"""The key under which a composed file hashes the settings that shards are made by: DVC's prepare depends on these."""
PUBLISHED_NAME = "published_name"
"""The resolver by which a model that is trained on from has its source's name."""


def config_directory() -> Path:
    """The folder of YAML files: `DETCORE_CONF`, else `conf/` of the working folder, else the one beside the package.

    Raises:
        ValueError: if there is none.
    """
    stated = os.environ.get("DETCORE_CONF")
    package = Path(__file__).resolve().parents[1]
    candidates = [Path(stated)] if stated else [Path("conf"), package.parent / "conf", package / "conf"]
    for candidate in candidates:
        if (candidate / "config.yaml").is_file():
            return candidate.resolve()
    raise ValueError(f"no config.yaml in {' or '.join(map(str, candidates))}; set DETCORE_CONF to your conf folder")


def conf_sha256(directory: Path | None = None) -> str:
    """SHA-256 over the names and bytes of all YAML files below `conf/`."""
    directory = directory or config_directory()
    digest = hashlib.sha256()
    for path in sorted(directory.rglob("*.yaml")):
        digest.update(path.relative_to(directory).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def starts_from(*, _root_: DictConfig) -> str:
    """The file or folder of weights that training starts from, where it is a path: else the stage's own script.

    A stage of DVC's has as many dependencies as dvc.yaml lists, and each must be there.
    """
    for key in ("model.source", "model.weights", "model.backbone.weights"):
        place = OmegaConf.select(_root_, key)
        if isinstance(place, str) and place and Path(place).exists():
            return place
    return "pipelines/train.py"


def shards_sha256(*, _root_: DictConfig) -> str:
    """The hash of the settings that decide what is in the shards; of settings that are not valid, what says so."""
    values = OmegaConf.to_container(_root_.data, resolve=True)
    try:
        return settings_hash(DataConfig.model_validate(values), seed=_root_.seed)
    except ValidationError:
        return "not valid"  # a stage, or who composes, says what is wrong


def register_resolvers() -> None:
    """Makes known what conf/ asks for in `${NAME:…}`."""
    OmegaConf.register_new_resolver(CONF_SHA256, conf_sha256, replace=True)
    OmegaConf.register_new_resolver(STARTS_FROM, starts_from, replace=True)
    OmegaConf.register_new_resolver(SHARDS_SHA256, shards_sha256, replace=True)
    OmegaConf.register_new_resolver(PUBLISHED_NAME, lambda source: published_name(str(source)), replace=True)


def compose_params(overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The composed configuration as plain values, with `conf_sha256`, `shards_sha256` and `starts_from`: `params.yaml`.

    Args:
        overrides: Hydra's grammar, such as `model=mask_rcnn_r50_fpn` or `optim.lr=0.01`; `overrides=FILE` stands for
            those that a file lists.

    Raises:
        ValueError: naming the group, key or value that does not compose.
    """
    overrides = [word for override in overrides for word in _listed(override)]
    register_resolvers()
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(config_directory()), version_base=None):
            composed = compose(config_name="config", overrides=[_settable(override) for override in overrides])
        missing = sorted(OmegaConf.missing_keys(composed))
        if missing:
            raise ValueError(f"{missing[0]} has no value; set it, as in: {missing[0]}=…")
        params = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    except MissingConfigException as error:
        raise ValueError(f"configuration: {_no_recipe(error)}") from error
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(f"configuration: {_one_line(error)}") from error
    assert isinstance(params, dict)
    return {str(key): value for key, value in params.items()}


def load(overrides: Sequence[str] = (), *, file: Path | str | None = None) -> Config:
    """The validated configuration.

    Args:
        overrides: Hydra overrides on `conf/`. With `file` they are not possible: the file is already composed.
        file: a composed configuration such as `params.yaml`; refused where `conf/` has changed since.

    Raises:
        ValueError: one line for each fault, with the path of the key.
    """
    if file is None:
        return validate(compose_params(overrides), source="configuration")
    if overrides:
        raise ValueError(f"{file} is composed already; overrides such as {overrides[0]!r} go to 'make params'")
    return validate(read_params(file), source=str(file))


def read_params(file: Path | str) -> dict[str, Any]:
    """The values of a composed file, not yet validated.

    Raises:
        ValueError: if it is none, or `conf/` has changed since.
    """
    path = Path(file)
    if not path.is_file():
        raise ValueError(f"{path} does not exist; run 'make params' to compose it from conf/")
    try:
        params = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{path} is not YAML: {_one_line(error)}") from error
    if not isinstance(params, dict):
        raise ValueError(f"{path} holds no configuration; run 'make params'")
    recorded = params.get(CONF_SHA256)
    if recorded is not None and recorded != conf_sha256():
        raise ValueError(f"{path} was composed from another conf/ than the present one; run 'make params'")
    return {str(key): value for key, value in params.items()}


def read_overrides(file: Path | str) -> list[str]:
    """The overrides that a file lists.

    Raises:
        ValueError: if there is no such file, or it holds something else.
    """
    path = Path(file)
    if not path.is_file():
        raise ValueError(f"{path} does not exist; a search writes it: python pipelines/tune.py tune=asha")
    try:
        found = yaml.safe_load(path.read_text()) or []
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{path} is not YAML: {_one_line(error)}") from error
    if not isinstance(found, list) or not all(isinstance(line, str) and "=" in line for line in found):
        raise ValueError(f"{path} is no list of overrides, such as: - optim.lr=0.01")
    return found


def validate(params: Mapping[str, Any], *, source: str) -> Config:
    """`params` as a `Config`.

    Raises:
        ValueError: one line for each fault: where it came from, the key's path, what is wrong.
    """
    values = {key: value for key, value in params.items() if key not in (CONF_SHA256, SHARDS_SHA256, STARTS_FROM)}
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise ValueError("\n".join(fault_lines(error, values, source=source))) from None


def _listed(override: str) -> list[str]:
    key, _, file = override.partition("=")
    return read_overrides(file) if key == "overrides" else [override]


def _settable(override: str) -> str:
    """A dotted override may also set a key that conf/ leaves at its default; a typo is then found by the types."""
    key = override.partition("=")[0]
    if "." in key and key[0] not in "+~":
        return "++" + override
    if key.isidentifier() and key not in Config.model_fields:
        raise ValueError(f"configuration: {key}: no such section{meant(key, Config.model_fields)}")
    return override


def _no_recipe(error: MissingConfigException) -> str:
    """'model/mask_rcn' is not there: says which are."""
    group, _, name = (error.missing_cfg_file or "").rpartition("/")
    known = error.options or ()
    return f"{group}={name}: no such file in conf/{group}{meant(name, known) or '; there are ' + ', '.join(known)}"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
