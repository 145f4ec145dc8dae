"""What operators ask of their arguments: the kernels trust sizes, so a wrong one must not reach them."""

from torch import Tensor


def expect(operator: str, **arguments: tuple[Tensor | None, str]) -> None:
    """Checks the shapes of an operator's tensors against each other, and that they are on one device.

    Args:
        operator: its name, for the message.
        arguments: name = (tensor, shape): a word for each dimension, parted by blanks. A number is a size that must be;
            a letter stands for the same size wherever it appears, `_` for any. None is not checked.

    Raises:
        ValueError: for the first that does not fit.
    """
    sizes: dict[str, tuple[int, str]] = {}
    first: tuple[Tensor, str] | None = None
    for name, (tensor, shape) in arguments.items():
        if tensor is None:
            continue
        words = shape.split()
        if tensor.dim() != len(words):
            raise ValueError(f"{operator}: {name} is {tuple(tensor.shape)}, must be ({', '.join(words)})")
        for dimension, word in enumerate(words):
            size = tensor.shape[dimension]
            wanted, source = (int(word), "") if word.isdigit() else sizes.setdefault(word, (size, name))
            if word != "_" and size != wanted:
                whose = f" with {word} = {wanted} as in {source}" if source else ""
                raise ValueError(f"{operator}: {name} is {tuple(tensor.shape)}, must be ({', '.join(words)}){whose}")
        if first is None:
            first = tensor, name
        elif tensor.device != first[0].device:
            raise ValueError(f"{operator}: {name} is on {tensor.device}, {first[1]} on {first[0].device}")


def expect_integers(operator: str, **arguments: Tensor | None) -> None:
    """Raises ValueError for a tensor of floating-point numbers, which would be cut off. None is not checked."""
    for name, tensor in arguments.items():
        if tensor is not None and tensor.is_floating_point():
            raise ValueError(f"{operator}: {name} is {tensor.dtype}, must be integers")
