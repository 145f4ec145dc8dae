"""Other projects' checkpoints and configurations into ours, and back."""

from detcore.convert.checkpoint import convert_detectron2, convert_to_detectron2
from detcore.convert.detectron2 import model_config
from detcore.convert.detectron2_rules import rules
from detcore.convert.names import Rule, from_ours, to_ours
from detcore.convert.torchvision import convert_torchvision, from_torchvision
from detcore.convert.vit import from_mae
from detcore.convert.writing import Converted

__all__ = [
    "Converted",
    "Rule",
    "convert_detectron2",
    "convert_to_detectron2",
    "convert_torchvision",
    "from_mae",
    "from_ours",
    "from_torchvision",
    "model_config",
    "rules",
    "to_ours",
]
