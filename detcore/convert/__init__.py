"""Other projects' checkpoints and configurations into ours, and back."""

from detcore.convert.detectron2 import model_config, rules
from detcore.convert.names import Rule, from_ours, to_ours

__all__ = ["Rule", "from_ours", "model_config", "rules", "to_ours"]
