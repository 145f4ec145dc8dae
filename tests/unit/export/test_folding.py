"""Frozen norms as constants of the graph."""

import pytest
import torch
from small_detectors import RESNET, SMALL

from detcore.config.model import FasterRCNN
from detcore.export.folding import folded
from detcore.models import build_model
from detcore.models.norm import FrozenBatchNorm

FROZEN_RESNET = {**RESNET, "norm": "frozen_bn", "weights": "absent.safetensors"}
TIMM = {"type": "timm", "name": "tf_efficientnet_lite0", "norm": "frozen_bn", "weights": "none"}


@pytest.mark.parametrize("backbone", [FROZEN_RESNET, TIMM], ids=["resnet", "timm"])
def test_the_features_stay_and_the_norms_go(backbone: dict[str, object]) -> None:
    config = SMALL["faster_rcnn"].model_dump() | {"backbone": backbone}
    model = build_model(FasterRCNN(**config), num_classes=3, load_weights=False).double().eval()
    torch.manual_seed(0)
    norms = [module for module in model.modules() if isinstance(module, FrozenBatchNorm)]
    for norm in norms:
        norm.weight.uniform_(0.5, 1.5)
        norm.bias.normal_(std=0.1)
        norm.running_mean.normal_(std=0.1)
        norm.running_var.uniform_(0.5, 1.5)
    assert norms
    plain = folded(model)
    assert not any(isinstance(module, FrozenBatchNorm) for module in plain.modules())
    images = torch.randn(1, 3, 64, 96, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(plain.features(images), model.features(images))
    assert all(isinstance(module, FrozenBatchNorm) for module in norms) and norms[0] in set(model.modules())
