"""Sizes that in a graph of any size are symbols."""

from typing import Any

import torch


def largest(*sizes: int) -> int:
    """The largest of sizes, a symbol where one of them is: then nothing is asked of it, which would fix it."""
    if not any(isinstance(size, torch.SymInt) for size in sizes):
        return max(sizes)  # torch 2.11 does not compile sym_max of plain numbers
    found: Any = sizes[0]
    for size in sizes[1:]:
        found = torch.sym_max(found, size)
    symbol: int = found
    return symbol
