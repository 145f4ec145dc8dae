"""How new layers start."""

from collections.abc import Callable, Iterable

from torch import Tensor, nn

Layer = nn.Conv2d | nn.ConvTranspose2d | nn.Linear


def start(layers: Iterable[Layer], weight: Callable[[Tensor], object]) -> None:
    """Fills the layers' weights with `weight`, one of torch.nn.init's functions, and their biases with 0."""
    for layer in layers:
        weight(layer.weight)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def normal(std: float) -> Callable[[Tensor], object]:
    """Normal around 0."""
    return lambda weight: nn.init.normal_(weight, std=std)


def keep_variance(weight: Tensor) -> object:
    """Uniform, so that a linear layer keeps its input's variance (Glorot and Bengio 2010, over the inputs alone)."""
    return nn.init.kaiming_uniform_(weight, a=1)


def for_relu(weight: Tensor) -> object:
    """Normal, so that gradients keep their variance through a ReLU (arXiv:1502.01852)."""
    return nn.init.kaiming_normal_(weight, mode="fan_out", nonlinearity="relu")
