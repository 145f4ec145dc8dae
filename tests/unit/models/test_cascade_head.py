"""The cascade against its definition, written out stage by stage, and what its configuration refuses."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from detcore.config.model import FasterRCNN
from detcore.models.heads import cascade_head
from detcore.structures.batch import Batch
from detcore.structures.boxes import iou

CASCADE = {"type": "cascade", "fc_channels": 32, "sampling_ratio": 2}


def captured(model: nn.Module, batch: Batch) -> tuple[list[Tensor], list[tuple[Tensor, Tensor]], dict[str, Tensor]]:
    """Each stage's (boxes, valid) in a training step, the features and the losses."""
    seen: list[tuple[Tensor, Tensor]] = []
    features: list[Tensor] = []
    for stage in model.box_head.stages:

        def watch(
            maps: list[Tensor], boxes: Tensor, valid: Tensor, hidden: Callable[..., Tensor] = stage.hidden
        ) -> Tensor:
            features[:] = maps
            seen.append((boxes, valid))
            return hidden(maps, boxes, valid)

        stage.hidden = watch
    losses = model.losses(batch)
    return features, seen, losses


def test_stages_train_on_moved_regions_matched_at_their_own_iou(
    make_model: Callable[..., nn.Module], make_batch: Callable[..., Batch]
) -> None:
    model, batch = make_model(masks=False, box_head=CASCADE), make_batch()
    head = model.box_head
    for stage in head.stages:
        nn.init.normal_(stage.box_offsets.weight, std=0.05)
    originals = [stage.hidden for stage in head.stages]
    features, seen, losses = captured(model, batch)
    assert len(seen) == 3
    for number, (boxes, valid) in enumerate(seen):
        stage = head.stages[number]
        hidden = originals[number](features, boxes, valid)
        if number + 1 < len(seen):
            moved = stage.box_coder.decode(boxes, stage.box_offsets(hidden)).clamp(0, 64)
            torch.testing.assert_close(seen[number + 1][0], moved)
        if number == 0:
            continue
        objects = batch.targets
        overlaps = iou(boxes, objects.boxes_xyxy) * objects.valid[:, None]
        best, index = overlaps.max(dim=-1)
        positive = (best >= (0.5, 0.6, 0.7)[number]) & valid
        labels = torch.where(positive, objects.labels.gather(1, index), 3)
        logits = stage.class_logits(hidden)
        entropy = nn.functional.cross_entropy(logits[valid], labels[valid])
        torch.testing.assert_close(losses[f"loss_cls_stage{number}"], entropy)
        matched = objects.boxes_xyxy.gather(1, index[..., None].expand(-1, -1, 4))
        wanted = stage.box_coder.encode(boxes, matched)
        distance = (stage.box_offsets(hidden) - wanted).abs().sum(dim=-1)[positive].sum() / valid.sum()
        torch.testing.assert_close(losses[f"loss_box_reg_stage{number}"], distance)


def test_regions_that_become_empty_count_no_more(
    make_model: Callable[..., nn.Module], make_batch: Callable[..., Batch]
) -> None:
    model, batch = make_model(masks=False, box_head=CASCADE), make_batch()
    first = model.box_head.stages[0].box_offsets
    nn.init.zeros_(first.weight)
    first.bias.data = torch.tensor([-1e4, 0.0, 0.0, 0.0])  # to the left of the image
    _, seen, losses = captured(model, batch)
    assert not seen[1][1].any() and not seen[2][1].any()
    assert losses["loss_cls_stage1"] == 0 and losses["loss_box_reg_stage2"] == 0
    assert losses["loss_cls_stage0"] > 0
    sum(losses.values()).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    first.bias.data.fill_(float("nan"))
    detections = model.eval().detect(batch)
    assert not detections.valid.any()


def test_features_get_a_third_of_three_stages_gradient(
    make_model: Callable[..., nn.Module], make_batch: Callable[..., Batch]
) -> None:
    model, batch = make_model(masks=False, box_head=CASCADE), make_batch()
    features = [feature.detach().requires_grad_() for feature in model.features(batch.images)[:4]]
    predictions = model.rpn(model.features(batch.images))
    proposals = model.rpn.propose(predictions, batch.image_sizes, model.rpn.train_limits)
    regions = model.region_sampler(proposals, batch, batch.targets)
    sum(model.box_head.losses(features, regions, batch).values()).backward()
    scaled = features[0].grad.clone()
    features[0].grad = None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cascade_head._ScaledGradient, "apply", lambda feature, scale: feature)
        sum(model.box_head.losses(features, regions, batch).values()).backward()
    torch.testing.assert_close(3 * scaled, features[0].grad)
    assert scaled.any()


def test_scores_are_the_stages_mean(make_model: Callable[..., nn.Module], make_batch: Callable[..., Batch]) -> None:
    model, batch = make_model(masks=False, box_head={**CASCADE, "class_loss": "sigmoid"}).eval(), make_batch()
    for number, stage in enumerate(model.box_head.stages):
        nn.init.zeros_(stage.class_logits.weight)
        stage.class_logits.bias.data = torch.tensor([0.0, 1.0, -2.0, 9.0]) + number
    with torch.no_grad():
        features, predictions = model.dense(batch.images)
        proposals = model.rpn.propose(predictions, batch.image_sizes, model.rpn.test_limits)
        scores = model.box_head.predict(features[:4], proposals).scores
    expected = torch.stack([(torch.tensor([0.0, 1.0, -2.0]) + number).sigmoid() for number in range(3)]).mean(dim=0)
    torch.testing.assert_close(scores, expected.expand_as(scores))


def test_federated_losses_need_counts(make_model: Callable[..., nn.Module], make_batch: Callable[..., Batch]) -> None:
    head = {**CASCADE, "class_loss": "sigmoid", "federated": {"num_classes_per_image": 2}}
    with pytest.raises(ValueError, match="class_counts"):
        make_model(masks=False, box_head=head).losses(make_batch())
    with pytest.raises(ValueError, match="2 counts, but there are 3 classes"):
        make_model(masks=False, box_head={**head, "federated": {"class_counts": [1, 2]}})
    counted = {**head, "federated": {"num_classes_per_image": 2, "class_counts": [1, 2, 3]}}
    model, batch = make_model(masks=False, box_head=counted), make_batch()
    again = model.losses(replace(batch, rng_key=torch.tensor([7, 4])))
    assert any(not torch.equal(loss, again[name]) for name, loss in model.losses(batch).items() if "cls" in name)


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ({"type": "cascade", "ious": [0.6, 0.7, 0.8]}, r"positive_iou 0\.5: make them equal"),
        ({"type": "cascade", "ious": [0.5, 0.6]}, "ious has 2 stages and box_weights 3"),
        ({"federated": {}}, "class_loss=sigmoid"),
    ],
)
def test_what_does_not_fit_is_refused(head: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FasterRCNN(name="x", backbone={"type": "timm", "name": "x"}, box_head=head)
