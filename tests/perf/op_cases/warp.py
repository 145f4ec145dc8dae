"""Raw pixels to the network's input."""

from collections.abc import Iterator

import torch

from detcore import ops
from detcore.ops.warp import warp_normalize_reference
from op_cases.case import Case

HEIGHT, WIDTH = 800, 1088


def warp_cases(device: str) -> Iterator[Case]:
    # A step's batch on a GPU; on the CPU one image, as a loader's thread takes them.
    batch = 16 if device == "cuda" else 1
    images = [torch.randint(0, 256, (480, 640, 3), dtype=torch.uint8, device=device) for _ in range(batch)]
    content, mean, std = torch.tensor([[800, 1067]]).repeat(batch, 1), (120.0, 110.0, 100.0), (58.0, 57.0, 56.0)
    plain, mixed = torch.eye(3, 4)[None], torch.tensor([[[1.1, 0.1, 0, 3], [0, 0.9, 0.1, -2], [0, 0, 1, 0]]])
    resize = torch.tensor([[[800 / 480, 0, 0], [0, 800 / 480, 0], [0, 0, 1]]])
    turn = torch.tensor([[[1.6, 0.3, -80], [-0.3, 1.6, 60], [0, 0, 1]]])
    kinds = (("resize", resize, plain, 0.08), ("resize, colour", resize, mixed, 0.08), ("turn", turn, plain, 0.5))
    for name, geometry, colour, milliseconds in kinds:
        geometry, colour = geometry.repeat(batch, 1, 1), colour.repeat(batch, 1, 1)
        for dtype in (torch.bfloat16, torch.float32):
            numbers = batch * 3 * HEIGHT * WIDTH
            slower = 2 if dtype == torch.float32 and name != "turn" else 1  # twice the bytes
            yield Case(
                f"warp_normalize, {batch} 640x480 to 1067x800, {name}, {str(dtype)[6:]}",
                lambda g=geometry, c=colour, d=dtype: ops.warp_normalize(
                    images, g, c, (HEIGHT, WIDTH), content_sizes=content, mean=mean, std=std, dtype=d
                ),
                lambda g=geometry, c=colour, d=dtype: warp_normalize_reference(
                    images, g, c, (HEIGHT, WIDTH), content, mean, std, d
                ),
                milliseconds * slower if device == "cuda" else 1.0,
                moved=batch * 480 * 640 * 3 + numbers * torch.finfo(dtype).bits // 8,
            )
