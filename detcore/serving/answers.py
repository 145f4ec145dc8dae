"""What is asked of an image, and a prediction as the answer to it."""

import io
import json
from typing import Any, Literal, Self

from pycocotools import mask as coco_mask
from pydantic import Field, model_validator

from detcore.config.section import Fraction, Section
from detcore.data.outlines import outline_without_holes
from detcore.inference import Prediction, draw
from detcore.inference.predictor import Masks
from detcore.inference.sources import read_rgb


class _Question(Section):
    score: Fraction = Field(default=0.5, description="leave out detections below it")
    classes: str | None = Field(default=None, description="only these, such as person,car")

    def class_names(self) -> list[str] | None:
        """Those that are wanted, or None for all."""
        return None if self.classes is None else [name.strip() for name in self.classes.split(",")]


class JsonQuestion(_Question):
    """The query of `POST /predict`."""

    masks: Literal["rle", "polygons", "none"] = Field(
        default="rle", description="as COCO's run lengths, as outlines, or not at all, which is quicker"
    )
    format: Literal["detcore", "coco"] = Field(
        default="detcore", description="as detcore predict --json writes it, or COCO's list of results"
    )
    image_id: int | None = Field(default=None, description="the image's, in format=coco; 1 if not given")

    @property
    def made_of(self) -> Masks:
        """What the prediction must have."""
        return "none" if self.masks == "none" else "rle"

    @model_validator(mode="after")
    def _image_id_is_coco_s(self) -> Self:
        if self.image_id is not None and self.format != "coco":
            raise ValueError("image_id has no use without format=coco")
        return self

    def answer(self, prediction: Prediction) -> bytes:
        """JSON."""
        if self.format == "coco":
            rows = prediction.to_coco(1 if self.image_id is None else self.image_id)
            named = zip(rows, prediction.class_names, strict=True)
            content: Any = [self._masked(row | {"category_name": name}, "segmentation") for row, name in named]
        else:
            content = prediction.to_dict()
            del content["image"]  # the name of a file; there is none
            content["detections"] = [self._masked(row, "mask") for row in content["detections"]]
        return json.dumps(content, allow_nan=False).encode()

    def _masked(self, row: dict[str, Any], key: str) -> dict[str, Any]:
        """The detection with its mask as asked for: outlines are COCO's [x, y, x, y, …]; filled, the very mask."""
        if self.masks == "polygons" and key in row:
            mask = coco_mask.decode(row[key]).astype(bool)
            row[key] = [ring.ravel().tolist() for ring in outline_without_holes(mask)]
        return row


class PictureQuestion(_Question):
    """The query of `POST /draw`."""

    masks: Literal["drawn", "none"] = Field(default="drawn", description="none draws boxes alone")
    max_side: int = Field(
        default=1600, ge=64, le=8192, description="of the picture, in pixels; larger images are shrunk"
    )

    @property
    def made_of(self) -> Masks:
        """What the prediction must have."""
        return "none" if self.masks == "none" else "pixels"

    def answer(self, prediction: Prediction) -> bytes:
        """PNG."""
        picture = draw(read_rgb(prediction.source), prediction.drawing(), max_side=self.max_side)
        encoded = io.BytesIO()
        picture.save(encoded, "PNG", compress_level=1)  # a tenth of the time for a third more bytes
        return encoded.getvalue()


Question = JsonQuestion | PictureQuestion
