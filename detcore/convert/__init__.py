"""Other projects' checkpoints and configurations into ours, and back."""

from detcore.convert.checkpoint import Converted, convert_detectron2, convert_to_detectron2
from detcore.convert.detectron2 import model_config
from detcore.convert.detectron2_rules import rules
from detcore.convert.names import Rule, from_ours, to_ours
from detcore.convert.vit import from_mae

__all__ = [
    "Converted",
    "Rule",
    "convert_detectron2",
    "convert_to_detectron2",
    "from_mae",
    "from_ours",
    "model_config",
    "rules",
    "to_ours",
]
