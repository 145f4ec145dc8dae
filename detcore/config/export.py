"""What a run's model is exported to."""

from typing import Literal

from pydantic import NonNegativeFloat

from detcore.config.section import Section


class ExportConfig(Section):
    formats: tuple[Literal["onnx", "openvino", "torch", "aoti"], ...] = ()
    """What the stage `export` writes, and keeps with the registered version; none by default."""
    int8: bool = False
    """ONNX and OpenVINO: calibrated on the train split, measured on val."""
    max_ap_loss: NonNegativeFloat = 1.0
    """In points, of any kind of prediction: where int8 costs more, the stage fails."""
