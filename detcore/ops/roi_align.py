"""RoIAlign: features of fixed size from boxes of any size."""

import torch
import torchvision
from torch import Tensor


def roi_align(
    features: Tensor,
    rois: Tensor,
    output_size: int | tuple[int, int],
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool = True,
) -> Tensor:
    """RoIAlign (He et al., Mask R-CNN, 2017, section 3), as torchvision's, but defined for every input.

    Args:
        features: (B, C, H, W) float, any memory format; bf16 and fp16 are computed in fp32.
        rois: (K, 5), (batch index, x1, y1, x2, y2) in input pixels.
        output_size: height and width of the output.
        spatial_scale: feature pixels per input pixel.
        sampling_ratio: samples per bin and axis; 0 or less means as many as the bin has feature pixels, rounded up.
        aligned: shift by half a feature pixel, so that a pixel's centre lies at .5; False is the older convention,
            which also stretches RoIs to at least one feature pixel.

    Returns:
        (K, C, height, width) in the dtype of the features; differentiable in them. It is 0 for a RoI with a non-finite
        number or whose batch index names no image. Coordinates are clamped to three map
        lengths outside the feature map, which bounds the number of samples.
    """
    dtype = features.dtype
    if dtype in (torch.bfloat16, torch.float16):
        features = features.float()
    rois = _defined(rois.detach().to(features.dtype), features, spatial_scale)
    if features.shape[0] == 0:  # no image for any RoI to read
        height, width = (output_size, output_size) if isinstance(output_size, int) else output_size
        return features.new_zeros((len(rois), features.shape[1], height, width), dtype=dtype)
    pooled: Tensor = torchvision.ops.roi_align(features, rois, output_size, spatial_scale, sampling_ratio, aligned)
    return pooled.to(dtype)


def _defined(rois: Tensor, features: Tensor, spatial_scale: float) -> Tensor:
    """RoIs whose samples all have an address: torchvision's kernels read out of bounds for the others.

    Undefined ones go to an empty box so far outside of image 0 that all its samples are 0.
    """
    batch, reach = features.shape[0], max(features.shape[-2:]) / spatial_scale
    index, boxes = rois[:, :1], rois[:, 1:]
    usable = rois.isfinite().all(dim=1, keepdim=True) & (index >= 0) & (index < batch)
    boxes = torch.where(usable, boxes.clamp(-3 * reach, 4 * reach), -8 / spatial_scale)
    return torch.cat((torch.where(usable, index, 0), boxes), dim=1)
