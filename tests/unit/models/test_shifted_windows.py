"""Swin's windows on maps that they do not divide. Expected: what timm computes of the map in whole windows."""

import timm
import torch
from torch.nn import functional as F

from detcore.models.backbones.shifted_windows import replace_shifted_windows
from detcore.models.backbones.timm_backbone import TimmBackbone


def blocks(name: str) -> tuple[torch.nn.Module, torch.nn.Module]:
    """The shifted block of the first stage, timm's and ours, of the same weights."""
    torch.manual_seed(0)
    body = timm.create_model(name, strict_img_size=False, always_partition=True).eval()
    theirs = body.layers[0].blocks[1]
    ours = timm.create_model(name, strict_img_size=False, always_partition=True).eval()
    ours.load_state_dict(body.state_dict())
    replace_shifted_windows(ours)
    assert any(theirs.shift_size)
    return theirs, ours.layers[0].blocks[1]


def test_a_map_is_padded_to_whole_windows_before_they_shift() -> None:
    theirs, ours = blocks("swin_tiny_patch4_window7_224")
    x = torch.randn(2, 12, 16, 96)
    whole = F.pad(x, (0, 0, 0, 21 - 16, 0, 14 - 12))
    torch.testing.assert_close(ours._attn(x), theirs._attn(whole)[:, :12, :16])
    torch.testing.assert_close(ours._attn(whole), theirs._attn(whole))


def test_the_last_row_does_not_see_the_first() -> None:
    for name, window in (("swin_tiny_patch4_window7_224", 7), ("swinv2_tiny_window8_256", 8)):
        _, ours = blocks(name)
        x = torch.randn(1, 2 * window - 1, 2 * window - 1, 96)
        other = x.clone()
        other[:, 0] += 1
        assert torch.equal(ours._attn(x)[:, -1], ours._attn(other)[:, -1])


def test_feature_norms_and_a_size_divisor() -> None:
    plain, normed = (
        TimmBackbone(
            name="swin_tiny_patch4_window7_224",
            norm="bn",
            frozen_stages=0,
            pretrained=False,
            feature_norms=norms,
            size_divisor=48,
        ).eval()
        for norms in (False, True)
    )
    assert plain.size_divisor == 96
    normed.body.load_state_dict(plain.body.state_dict())
    images = torch.randn(1, 3, 96, 96)
    for before, after in zip(plain(images), normed(images), strict=True):
        torch.testing.assert_close(after, F.layer_norm(before.movedim(1, 3), before.shape[1:2]).movedim(3, 1))
