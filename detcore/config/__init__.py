"""What can be set: frozen typed sections and one door, `load`. Imports no torch."""

from detcore.config.cluster import ClusterConfig
from detcore.config.data import DataConfig
from detcore.config.export import ExportConfig
from detcore.config.loading import compose_params, config_directory, load
from detcore.config.model import FasterRCNN, MaskRCNN, ModelConfig, OwnModel, ResNetBackbone, TimmBackbone
from detcore.config.root import Config
from detcore.config.training import (
    EngineConfig,
    EvaluationConfig,
    EvaluationProtocol,
    OptimConfig,
    TrackingConfig,
    TTAConfig,
)

__all__ = [
    "ClusterConfig",
    "Config",
    "DataConfig",
    "EngineConfig",
    "EvaluationConfig",
    "EvaluationProtocol",
    "ExportConfig",
    "FasterRCNN",
    "MaskRCNN",
    "ModelConfig",
    "OptimConfig",
    "OwnModel",
    "ResNetBackbone",
    "TTAConfig",
    "TimmBackbone",
    "TrackingConfig",
    "compose_params",
    "config_directory",
    "load",
]
