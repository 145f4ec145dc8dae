import pytest
import torch

from detcore.ops import native


@pytest.fixture(scope="session", autouse=True)
def native_cpu() -> None:
    if not native.serves("cpu"):
        pytest.skip("the native operators are not built (no compiler, or DETCORE_NATIVE=off)", allow_module_level=True)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    """Each kind of device whose native operators can run here."""
    if request.param == "cuda" and not (torch.cuda.is_available() and native.serves("cuda")):
        pytest.skip("needs a CUDA device and its native operators")
    return str(request.param)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
