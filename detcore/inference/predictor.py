"""A trained detector, ready to predict."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from detcore.config.training import TTAConfig
from detcore.data.keypoints import KeypointLayout
from detcore.inference.captured import CapturedDetection
from detcore.inference.prediction import Prediction
from detcore.inference.predictions import Predictions
from detcore.inference.preprocessing import Preprocessing
from detcore.inference.reading import OnUnreadable, Read, opened, read_ahead
from detcore.inference.seen import Seen, class_thresholds
from detcore.inference.sources import Source, Video, expand, in_chunks
from detcore.inference.tiling import Tiling, merged
from detcore.inference.track_ids import with_track_ids
from detcore.inference.views import AugmentedPreprocessing
from detcore.models.augmented import AugmentedDetector
from detcore.ops import PanopticSegment, panoptic
from detcore.structures.batch import Batch, Detections

Precision = Literal["fp32", "bf16", "fp16"]
Masks = Literal["pixels", "rle", "none"]
"""As arrays of the whole image, as run lengths alone (a thousandth of the memory), or not at all."""
_OPTIONS = (
    "model", "labels", "preprocessing", "device", "semantic_labels", "keypoint_names", "skeleton", "precision",
    "cuda_graphs",
)  # fmt: skip
"""What a predictor is made of, each kept under its name."""
_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


class MakePrediction(Protocol):
    def __call__(self, *, masks: Masks = "pixels") -> Prediction: ...


class Predictor:
    """Images in, detections in their own pixels out.

    An image's detections do not depend on the images beside it: only images of one padded size share a batch.

    Args:
        model: a detector; put on `device`, in evaluation mode.
        labels: class names by 0-based class.
        semantic_labels: names by 0-based class of pixels, where it tells them.
        keypoint_names: of the keypoints, where it finds them.
        skeleton: pairs of 0-based keypoints that a line is drawn between.
        preprocessing: what the model was evaluated with.
        device: where it runs.
        precision: bf16 and fp16 compute under autocast: faster on a GPU, and rounded more coarsely.
        cuda_graphs: the model is captured once for each padded size and number of images, and then launched as a whole:
            faster where few images are looked at together. The same detections.

    Raises:
        ValueError: CUDA graphs on another device.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        labels: Sequence[str],
        preprocessing: Preprocessing | AugmentedPreprocessing,
        device: torch.device,
        semantic_labels: Sequence[str] = (),
        keypoint_names: Sequence[str] = (),
        skeleton: Sequence[tuple[int, int]] = (),
        precision: Precision = "fp32",
        cuda_graphs: bool = False,
    ) -> None:
        if cuda_graphs and device.type != "cuda":
            raise ValueError(f"cuda_graphs: there are none on {device.type}; leave it out, or take a CUDA device")
        self.model = model.to(device).eval()
        self.labels = tuple(labels)
        self.semantic_labels = tuple(semantic_labels)
        self.keypoint_names = tuple(keypoint_names)
        self.skeleton = tuple(skeleton)
        self.preprocessing = preprocessing
        self.device = device
        self.precision: Precision = precision
        self.cuda_graphs = cuda_graphs
        self._detect = CapturedDetection(self._detect_plainly) if cuda_graphs else self._detect_plainly

    def augmented(self, tta: TTAConfig) -> Self:
        """The same detector with test-time augmentation: slower, and usually more accurate.

        In a mirror left and right change places: which keypoints these are is told by their names.

        Args:
            tta: the views that are looked at.

        Raises:
            ValueError: the model predicts something that views cannot be merged of.
        """
        assert isinstance(self.preprocessing, Preprocessing), "this predictor is augmented already"
        mirrored = KeypointLayout.of(self.keypoint_names).flip or None
        return self._changed(
            model=AugmentedDetector(self.model, mirrored_keypoints=mirrored),
            preprocessing=AugmentedPreprocessing(own=self.preprocessing, tta=tta),
        )

    def with_options(self, *, precision: Precision, cuda_graphs: bool) -> Self:
        """The same detector that computes otherwise; the weights are shared.

        Raises:
            ValueError: CUDA graphs on another device.
        """
        return self._changed(precision=precision, cuda_graphs=cuda_graphs)

    def _changed(self, **changes: Any) -> Self:
        return type(self)(**({name: getattr(self, name) for name in _OPTIONS} | changes))

    def predict(
        self,
        source: Source,
        *,
        score_threshold: float = 0.5,
        class_scores: Mapping[str, float] | None = None,
        classes: Sequence[str] | None = None,
        batch_size: int = 8,
        frame_stride: int = 1,
        tile: int | None = None,
        overlap: float = 0.2,
    ) -> Prediction | Predictions:
        """Detects objects.

        Args:
            source: an image (a path, an http or https address, a PIL image, an (H, W, 3) uint8 RGB array), or several:
                a list of these, a folder, a glob such as 'scans/*.png', or a video.
            score_threshold: detections below it are left out. A detector's own threshold (usually 0.05) applies too.
            class_scores: other thresholds, for classes by their names.
            classes: names of the classes that are wanted; None wants all.
            batch_size: images at once, at most.
            frame_stride: of a video, every so manyth frame is looked at.
            tile: the side, in pixels, of tiles that images are cut into, for small objects in huge images: each is
                looked at by itself, `batch_size` at once, and what they saw is made one. None looks at whole images.
            overlap: the least share of a tile that the next one shows too.

        Returns:
            A `Prediction`, or a list of them, one an image, where the source is a list, a folder, a glob or a video.

        Raises:
            ValueError: if there is no such image, or it cannot be read; or no such class.
        """
        images, several = expand(source)
        if any(isinstance(image, Video) and image.live for image in images):
            raise ValueError(f"{source}: never ends: take `stream`, which gives prediction after prediction")
        predictions = Predictions(
            self.stream(
                images,
                score_threshold=score_threshold,
                class_scores=class_scores,
                classes=classes,
                batch_size=batch_size,
                frame_stride=frame_stride,
                tile=tile,
                overlap=overlap,
            )
        )
        return predictions if several else predictions[0]

    def stream(
        self,
        source: Source,
        *,
        score_threshold: float = 0.5,
        class_scores: Mapping[str, float] | None = None,
        classes: Sequence[str] | None = None,
        batch_size: int = 8,
        frame_stride: int = 1,
        tile: int | None = None,
        overlap: float = 0.2,
        on_unreadable: OnUnreadable | None = None,
    ) -> Iterator[Prediction]:
        """As `predict`, one prediction after the other, in order: for more images than fit into memory.

        Images are read by threads while the model looks at others. A camera's number (0) or the address of a stream
        (rtsp://…) is looked at until it ends, frame by frame.

        With `on_unreadable`, an image that cannot be read is left out, and the function called with it and the error.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size {batch_size} is less than 1")
        if frame_stride < 1:
            raise ValueError(f"frame_stride {frame_stride} is less than 1")
        thresholds = class_thresholds(
            self.labels, score_threshold=score_threshold, class_scores=class_scores, classes=classes
        )
        images, _ = expand(source)
        live = any(isinstance(image, Video) and image.live for image in images)
        read = read_ahead(
            opened(images, on_unreadable, frame_stride=frame_stride), on_unreadable, ahead=0 if live else 2 * batch_size
        )
        if tile is not None:
            tiling = Tiling(tile, overlap)
            return with_track_ids(self._predict_tiled(one, thresholds, tiling, batch_size) for one in read)
        chunks = in_chunks(read, 1 if live else batch_size)
        return with_track_ids(prediction for some in chunks for prediction in self._predict_some(some, thresholds))

    def detect(self, images: Sequence[NDArray[np.uint8]]) -> tuple[Batch, Detections]:
        """The model's own output for images (h, w, 3) of one padded size, and the batch that it saw."""
        batch = self.preprocessing.batch(images, self.device)
        with torch.inference_mode():
            return batch, self._detect(batch)

    def autocast(self) -> torch.autocast:
        """The precision that it computes in."""
        dtype = _AUTOCAST.get(self.precision)
        return torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None)

    def _detect_plainly(self, batch: Batch) -> Detections:
        with self.autocast():
            detections: Detections = self.model.detect(batch)  # type: ignore[operator]
        return detections

    def _predict_tiled(self, read: Read, thresholds: Tensor, tiling: Tiling, batch_size: int) -> Prediction:
        source, image = read
        height, width = image.shape[:2]
        tiles = tiling.tiles(height, width)
        corners = (tile.box_xyxy for tile in tiles)
        cut: Iterator[Read] = ((source, image[top:bottom, left:right]) for left, top, right, bottom in corners)
        parts = [part for some in in_chunks(cut, batch_size) for part in self._predict_some(some, thresholds)]
        return parts[0] if len(parts) == 1 else merged(parts, tiles, height=height, width=width)

    def _predict_some(self, read: Sequence[Read], thresholds: Tensor) -> list[Prediction]:
        return [make() for make in self.look(read, [thresholds] * len(read))]

    def look(self, read: Sequence[Read], thresholds: Sequence[Tensor]) -> list["MakePrediction"]:
        """Looks at images together, for callers that bring the pixels themselves.

        Args:
            read: sources with their pixels (h, w, 3).
            thresholds: of each image, as `class_thresholds` gives them.

        Returns:
            For each image a function that makes its prediction, once called: masks take memory only from then on.
            With masks="none" it has no maps of classes and segments either.
        """
        images = [image for _, image in read]
        groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for index, image in enumerate(images):
            groups[self.preprocessing.padded_size(image)].append(index)
        made: dict[int, MakePrediction] = {}
        for members in groups.values():
            batch, detections = self.detect([images[index] for index in members])
            seen = Seen(batch, detections, torch.stack([thresholds[index] for index in members]))
            for row, index in enumerate(members):
                made[index] = partial(self._prediction, seen, row, read[index])
        return [made[index] for index in range(len(read))]

    def _prediction(self, seen: Seen, row: int, read: Read, *, masks: Masks = "pixels") -> Prediction:
        source, image = read
        height, width = image.shape[:2]
        detections, keep = seen.detections, seen.kept[row]
        boxes, labels = seen.boxes_xyxy[row][keep], detections.labels[row][keep].cpu().numpy()
        ids: NDArray[np.int32] | None = None
        segments: tuple[PanopticSegment, ...] = ()
        maps = masks != "none"
        if maps and "panoptic" in getattr(self.model, "predicts", ()):
            map_of_ids, found = panoptic(detections, seen.batch, row, self.model.panoptic_limits)  # type: ignore[arg-type]
            ids, segments = map_of_ids.cpu().numpy(), tuple(found)
        return Prediction(
            source=source,
            height=height,
            width=width,
            boxes_xyxy=boxes.cpu().numpy(),
            scores=detections.scores[row][keep].float().cpu().numpy(),
            labels=labels,
            class_names=tuple(self.labels[label] for label in labels),
            categories=self.labels,
            masks=seen.masks(row, (height, width)) if masks == "pixels" else None,
            mask_rles=seen.mask_rles(row, (height, width)) if masks == "rle" else None,
            keypoints=None if seen.keypoints is None else seen.keypoints[row][keep].cpu().numpy(),
            keypoint_names=self.keypoint_names,
            skeleton=self.skeleton,
            boxes_xywha=None if seen.boxes_xywha is None else seen.boxes_xywha[row][keep].cpu().numpy(),
            semantic=seen.semantic(row, (height, width)) if maps else None,
            semantic_names=self.semantic_labels,
            panoptic=ids,
            segments=segments,
        )
