"""PointRend's masks, computed anew at the points where they are least certain: arXiv:1912.08193, section 3."""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detcore.losses.mask import mask_loss
from detcore.models.heads.point_sampling import (
    centres,
    drawn_at,
    features_at,
    grid_centres,
    least_certain,
    masks_at,
)
from detcore.models.initialization import for_relu, normal, start
from detcore.ops import keyed_uniform
from detcore.structures.batch import Batch

OVERSAMPLED_SITE, UNIFORM_SITE = 30, 32
"""Key this module's random numbers; every place that draws has its own."""


class PointHead(nn.Module):
    """A small network applied to every point by itself: its fine features and its coarse mask, of all classes.

    Args:
        in_channels: of the pyramid.
        strides: of its levels, in pixels; the first one's is used.
        num_classes: without the background.
        num_fcs, fc_channels: layers before the last.
        class_agnostic: one mask for all classes instead of one for each.
        coarse_in_each_layer: whether all layers see the coarse mask, or the first alone.
        train_points: points of each region that it trains on.
        oversampling: so many times the points are drawn to choose the least certain from.
        importance: the fraction of points that are chosen so; the others are uniform.
        coarse_size: height and width of a coarse mask.
        subdivisions: doublings from it to the mask that is given.
        subdivision_points: points computed anew in each.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        strides: Sequence[int],
        num_classes: int,
        num_fcs: int,
        fc_channels: int,
        class_agnostic: bool,
        coarse_in_each_layer: bool,
        train_points: int,
        oversampling: float,
        importance: float,
        coarse_size: int,
        subdivisions: int,
        subdivision_points: int,
    ) -> None:
        super().__init__()
        self.stride, self.class_agnostic, self.coarse_in_each_layer = strides[0], class_agnostic, coarse_in_each_layer
        self.train_points, self.importance = train_points, importance
        self.oversampled = int(train_points * oversampling)
        self.mask_size = coarse_size << subdivisions
        # Doublings after which every pixel would be computed anew are left out.
        while subdivisions and 4 * coarse_size**2 <= subdivision_points:
            coarse_size, subdivisions = 2 * coarse_size, subdivisions - 1
        self.first_size, self.subdivisions, self.subdivision_points = coarse_size, subdivisions, subdivision_points
        coarse = num_classes if coarse_in_each_layer else 0
        inputs = [in_channels + num_classes] + [fc_channels + coarse] * num_fcs
        fcs = [nn.Linear(width, fc_channels) for width, _ in pairwise(inputs)]
        self.fcs = nn.ModuleList(fcs)
        self.predictor = nn.Linear(inputs[-1], 1 if class_agnostic else num_classes)
        start(fcs, for_relu)
        start([self.predictor], normal(0.001))

    def forward(self, feature: Tensor, boxes_xyxy: Tensor, labels: Tensor, coarse: Tensor, points: Tensor) -> Tensor:
        """Logits of points for the class of their region.

        Args:
            feature: (B, C, h, w), the finest level.
            boxes_xyxy, labels: (B, R, 4) and (B, R).
            coarse: (B * R, num_classes, S, S) logits.
            points: (B * R, N, 2), see `point_sampling`.

        Returns:
            (B * R, N), at least float32.
        """
        fine = features_at(feature, self.stride, boxes_xyxy, points.unflatten(0, labels.shape)).flatten(0, 1)
        guess = masks_at(coarse, points)
        x = torch.cat((fine, guess), dim=-1)
        for layer in self.fcs:
            x = F.relu(layer(x), inplace=True)
            if self.coarse_in_each_layer:
                x = torch.cat((x, guess.to(x.dtype)), dim=-1)
        flat = labels.flatten()
        classes = torch.zeros_like(flat) if self.class_agnostic else flat.clamp(max=self.predictor.out_features - 1)
        logits = torch.bmm(x, self.predictor.weight[classes].unsqueeze(-1).to(x.dtype)).squeeze(-1)
        return (logits + self.predictor.bias[classes, None]).to(guess.dtype)

    def losses(
        self,
        feature: Tensor,
        boxes_xyxy: Tensor,
        labels: Tensor,
        coarse: Tensor,
        drawn: Tensor,
        positive: Tensor,
        batch: Batch,
    ) -> dict[str, Tensor]:
        """loss_mask_point: binary cross-entropy, averaged over all points of all positive regions.

        Args:
            feature, boxes_xyxy, labels, coarse: as in `forward`.
            drawn: (B * R, G, G) bool, what the masks should be.
            positive: (B, R) bool, the regions that count.
            batch: keys the points.
        """
        points = self._training_points(of_class(coarse, labels), labels, batch)
        logits = self(feature, boxes_xyxy, labels, coarse, points)
        loss = mask_loss(logits=logits[:, None], targets=drawn_at(drawn, points)[:, None], positive=positive.flatten())[
            "loss_mask"
        ]
        return {"loss_mask_point": loss}

    @torch.no_grad()
    def _training_points(self, coarse: Tensor, labels: Tensor, batch: Batch) -> Tensor:
        """(K, S, S) coarse logits of each region's class -> (K, train_points, 2): the least certain, then uniform."""
        chosen = int(self.importance * self.train_points)
        candidates = self._uniform(labels, self.oversampled, OVERSAMPLED_SITE, batch)
        uncertain = least_certain(masks_at(coarse[:, None], candidates)[..., 0], chosen)
        uniform = self._uniform(labels, self.train_points - chosen, UNIFORM_SITE, batch)
        return torch.cat((candidates.gather(1, uncertain[..., None].expand(-1, -1, 2)), uniform), dim=1)

    @staticmethod
    def _uniform(labels: Tensor, count: int, site: int, batch: Batch) -> Tensor:
        """(B, R) regions -> (B * R, count, 2) points, keyed by the sample and the region's slot."""
        regions = labels.shape[1]
        candidates = torch.arange(regions * count * 2, device=labels.device)
        seed, step = batch.rng_key.unbind()
        return keyed_uniform(seed, step, batch.sample_ids, site, candidates).view(-1, count, 2)

    def refine(self, feature: Tensor, boxes_xyxy: Tensor, labels: Tensor, coarse: Tensor) -> Tensor:
        """Masks by adaptive subdivision (section 3.1), see `forward`: (B, R, mask_size, mask_size) logits."""
        size = self.first_size
        points = grid_centres(size, coarse.device).expand(coarse.shape[0], -1, -1)
        logits = self(feature, boxes_xyxy, labels, coarse, points).view(-1, 1, size, size)
        for _ in range(self.subdivisions):
            size *= 2
            logits = F.interpolate(logits, scale_factor=2, mode="bilinear", align_corners=False)
            flat = logits.flatten(1)
            index = least_certain(flat, min(self.subdivision_points, size * size))
            anew = self(feature, boxes_xyxy, labels, coarse, centres(index, size))
            logits = flat.scatter(1, index, anew).view(-1, 1, size, size)
        return logits.view(*labels.shape, size, size)


def of_class(masks: Tensor, labels: Tensor) -> Tensor:
    """(B * R, C, S, S) and (B, R) classes -> (B * R, S, S), each region's mask of its class."""
    index = labels.flatten().clamp(max=masks.shape[1] - 1)[:, None, None, None]
    return masks.gather(1, index.expand(-1, 1, *masks.shape[2:])).squeeze(1)
