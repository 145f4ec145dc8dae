"""Raw pixels to the network's input."""

from collections.abc import Iterator

import torch

from detcore import ops
from detcore.ops.warp import warp_normalize_reference
from op_cases.case import Case


def warp_cases(device: str) -> Iterator[Case]:
    image = torch.randint(0, 256, (480, 640, 3), dtype=torch.uint8, device=device)
    content, mean, std = torch.tensor([[800, 1067]]), (120.0, 110.0, 100.0), (58.0, 57.0, 56.0)
    plain, mixed = torch.eye(3, 4)[None], torch.tensor([[[1.1, 0.1, 0, 3], [0, 0.9, 0.1, -2], [0, 0, 1, 0]]])
    resize = torch.tensor([[[800 / 480, 0, 0], [0, 800 / 480, 0], [0, 0, 1]]])
    turn = torch.tensor([[[1.6, 0.3, -80], [-0.3, 1.6, 60], [0, 0, 1]]])
    for name, geometry, colour in (("resize", resize, plain), ("resize, colour", resize, mixed), ("turn", turn, plain)):
        for dtype in (torch.float32, torch.bfloat16):
            yield Case(
                f"warp_normalize 640x480 to 1067x800, {name}, {str(dtype)[6:]}",
                lambda g=geometry, c=colour, d=dtype: ops.warp_normalize(
                    [image], g, c, (800, 1088), content_sizes=content, mean=mean, std=std, dtype=d
                ),
                lambda g=geometry, c=colour, d=dtype: warp_normalize_reference(
                    [image], g, c, (800, 1088), content, mean, std, d
                ),
                0.1 if device == "cuda" else 1.0,
            )
