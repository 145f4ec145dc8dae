"""An exported model without detcore or PyTorch: `python onnx_predict.py model.onnx scene.jpg [SCORE]`.

All that is needed: pip install onnxruntime numpy pillow. How images are to be made ready, and what the classes are
called, stands in the file itself.
"""

import json
import sys
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

MASK_THRESHOLD = 0.5


def input_size(height: int, width: int, resize: dict[str, Any]) -> tuple[int, int]:
    """The height and width that the model wants an image to be resized to."""
    if resize["type"] == "resize_fixed":
        return resize["height"], resize["width"]
    scale = min(resize["sizes"][0] / min(height, width), resize["max_size"] / max(height, width))
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def prepared(image: Image.Image, preprocessing: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """The model's two inputs: RGB on the scale 0..255, resized, at the top left; and the content's height and width."""
    height, width = input_size(image.height, image.width, preprocessing["transform"])
    pixels = np.asarray(image.convert("RGB").resize((width, height), Image.Resampling.BILINEAR), np.float32)
    divisor = preprocessing["size_divisor"]
    padded = np.pad(pixels, ((0, -height % divisor), (0, -width % divisor), (0, 0)))
    return padded.transpose(2, 0, 1)[None], np.array([[height, width]], np.int64)


def whole_mask(mask: np.ndarray, box: np.ndarray, height: int, width: int) -> np.ndarray:
    """Probabilities (S, S) inside a box -> (height, width) bool: sampled bilinearly at the centres of the pixels."""

    def weights(low: float, high: float, pixels: int) -> np.ndarray:
        """(pixels, S): what each of the mask's rows or columns counts at each of the image's."""
        places = (np.arange(pixels) + 0.5 - low) / (high - low) * len(mask) - 0.5
        return np.maximum(0.0, 1.0 - np.abs(places[:, None] - np.arange(len(mask))))

    x1, y1, x2, y2 = box
    return weights(y1, y2, height) @ mask @ weights(x1, x2, width).T >= MASK_THRESHOLD


def enlarged(logits: np.ndarray, content: np.ndarray, padded: tuple[int, int], image: Image.Image) -> np.ndarray:
    """Logits (C, h, w) of the padded input -> (height, width) classes of the image's pixels."""
    scores = []
    for channel in logits:
        whole = Image.fromarray(channel).resize(padded[::-1], Image.Resampling.BILINEAR)
        whole = whole.crop((0, 0, int(content[1]), int(content[0])))
        scores.append(np.asarray(whole.resize(image.size, Image.Resampling.BILINEAR)))
    return np.argmax(scores, axis=0)


def predict(session: onnxruntime.InferenceSession, image: Image.Image, *, score: float = 0.5) -> dict[str, Any]:
    """What the model sees: a list of objects in the image's own pixels, and where it tells them the pixels' classes."""
    description = json.loads(session.get_modelmeta().custom_metadata_map["detcore"])
    images, sizes = prepared(image, description["preprocessing"])
    names = [output.name for output in session.get_outputs()]
    values = session.run(names, {"images": images, "image_sizes": sizes})
    found = {name: value[0] for name, value in zip(names, values, strict=True)}
    scale = np.array([image.width, image.height]) / sizes[0, ::-1]
    objects = []
    for row in np.flatnonzero(found["valid"] & (found["scores"] >= score)):
        box = (found["boxes_xyxy"][row] * np.tile(scale, 2)).clip(0, [*image.size, *image.size])
        one = {"class": description["labels"][found["labels"][row]], "score": float(found["scores"][row])}
        one["box_xyxy"] = box.tolist()
        if "masks" in found:
            one["mask"] = whole_mask(found["masks"][row], box, image.height, image.width)
        if "keypoints" in found:
            one["keypoints"] = (found["keypoints"][row] * [*scale, 1.0]).tolist()
        objects.append(one)
    seen: dict[str, Any] = {"objects": objects}
    if "semantic" in found:
        seen["semantic"] = enlarged(found["semantic"], sizes[0], images.shape[2:], image)
    return seen


if __name__ == "__main__":
    model, picture, *score = sys.argv[1:]
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    seen = predict(session, ImageOps.exif_transpose(Image.open(picture)), score=float(score[0]) if score else 0.5)
    for one in seen["objects"]:
        if "mask" in one:
            one["mask_pixels"] = int(one.pop("mask").sum())
    if "semantic" in seen:
        seen["semantic_pixels"] = np.bincount(seen.pop("semantic").ravel()).tolist()
    print(json.dumps(seen))
