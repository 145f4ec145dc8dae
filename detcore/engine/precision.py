"""The number format of a training step."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class Precision:
    """fp32 and fp64 compute as they store; bf16 and fp16 store fp32 and compute under autocast.

    fp16 has a loss scale (Micikevicius et al., "Mixed Precision Training", 2018, section 3.2).
    """

    name: Literal["fp32", "bf16", "fp16", "fp64"]
    device: torch.device

    @property
    def dtype(self) -> torch.dtype:
        """Of parameters."""
        return torch.float64 if self.name == "fp64" else torch.float32

    @property
    def image_dtype(self) -> torch.dtype:
        """Of images: what the first convolution would round them to in any case."""
        return _AUTOCAST.get(self.name, self.dtype)

    def autocast(self) -> AbstractContextManager[object]:
        if self.name not in _AUTOCAST:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=_AUTOCAST[self.name])

    def gradient_scaler(self) -> torch.amp.GradScaler:
        """Does nothing except under fp16, so that a step is written once."""
        return torch.amp.GradScaler(self.device.type, enabled=self.name == "fp16")
