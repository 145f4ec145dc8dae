"""The plain vision transformer against its definition written out, and against timm's."""

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detcore.config.model import ViTBackbone
from detcore.models.backbones.vit import Attention, Block, ViT, relative, resampled
from detcore.structures.batch import Batch

SMALL = {
    "channels": 8,
    "depth": 3,
    "num_heads": 2,
    "window_size": 3,
    "global_blocks": [1],
    "pretraining_size": 48,
    "table_size": 64,
    "square_size": None,
    "drop_path": 0.0,
}


def vit(**settings: Any) -> ViT:
    """Small, with every parameter away from where it starts."""
    torch.manual_seed(0)
    model = ViT(**ViTBackbone(**{**SMALL, **settings}).model_dump(exclude={"type", "weights"}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


def attended(attention: Attention, x: Tensor, tables: tuple[Tensor, Tensor] | None) -> Tensor:
    """(h, w, C) -> (h, w, C): arXiv:2112.01526, equation 4, one query and one head at a time.

    `tables` have at [distance + places - 1] the position of a distance in rows and in columns.
    """
    height, width, channels = x.shape
    heads = attention.num_heads
    size = channels // heads
    places = list(itertools.product(range(height), range(width)))
    q, k, v = attention.qkv(x).split(channels, dim=-1)
    out = torch.zeros_like(x)
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        for row, column in places:
            query = q[row, column, part]
            logits = []
            for other_row, other_column in places:
                logit = query @ k[other_row, other_column, part] / math.sqrt(size)
                if tables is not None:
                    logit = logit + query @ tables[0][row - other_row + height - 1]
                    logit = logit + query @ tables[1][column - other_column + width - 1]
                logits.append(logit)
            weights = torch.stack(logits).softmax(0)
            out[row, column, part] = sum(w * v[r, c, part] for w, (r, c) in zip(weights, places, strict=True))
    return attention.proj(out)


def block_by_definition(block: Block, x: Tensor) -> Tensor:
    """(h, w, C) -> (h, w, C), windows one after another, the last ones filled with zeros."""
    inner, attention = block.norm1(x), block.attn
    if block.window_size:
        size = block.window_size
        rows, columns = math.ceil(x.shape[0] / size), math.ceil(x.shape[1] / size)
        filled = torch.zeros(rows * size, columns * size, x.shape[2])
        filled[: x.shape[0], : x.shape[1]] = inner
        for row, column in itertools.product(range(rows), range(columns)):
            window = (slice(row * size, (row + 1) * size), slice(column * size, (column + 1) * size))
            filled[window] = attended(attention, filled[window], (attention.rel_pos_h, attention.rel_pos_w))
        inner = filled[: x.shape[0], : x.shape[1]]
    else:
        tables = tuple(
            F.interpolate(table.T[None], size=2 * places - 1, mode="linear")[0].T
            for table, places in zip((attention.rel_pos_h, attention.rel_pos_w), x.shape[:2], strict=True)
        )
        inner = attended(attention, inner, tables)
    x = x + inner
    return x + block.mlp.fc2(F.gelu(block.mlp.fc1(block.norm2(x))))


@torch.no_grad()
def test_the_network_is_its_definition() -> None:
    model, images = vit(), torch.randn(2, 3, 64, 96)
    (found,) = model(images)
    for image, expected in zip(images, found, strict=True):
        x = F.conv2d(image[None], model.patch_embed.weight, model.patch_embed.bias, stride=16)
        table = model.pos_embed[0, 1:].T.view(1, 8, 3, 3)
        x = (x + F.interpolate(table, size=(4, 6), mode="bicubic"))[0].permute(1, 2, 0)
        for block in model.blocks:
            x = block_by_definition(block, x)
        torch.testing.assert_close(expected.permute(1, 2, 0), x, atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("window_size", [0, 4])
def test_without_windows_and_relative_positions_it_is_timms(window_size: int) -> None:
    """On 64 pixels one window of 4 patches is the whole image."""
    theirs = timm.create_model(
        "vit_tiny_patch16_224", img_size=64, class_token=False, global_pool="avg", fc_norm=False, num_classes=0
    ).eval()
    theirs.norm = nn.Identity()
    ours = vit(
        channels=192,
        depth=12,
        num_heads=3,
        window_size=window_size,
        relative_positions=False,
        class_token=False,
        pretraining_size=64,
    )
    ours.load_state_dict(
        {name.replace("patch_embed.proj", "patch_embed"): t for name, t in theirs.state_dict().items()}
    )
    images = torch.randn(2, 3, 64, 64)
    expected = theirs.forward_features(images).transpose(1, 2).unflatten(2, (4, 4))
    torch.testing.assert_close(ours(images)[0], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("length", "size"), [(14, 64), (27, 11), (7, 127), (5, 5)])
def test_resampling_is_interpolation(length: int, size: int) -> None:
    table = torch.randn(length, 6, dtype=torch.float64)
    linear = F.interpolate(table.T[None], size=size, mode="linear")[0].T
    torch.testing.assert_close(resampled(table, size, mode="linear"), linear)
    bicubic = F.interpolate(table.T[None, :, :, None], size=(size, 1), mode="bicubic")[0, :, :, 0].T
    torch.testing.assert_close(resampled(table, size, mode="bicubic"), bicubic)


def test_relative_positions_of_a_part_are_those_of_the_whole() -> None:
    table = torch.randn(2 * 8 - 1, 3)
    whole = relative(table, 8, 8)
    assert whole.shape == (8, 3, 8)
    for row, other in itertools.product(range(8), range(8)):
        assert torch.equal(whole[row, :, other], table[row - other + 7])
    assert torch.equal(relative(table, 5, 8), whole[:5, :, :5])


@torch.no_grad()
def test_relative_positions_are_the_same_where_a_graph_of_any_size_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    table = torch.randn(9, 3)
    eager = [relative(table, size, 8) for size in (1, 5, 8)]
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    for expected in eager:
        assert torch.equal(relative(table, len(expected), 8), expected)


def test_a_bucket_gives_the_padded_squares_numbers() -> None:
    """Where windows of the square lie in the bucket and nothing attends beyond them: whatever the bucket's shape."""
    model = vit(square_size=192, global_blocks=[])
    square = torch.randn(1, 3, 192, 192)
    (expected,) = model(square)
    for height, width in ((96, 144), (192, 48), (48, 192)):  # windows are 48 pixels
        (found,) = model(square[..., :height, :width])
        torch.testing.assert_close(found, expected[..., : height // 16, : width // 16], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_global_attention_sees_the_squares_positions() -> None:
    """The first global block's logits, on a part of a square, are those of the whole square."""
    model = vit(square_size=128)
    attention = model.blocks[1].attn
    q = torch.randn(1, 2, 64, 4)
    whole = attention._bias(q, (8, 8), (8, 8)).view(2, 8, 8, 8, 8)
    part = attention._bias(q.view(1, 2, 8, 8, 4)[:, :, :5, :6].flatten(2, 3), (5, 6), (8, 8)).view(2, 5, 6, 5, 6)
    torch.testing.assert_close(part, whole[:, :5, :6, :5, :6])


@torch.no_grad()
@pytest.mark.parametrize("square_size", [None, 64, 1024])
@pytest.mark.parametrize("size", [(32, 32), (96, 64), (64, 224)])
def test_images_may_have_any_size(size: tuple[int, int], square_size: int | None) -> None:
    (found,) = vit(square_size=square_size)(torch.randn(1, 3, *size))
    assert found.shape == (1, 8, size[0] // 16, size[1] // 16) and found.isfinite().all()


def test_square_and_stretched_positions_agree_on_the_square() -> None:
    images = torch.randn(1, 3, 96, 96)
    torch.testing.assert_close(vit(square_size=96)(images), vit(square_size=None)(images))


def test_convolutions_behind_a_block_start_as_nothing() -> None:
    torch.manual_seed(0)
    settings = ViTBackbone(**SMALL, residual_blocks=[1]).model_dump(exclude={"type", "weights"})
    plain, with_convs = ViT(**{**settings, "residual_blocks": ()}).eval(), ViT(**settings).eval()
    with_convs.load_state_dict(plain.state_dict(), strict=False)
    images = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(with_convs(images), plain(images))


def test_checkpointing_changes_nothing_but_memory() -> None:
    plain, saving = vit(residual_blocks=[1]).train(), vit(residual_blocks=[1], checkpointing=True).train()
    images = torch.randn(1, 3, 64, 64)
    for model in (plain, saving):
        model(images)[0].square().sum().backward()
    for ours, theirs in zip(saving.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


def test_positions_are_not_rounded_by_autocast() -> None:
    table = torch.randn(14, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under = resampled(table, 64, mode="bicubic")
    assert torch.equal(under, resampled(table, 64, mode="bicubic"))


def test_what_a_step_leaves_out_depends_on_the_sample(
    make_batch: Callable[..., Batch], rows_of: Callable[[Batch, list[int]], Batch]
) -> None:
    model, batch = vit(drop_path=0.9).train(), make_batch(images=3)
    with pytest.raises(ValueError, match=r"must call backbone\.draw\(batch\) first"):
        model(batch.images)
    model.draw(batch)
    (together,) = model(batch.images)
    company = rows_of(batch, [2, 0])
    model.draw(company)
    torch.testing.assert_close(model(company.images)[0], together[[2, 0]], atol=1e-5, rtol=1e-5)
    model.draw(replace(batch, rng_key=batch.rng_key + torch.tensor([0, 1])))
    assert not torch.allclose(model(batch.images)[0], together)
    model.eval()
    torch.testing.assert_close(model(batch.images)[0], vit(drop_path=0.9)(batch.images)[0])


def test_layers_above() -> None:
    """With 12 blocks, a rate of 0.7 to the power of 13 for the patches, of 12 for block 0, of 1 for block 11."""
    model = vit(depth=12, residual_blocks=[3])
    above = {name: model.layers_above(name) for name, _ in model.named_parameters()}
    assert above["pos_embed"] == above["patch_embed.weight"] == above["patch_embed.bias"] == 13
    assert above["blocks.0.attn.rel_pos_h"] == above["blocks.0.norm1.bias"] == 12
    assert above["blocks.11.mlp.fc2.weight"] == 1
    assert above["blocks.3.norm2.weight"] == 9 and above["blocks.3.residual.conv1.weight"] == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_heads": 3}, "num_heads 3 does not divide channels 8"),
        ({"global_blocks": [3]}, "no block 3, depth is 3"),
        ({"pretraining_size": 8}, "pretraining_size 8 is less than one patch"),
    ],
)
def test_settings_that_do_not_fit(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ViTBackbone(**{**SMALL, **settings})
