"""The detectors as a whole: what counts, what does not, and that they learn."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from detcore.ops import paste_masks
from detcore.structures.batch import Batch
from detcore.structures.boxes import area, iou

Maker = Callable[..., nn.Module]
BatchMaker = Callable[..., Batch]
Rows = Callable[[Batch, list[int]], Batch]
NAMES = ["loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg"]


def total(model: nn.Module, batch: Batch) -> Tensor:
    return torch.stack(list(model.losses(batch).values())).sum()


def with_empty_image(batch: Batch) -> Batch:
    """`batch` and one row that fills it up; its content would matter if it were looked at."""

    def longer(tensor: Tensor) -> Tensor:
        return torch.cat((tensor, tensor[:1]))

    filled = replace(batch.map(longer), rng_key=batch.rng_key)
    real, ids = filled.real.clone(), filled.sample_ids.clone()
    real[-1], ids[-1] = False, -1
    return replace(filled, real=real, sample_ids=ids)


@pytest.mark.parametrize("masks", [False, True])
def test_losses_are_finite_scalars(make_model: Maker, make_batch: BatchMaker, masks: bool) -> None:
    losses = make_model(masks=masks).losses(make_batch())
    assert list(losses) == NAMES + ["loss_mask"] * masks
    assert all(loss.dim() == 0 and loss.isfinite() and loss > 0 for loss in losses.values())


@pytest.mark.parametrize("objects", [0, 3])
def test_gradients_reach_every_parameter(make_model: Maker, make_batch: BatchMaker, objects: int) -> None:
    """Also in a batch without objects: DDP waits for all of them."""
    model = make_model(box_head={"num_convs": 1, "conv_channels": 16, "fc_channels": 32, "norm": "gn"})
    total(model, make_batch(objects=objects)).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_a_batch_without_real_images_has_zero_losses_and_gradients(make_model: Maker, make_batch: BatchMaker) -> None:
    model, batch = make_model(), make_batch(images=1)
    loss = total(model, replace(batch, real=torch.zeros(1, dtype=torch.bool)))
    loss.backward()
    assert loss.item() == 0.0
    assert not any(parameter.grad.any() for parameter in model.parameters())


def test_an_empty_image_changes_no_loss(make_model: Maker, make_batch: BatchMaker) -> None:
    model, batch = make_model().double(), make_batch()
    batch = replace(batch, images=batch.images.double())
    ours, theirs = model.losses(batch), model.losses(with_empty_image(batch))
    for name, loss in ours.items():
        torch.testing.assert_close(theirs[name], loss, atol=0, rtol=1e-12, msg=name)
        assert loss.dtype == torch.float64


def test_random_numbers_follow_the_sample_and_the_step(
    make_model: Maker, make_batch: BatchMaker, rows_of: Rows
) -> None:
    model, batch = make_model(), make_batch(images=3)
    loss = total(model, batch)
    assert total(model, batch) == loss
    torch.testing.assert_close(total(model, rows_of(batch, [2, 0, 1])), loss, rtol=1e-5, atol=0)
    assert total(model, replace(batch, rng_key=torch.tensor([7, 4]))) != loss
    assert total(model, replace(batch, sample_ids=batch.sample_ids + 1)) != loss


@torch.inference_mode()
def test_detections_are_padded_sorted_and_inside(make_model: Maker, make_batch: BatchMaker) -> None:
    model = make_model(selection={"max_detections": 10, "score_threshold": 0.0}).eval()
    batch = make_batch()
    batch = replace(batch, image_sizes=torch.tensor([[64, 64], [40, 24]]))
    found = model.detect(batch)
    assert found.boxes_xyxy.shape == (2, 10, 4) and found.masks.shape == (2, 10, 14, 14)
    assert found.valid.any(dim=1).all()
    assert (found.scores.diff(dim=1) <= 0).all() and not found.scores[~found.valid].any()
    x1, y1, x2, y2 = found.boxes_xyxy[1][found.valid[1]].unbind(-1)
    assert (x1 >= 0).all() and (y1 >= 0).all() and (x2 <= 24).all() and (y2 <= 40).all()
    assert ((found.masks >= 0) & (found.masks <= 1)).all() and not found.masks[~found.valid].any()
    overlap = iou(found.boxes_xyxy, found.boxes_xyxy).triu(1) * (
        (found.labels[:, :, None] == found.labels[:, None]) & found.valid[:, :, None] & found.valid[:, None]
    )
    assert overlap.max() <= 0.5


@torch.inference_mode()
def test_detections_do_not_depend_on_batch_mates(make_model: Maker, make_batch: BatchMaker, rows_of: Rows) -> None:
    model, batch = make_model(selection={"max_detections": 10, "score_threshold": 0.0}).eval(), make_batch(images=3)
    together = model.detect(with_empty_image(batch))
    assert not together.valid[-1].any()
    for image in range(3):
        alone = model.detect(rows_of(batch, [image]))
        assert torch.equal(alone.valid[0], together.valid[image])
        torch.testing.assert_close(alone.scores[0], together.scores[image], atol=1e-6, rtol=0)
        torch.testing.assert_close(alone.boxes_xyxy[0], together.boxes_xyxy[image], atol=1e-4, rtol=0)
        torch.testing.assert_close(alone.masks[0], together.masks[image], atol=1e-5, rtol=0)


@torch.inference_mode()
def test_non_finite_predictions_are_dropped(make_model: Maker, make_batch: BatchMaker) -> None:
    model = make_model(masks=False, selection={"max_detections": 10, "score_threshold": 0.0}).eval()
    model.box_head.box_offsets.bias[0] = torch.nan  # every box of class 0
    model.rpn.objectness.bias[0] = torch.inf  # every anchor of the first shape
    found = model.detect(make_batch())
    assert found.boxes_xyxy.isfinite().all() and found.scores.isfinite().all()
    assert found.valid.any() and not (found.labels[found.valid] == 0).any()


def test_overfits_one_batch(make_model: Maker, make_batch: BatchMaker) -> None:
    """Boxes, classes and masks of a batch that was learned by heart are found again."""
    model, batch = make_model(), make_batch()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 150)
    for step in range(150):
        optimizer.zero_grad()
        total(model, replace(batch, rng_key=torch.tensor([0, step]))).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        schedule.step()
    with torch.inference_mode():
        found = model.eval().detect(batch)
    for image in range(len(batch)):
        known = batch.targets.valid[image]
        truth, labels = batch.targets.boxes_xyxy[image][known], batch.targets.labels[image][known]
        overlap, best = iou(truth, found.boxes_xyxy[image, :3]).max(dim=1)
        assert sorted(best.tolist()) == [0, 1, 2] and (overlap > 0.5).all()
        assert torch.equal(found.labels[image][best], labels) and (found.scores[image][best] > 0.5).all()
        pasted = paste_masks(found.masks[image][best], found.boxes_xyxy[image][best], (64, 64), 0.5)
        filled = pasted.sum(dim=(1, 2)) / area(found.boxes_xyxy[image][best])
        # An ellipse in its box. One mask alone may be 0.2 off: weights that start 1e-6 apart end that far apart.
        assert (filled - math.pi / 4).abs().mean() < 0.12


def test_bfloat16_stays_close(make_model: Maker, make_batch: BatchMaker) -> None:
    model, batch = make_model(), make_batch()
    exact = model.losses(batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = model.losses(batch)
        found = model.eval().detect(batch)
    assert all(loss.dtype == torch.float32 for loss in rough.values())
    # Not the box losses: rounding moves proposals, and so which are sampled.
    for name in ("loss_rpn_cls", "loss_cls", "loss_mask"):
        torch.testing.assert_close(rough[name], exact[name], rtol=0.05, atol=0, msg=name)
    assert found.boxes_xyxy.dtype == found.scores.dtype == found.masks.dtype == torch.float32


def test_masks_need_outlines(make_model: Maker, make_batch: BatchMaker) -> None:
    batch = make_batch()
    with pytest.raises(ValueError, match="no outlines"):
        make_model().losses(replace(batch, targets=replace(batch.targets, polygons=None)))
    with pytest.raises(ValueError, match="no targets"):
        make_model().losses(replace(batch, targets=None))


def test_images_must_fit_the_strides(make_model: Maker, make_batch: BatchMaker) -> None:
    with pytest.raises(ValueError, match=r"72 x 72 pixels.*multiples of 32"):
        make_model().losses(make_batch(size=72))


def test_training_step_compiles_without_graph_breaks_up_to_the_heads(make_model: Maker, make_batch: BatchMaker) -> None:
    model, batch = make_model().eval(), make_batch()

    def dense(images: Tensor) -> tuple[Tensor, Tensor]:
        predictions = model.rpn(model.features(images))
        return predictions.logits, predictions.offsets

    with torch.inference_mode():
        compiled = torch.compile(dense, fullgraph=True, dynamic=False, backend="eager")(batch.images)
        for ours, theirs in zip(compiled, dense(batch.images), strict=True):
            torch.testing.assert_close(ours, theirs)
