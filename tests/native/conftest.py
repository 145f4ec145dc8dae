import pytest
import torch

from detcore.ops import native


@pytest.fixture(scope="session", autouse=True)
def native_cpu() -> None:
    if not native.serves("cpu"):
        pytest.skip("the native operators are not built (no compiler, or DETCORE_NATIVE=off)", allow_module_level=True)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
