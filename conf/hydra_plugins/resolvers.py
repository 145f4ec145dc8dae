"""Lets DVC's own composition (`dvc exp run -S …`) resolve what `make params` does, such as `${conf_sha256:}`."""

from detcore.config.loading import register_resolvers

register_resolvers()
