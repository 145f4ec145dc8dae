"""PointRend's points and masks against the paper's procedure (arXiv:1912.08193), spelt out."""

from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from small_detectors import NUM_CLASSES, SMALL
from torch import Tensor, nn

from detcore.config.model import PointHead as PointHeadSection
from detcore.config.model import PointRend
from detcore.models import build_model
from detcore.models.heads.point_head import PointHead, of_class
from detcore.models.heads.point_sampling import drawn_at, features_at, grid_centres, masks_at
from detcore.ops import paste_masks, roi_align
from detcore.structures.batch import Batch


def built(**sections: object) -> nn.Module:
    torch.manual_seed(0)
    config = PointRend(**{**SMALL["point_rend"].model_dump(), **sections})
    return build_model(config, num_classes=NUM_CLASSES)


def head(**settings: object) -> PointHead:
    section = {**PointHeadSection(fc_channels=8).model_dump(), **settings}
    torch.manual_seed(0)
    made = PointHead(in_channels=6, strides=(4, 8), num_classes=3, coarse_size=7, **section)
    nn.init.normal_(made.predictor.weight)
    return made


def inputs() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A feature map, boxes, labels and coarse masks of 2 images with 2 regions."""
    generator = torch.Generator().manual_seed(1)
    boxes = torch.tensor([[[8.0, 8, 40, 50], [3, 20, 30, 33]], [[0, 0, 64, 64], [-9, -5, 20, 70]]])
    feature = torch.randn(2, 6, 16, 16, generator=generator)
    return feature, boxes, torch.tensor([[0, 2], [1, 1]]), torch.randn(4, 3, 7, 7, generator=generator)


def test_a_grid_of_points_is_roi_align_with_one_sample() -> None:
    feature, boxes, _, _ = inputs()
    inner = boxes[:1].clamp(4, 56)
    points = grid_centres(5, boxes.device).expand(1, 2, -1, -1)
    found = features_at(feature[:1], 4, inner, points)
    rois = torch.cat((torch.zeros(2, 1), inner[0]), dim=1)
    expected = roi_align(feature[:1], rois, 5, 1 / 4, 1)
    torch.testing.assert_close(found[0].transpose(1, 2).unflatten(2, (5, 5)), expected)


def test_points_of_drawn_masks_are_the_pixels_they_lie_in() -> None:
    drawn = torch.rand(3, 9, 9) > 0.5
    points = torch.rand(3, 50, 2)
    found = drawn_at(drawn, points)
    for mask in range(3):
        for point in range(50):
            x, y = (int(9 * coordinate) for coordinate in points[mask, point].tolist())
            assert found[mask, point] == drawn[mask, y, x]


def test_training_points_are_the_least_certain_and_uniform_ones(make_batch: Callable[..., Batch]) -> None:
    made, (_, _, labels, coarse) = head(train_points=40, oversampling=3.0, importance=0.75), inputs()
    logits, batch = of_class(coarse, labels), make_batch()
    points = made._training_points(logits, labels, batch)
    assert points.shape == (4, 40, 2) and points.min() >= 0 and points.max() < 1
    candidates = made._uniform(labels, 120, 30, batch)
    for region in range(4):
        certainty = masks_at(logits[region, None, None], candidates[region, None]).flatten().abs()
        nearest = candidates[region, certainty.argsort()[:30]]
        chosen = {tuple(point) for point in points[region, :30].tolist()}
        assert chosen == {tuple(point) for point in nearest.tolist()}
    assert torch.equal(points[:, 30:], made._uniform(labels, 10, 32, batch))


def test_points_are_keyed_by_the_sample(
    make_batch: Callable[..., Batch], rows_of: Callable[[Batch, list[int]], Batch]
) -> None:
    made, labels, batch = head(), torch.zeros(3, 5, dtype=torch.long), make_batch(images=3)
    together = made._uniform(labels, 20, 30, batch).unflatten(0, (3, 5))
    alone = made._uniform(labels[:1], 20, 30, rows_of(batch, [2]))
    assert torch.equal(together[2], alone)
    assert len(together.flatten(0, 2).unique(dim=0)) == 3 * 5 * 20


def test_masks_are_refined_as_in_the_paper() -> None:
    """Section 3.1, from the coarse mask's own resolution on and with no step left out."""
    made = head(subdivisions=4, subdivision_points=200)
    feature, boxes, labels, coarse = inputs()
    size, mask = 7, made(feature, boxes, labels, coarse, grid_centres(7, boxes.device).expand(4, -1, -1))
    mask = mask.view(4, 7, 7)
    for _ in range(4):
        mask = F.interpolate(mask[:, None], scale_factor=2, mode="bilinear", align_corners=False)[:, 0]
        size *= 2
        centre = (torch.arange(size) + 0.5) / size
        anew = made(feature, boxes, labels, coarse, torch.cartesian_prod(centre, centre).flip(-1).expand(4, -1, -1))
        for region in range(4):
            order = mask[region].flatten().abs().argsort()[: min(200, size * size)]
            mask[region].view(-1)[order] = anew[region, order]
    assert (made.first_size, made.subdivisions) == (14, 3)
    found = made.refine(feature, boxes, labels, coarse)
    assert found.shape == (2, 2, 112, 112)
    assert (found.flatten(0, 1) - mask).abs().gt(1e-4).float().mean() < 1e-3  # ties may fall either way


def test_the_published_mask_is_224_pixels_wide() -> None:
    made = head()
    # 28 x 28 points: the first 28 x 28 mask is computed whole, and three doublings are left.
    assert (made.first_size, made.subdivisions, made.mask_size) == (28, 3, 224)


def test_masks_are_pasted_into_an_image_of_any_size(make_batch: Callable[..., Batch]) -> None:
    model, batch = built().eval(), make_batch()
    with torch.inference_mode():
        detections = model.detect(batch)
    assert detections.masks.shape == (2, 10, 56, 56)
    assert not detections.masks[~detections.valid].any()
    pasted = paste_masks(torch.ones_like(detections.masks[0]), detections.boxes_xyxy[0], (61, 57), 0.5)
    assert pasted.shape == (10, 61, 57)
    assert torch.equal(pasted.any(dim=(1, 2)), detections.valid[0] & pasted.any(dim=(1, 2)))


def test_images_without_objects_have_no_mask_loss(make_batch: Callable[..., Batch]) -> None:
    batch = make_batch()
    empty = replace(batch, targets=replace(batch.targets, valid=torch.zeros_like(batch.targets.valid)))
    losses = built().losses(empty)
    assert losses["loss_mask"] == 0 and losses["loss_mask_point"] == 0
