"""Your own detector and losses under detcore's loop: `python examples/own_model.py engine.steps=800 optim.lr=0.004`.
One feature level: a cell near an object's middle predicts its class and the distance to its edges (FCOS, Tian 2019)."""

import sys

import torch
from torch import Tensor, nn
from torchvision.ops import generalized_box_iou_loss, sigmoid_focal_loss

import detcore
from detcore.losses import global_mean_divisor
from detcore.ops import nms_padded
from detcore.structures.batch import Batch, Detections

STRIDE = 8


class OneLevel(nn.Module):
    def __init__(self, *, num_classes: int, channels: int = 64) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.trunk, self.head = nn.Sequential(), nn.Conv2d(channels, num_classes + 4, 3, padding=1)
        for before, after, stride in ((3, 32, 2), (32, channels, 2), (channels, channels, 2), (channels, channels, 1)):
            self.trunk.extend([nn.Conv2d(before, after, 3, stride, padding=1), nn.GroupNorm(8, after), nn.ReLU()])
        nn.init.constant_(self.head.bias[:num_classes], -4.6)  # at first 1 % for every class, as focal loss wants

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Class logits (B, N, classes), boxes (B, N, 4) and centres (N, 2) of all N cells."""
        maps = self.head(self.trunk(images))
        centres = torch.cartesian_prod(*(STRIDE * (torch.arange(n).to(maps) + 0.5) for n in maps.shape[2:])).flip(1)
        logits, distances = maps.flatten(2).mT.split([self.num_classes, 4], dim=2)
        left_top, right_bottom = (STRIDE * nn.functional.softplus(distances)).split(2, dim=2)
        return logits, torch.cat((centres - left_top, centres + right_bottom), dim=2), centres

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        logits, boxes, centres = self(batch.images)
        low, high = batch.targets.boxes_xyxy[:, None].split(2, dim=3)
        near = ((centres[:, None] - (low + high) / 2).abs() <= ((high - low) / 4).clamp(min=STRIDE / 2)).all(3)
        areas = (high - low).prod(3).masked_fill(~(near & batch.targets.valid[:, None]), torch.inf)
        area, owner = areas.min(2)  # where objects overlap, the smallest
        positive = area.isfinite()[..., None]
        truth = nn.functional.one_hot(batch.targets.labels.gather(1, owner), self.num_classes) * positive
        wanted = batch.targets.boxes_xyxy.gather(1, owner[..., None].expand(-1, -1, 4))
        class_loss = sigmoid_focal_loss(logits, truth.to(logits)).sum()
        box_loss = generalized_box_iou_loss(boxes, wanted.to(boxes))[..., None].where(positive, 0.0).sum()
        number = global_mean_divisor(positive.sum().to(boxes))  # over all workers
        return {"class_loss": class_loss / number, "box_loss": box_loss / number}

    def detect(self, batch: Batch) -> Detections:
        logits, boxes, _ = self(batch.images)
        scores, labels = logits.sigmoid().max(2)
        boxes = boxes.clamp(min=0).minimum(batch.image_sizes.flip(1).repeat(1, 2)[:, None].to(boxes))
        keep, count = nms_padded(boxes, scores, labels, 0.5, 30, valid=scores > 0.05)
        kept = boxes.gather(1, keep[..., None].expand(-1, -1, 4)), scores.gather(1, keep), labels.gather(1, keep)
        return Detections(*kept, valid=torch.arange(30).to(count) < count[:, None])


if __name__ == "__main__":
    print(detcore.fit(model=OneLevel(num_classes=10), data="digits", config=sys.argv[1:]).best_metrics)
