"""A small Mask R-CNN in a published folder, never trained."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from detcore.config import MaskRCNN, TimmBackbone
from detcore.config.model import FPN, RPN, Anchors, BoxHead, MaskHead, Selection
from detcore.models import build_model

LABELS = ("circle", "square", "bar")
RECIPE = MaskRCNN(
    name="tiny",
    backbone=TimmBackbone(name="test_efficientnet", weights="none"),
    neck=FPN(channels=16),
    rpn=RPN(anchors=Anchors(sizes=((16,), (24,), (40,), (64,), (96,))), pre_nms_topk_test=100, post_nms_topk_test=50),
    box_head=BoxHead(fc_channels=32, sampling_ratio=2),
    mask_head=MaskHead(num_convs=1, conv_channels=16, sampling_ratio=2),
    selection=Selection(max_detections=20),
)


def publish(folder: Path, changes: dict[str, Any] | None = None) -> Path:
    """The recipe with random weights, spread until scores differ clearly from each other."""
    torch.manual_seed(1)
    model = build_model(RECIPE, num_classes=len(LABELS), load_weights=False)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1 and not name.startswith("backbone"):
                torch.nn.init.kaiming_normal_(parameter)
    folder.mkdir(parents=True)
    save_file(
        {name: tensor.contiguous() for name, tensor in model.state_dict().items()}, folder / "weights.safetensors"
    )
    description = {
        "format_version": 1,
        "model": RECIPE.model_dump(mode="json"),
        "num_classes": len(LABELS),
        "labels": LABELS,
        "preprocessing": {
            "image_mean": model.image_mean,
            "image_std": model.image_std,
            "transform": {"type": "resize_shortest_edge", "sizes": [96], "max_size": 160},
            "size_divisor": 32,
        },
        "metrics": {"box_ap": 12.5},
        "data": {"name": "shapes", "content_hash": "0" * 64},
        "weights_sha256": hashlib.sha256((folder / "weights.safetensors").read_bytes()).hexdigest(),
        **(changes or {}),
    }
    (folder / "model.json").write_text(json.dumps(description))
    return folder
