import pytest
import torch
from torch import nn

from detcore.config import OptimConfig
from detcore.engine.optim import build_optimizer, clip_gradients, parameter_groups, set_learning_rate


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
        self.head = nn.Linear(4, 2)
        self.norm = nn.LayerNorm((2, 2))  # a norm whose weight has two dimensions
        self.scale = nn.Parameter(torch.ones(()))
        self.frozen = nn.Linear(2, 2).requires_grad_(False)


def test_groups() -> None:
    model = Model()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = parameter_groups(model, optim=OptimConfig(lr=0.1, weight_decay=0.01, backbone_lr_factor=0.5))
    found = {(group["base_lr"], group["weight_decay"]): {names[id(p)] for p in group["params"]} for group in groups}
    assert found == {
        (0.05, 0.01): {"backbone.0.weight"},
        (0.05, 0.0): {"backbone.0.bias", "backbone.1.weight", "backbone.1.bias"},
        (0.1, 0.01): {"head.weight"},
        (0.1, 0.0): {"head.bias", "norm.weight", "norm.bias", "scale"},
    }


def test_norms_and_biases_have_decays_of_their_own() -> None:
    model = Model()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    optim = OptimConfig(lr=0.1, weight_decay=0.01, weight_decay_norm=0.02, weight_decay_bias=0.03)
    found = {
        group["weight_decay"]: {names[id(p)] for p in group["params"]} for group in parameter_groups(model, optim=optim)
    }
    assert found == {
        0.01: {"backbone.0.weight", "head.weight"},
        0.02: {"backbone.1.weight", "backbone.1.bias", "norm.weight", "norm.bias"},
        0.03: {"backbone.0.bias", "head.bias"},
        0.0: {"scale"},
    }


class Layered(nn.Module):
    """Tells its layers, and a table that is never decayed."""

    undecayed = ("positions",)

    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.ones(2, 2))
        self.blocks = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))

    def layers_above(self, name: str) -> int:
        return 2 - int(name.split(".")[1]) if name.startswith("blocks.") else 3


def test_layer_decay() -> None:
    """Detectron2's rule for ViTDet: the rate times decay^(depth + 1) at the positions, decay^(depth - i) in block i."""
    model = nn.Module()
    model.backbone, model.head = Layered(), nn.Linear(2, 2)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    optim = OptimConfig(lr=1.0, weight_decay=0.1, weight_decay_bias=0.1, layer_decay=0.5, backbone_lr_factor=0.8)
    found = {
        (group["base_lr"], group["weight_decay"]): {names[id(p)] for p in group["params"]}
        for group in parameter_groups(model, optim=optim)
    }
    assert found == {
        (0.1, 0.0): {"backbone.positions"},
        (0.2, 0.1): {"backbone.blocks.0.weight", "backbone.blocks.0.bias"},
        (0.4, 0.1): {"backbone.blocks.1.weight", "backbone.blocks.1.bias"},
        (1.0, 0.1): {"head.weight", "head.bias"},
    }


def test_layer_decay_needs_a_backbone_that_tells_its_layers() -> None:
    with pytest.raises(ValueError, match=r"optim.layer_decay: Sequential has no layers_above\(name\)"):
        parameter_groups(Model(), optim=OptimConfig(lr=0.1, layer_decay=0.5))


def test_a_tied_parameter_is_in_one_group() -> None:
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    model[1].weight = model[0].weight
    (group,) = parameter_groups(model, optim=OptimConfig(lr=0.1))
    assert len(group["params"]) == 1


def test_nothing_to_train() -> None:
    with pytest.raises(ValueError, match="Linear has no parameter to train"):
        parameter_groups(nn.Linear(2, 2).requires_grad_(False), optim=OptimConfig(lr=0.1))


def test_the_schedule_multiplies_each_groups_own_rate() -> None:
    optimizer = build_optimizer(Model(), optim=OptimConfig(lr=0.1, backbone_lr_factor=0.5))
    for factor in (0.1, 0.2):  # of the base rate, not of the last one
        set_learning_rate(optimizer, factor)
    assert sorted({group["lr"] for group in optimizer.param_groups}) == pytest.approx([0.01, 0.02])


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_options_reach_the_optimizer(kind: str) -> None:
    optim = OptimConfig(type=kind, lr=0.1, momentum=0.8, nesterov=True, betas=(0.8, 0.9))
    defaults = build_optimizer(Model(), optim=optim).defaults
    if kind == "sgd":
        assert (defaults["momentum"], defaults["nesterov"]) == (0.8, True)
    else:
        assert defaults["betas"] == (0.8, 0.9)


def test_clipping_is_to_the_global_norm() -> None:
    parameters = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))]
    parameters[0].grad, parameters[1].grad = torch.tensor([2.0, 3.0]), torch.tensor([6.0])  # norm 7; the third has none
    assert clip_gradients(parameters, clip_norm=None) == 7.0
    assert parameters[1].grad == 6.0
    assert clip_gradients(parameters, clip_norm=3.5) == 7.0
    torch.testing.assert_close(parameters[0].grad, torch.tensor([1.0, 1.5]))
    torch.testing.assert_close(parameters[1].grad, torch.tensor([3.0]))
