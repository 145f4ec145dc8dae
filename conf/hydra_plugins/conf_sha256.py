"""Lets DVC's own composition (`dvc exp run -S …`) resolve `${conf_sha256:}` as `make params` does."""

from omegaconf import OmegaConf

from detcore.config.loading import CONF_SHA256, conf_sha256

OmegaConf.register_new_resolver(CONF_SHA256, conf_sha256, replace=True)
