"""Handwriting in the wild: scenes of real handwritten digits on crops of photographs, written as a COCO folder.

The 1,797 digits of 8 x 8 pixels are scikit-learn's copy of the UCI set (Alpaydin and Kaynak, 1998), the two
photographs its sample images. No digit sample is in two splits. A digit's mask is its filled outline; it is amodal:
where a later digit lies on top, the outline goes on beneath. At most `MOST_HIDDEN` of it is hidden, and the whole of
it lies inside the scene.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from detcore.config.data import Digits
from detcore.data.outlines import ring_area, simplify_ring, trace_outline
from detcore.data.progress import track
from detcore.data.shard_writing import replace_folder

MOST_HIDDEN = 0.4
"""The largest share of a digit's area that others may cover."""
RELATIVE_SIZES = (0.15, 0.4)
"""The longer side of an upright digit, as a share of the scene's: 24 to 64 pixels of 160."""
MOST_DEGREES = 25.0
_RECIPE = 1  # raise it whenever the same configuration gives other scenes
_UPSCALE = 16  # from the 8 x 8 samples to smooth glyphs
_MARGIN = 2  # empty samples around a glyph
_INK_EDGE = (0.3, 0.6)  # share of full ink at which a stroke begins and is opaque; its outline lies midway
_TOLERANCE = 0.008  # of an outline, as a share of the digit's longer side: half a pixel where that is 64
_SUPERSAMPLE = 3
_TRIES = 20

Ring = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class _Glyph:
    """A digit, smooth and large: its ink (L) and the rings of its outline about its centre, the longer side 1."""

    label: int
    ink: Image.Image
    rings: list[Ring]
    centre: tuple[float, float]
    extent: float


@dataclass(frozen=True, kw_only=True)
class _Placed:
    """A digit in its scene: rings in pixels, and the pixels they cover."""

    label: int
    rings: list[Ring]
    cover: NDArray[np.bool_]


def make_digits(root: Path, source: Digits, *, progress: bool = True) -> None:
    """Makes the folder: annotations/instances_{train,val,test}.json and images/*.jpg.

    The same configuration gives the same bytes on one machine. A folder made from the same configuration stays, one
    from another is replaced; a folder that was not made here is left alone.

    Raises:
        ValueError: scikit-learn, which brings the digits, is not installed.
    """
    recipe = {"recipe": _RECIPE, **source.model_dump()}
    marker = root / "digits.json"
    if marker.is_file() and json.loads(marker.read_text()) == recipe:
        return
    if root.exists() and not marker.is_file() and (root.is_file() or any(root.iterdir())):
        return
    glyphs, labels, photographs = _material()
    rng = np.random.default_rng(source.seed)
    numbers = {"train": source.train, "val": source.val, "test": source.test}
    shares = np.cumsum(list(numbers.values())) / sum(numbers.values())
    pools = np.split(rng.permutation(len(labels)), np.round(shares[:-1] * len(labels)).astype(int))
    temporary = root.with_name(f"{root.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    (temporary / "images").mkdir(parents=True)
    (temporary / "annotations").mkdir()
    for place, (split, number) in enumerate(numbers.items()):
        scenes = []
        for index in track(range(number), f"composing digits {split}", total=number, shown=progress):
            scene_rng = np.random.default_rng((source.seed, place, index))
            image, placed = _compose(scene_rng, glyphs, pools[place], photographs, source)
            image.save(temporary / "images" / f"{split}_{index:05d}.jpg", quality=90)
            scenes.append(placed)
        coco = _to_coco(split, scenes, size=source.size)
        (temporary / "annotations" / f"instances_{split}.json").write_text(json.dumps(coco))
    (temporary / "digits.json").write_text(json.dumps(recipe) + "\n")
    replace_folder(temporary, root)


def _material() -> tuple[Callable[[int], _Glyph], NDArray[np.int64], list[Image.Image]]:
    """The digits by number, as glyphs made when first asked for; their labels; and the photographs."""
    try:
        from sklearn.datasets import load_digits, load_sample_images
    except ImportError as error:
        raise ValueError("data=digits needs scikit-learn; pip install scikit-learn") from error
    digits = load_digits()

    @cache
    def glyph(number: int) -> _Glyph:
        return _glyph(digits.images[number], int(digits.target[number]))

    return glyph, digits.target, [Image.fromarray(image) for image in load_sample_images().images]


def _glyph(sample: NDArray[np.float64], label: int) -> _Glyph:
    """A smooth glyph from 8 x 8 samples of 0 to 16."""
    padded = Image.fromarray(np.pad(sample / 16.0, _MARGIN).astype(np.float32))
    smooth = np.asarray(padded.resize((padded.width * _UPSCALE, padded.height * _UPSCALE), Image.Resampling.BICUBIC))
    low, high = _INK_EDGE
    ink = np.clip((smooth - low) / (high - low), 0.0, 1.0)
    rings = trace_outline(ink >= 0.5)
    areas = [ring_area(ring) for ring in rings]
    rings = [ring for ring, area in zip(rings, areas, strict=True) if area > 0.02 * max(areas)]  # no specks
    points = np.concatenate(rings)
    first, last = points.min(axis=0), points.max(axis=0)
    centre = (first + last) / 2
    extent = float((last - first).max())
    return _Glyph(
        label=label,
        ink=Image.fromarray(np.round(ink * 255).astype(np.uint8)),
        rings=[simplify_ring((ring - centre) / extent, tolerance=_TOLERANCE) for ring in rings],
        centre=(float(centre[0]), float(centre[1])),
        extent=extent,
    )


def _compose(
    rng: np.random.Generator,
    glyphs: Callable[[int], _Glyph],
    pool: NDArray[np.int64],
    photographs: list[Image.Image],
    source: Digits,
) -> tuple[Image.Image, list[_Placed]]:
    """One scene; digits later in the list lie on top."""
    size = source.size
    scene = np.array(_background(rng, photographs, size), np.float32)
    placed: list[_Placed] = []
    visible: list[NDArray[np.bool_]] = []
    for _ in range(int(rng.integers(1, source.max_digits + 1))):
        glyph = glyphs(int(rng.choice(pool)))
        extent = float(rng.uniform(*RELATIVE_SIZES)) * size
        angle = np.deg2rad(rng.uniform(-MOST_DEGREES, MOST_DEGREES))
        turn = extent * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        rings = [ring @ turn.T for ring in glyph.rings]
        centre = _place(rng, rings, placed, visible, size)
        if centre is None:
            continue
        rings = [np.round(ring + centre, 2) for ring in rings]
        _draw(scene, glyph, rings, turn=turn, centre=centre, rng=rng)
        cover = _cover(rings, size)
        visible = [below & ~cover for below in visible] + [cover]
        placed.append(_Placed(label=glyph.label, rings=rings, cover=cover))
    return Image.fromarray(np.round(scene).astype(np.uint8)), placed


def _background(rng: np.random.Generator, photographs: list[Image.Image], size: int) -> Image.Image:
    """A square crop of a photograph, between the scene's size and all of its height, and mirrored half of the time."""
    photograph = photographs[int(rng.integers(len(photographs)))]
    side = float(rng.uniform(min(size, photograph.height), photograph.height))
    x, y = (float(rng.uniform(0, length - side)) for length in photograph.size)
    crop = photograph.resize((size, size), Image.Resampling.BICUBIC, box=(x, y, x + side, y + side))
    return crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else crop


def _place(
    rng: np.random.Generator, rings: list[Ring], placed: list[_Placed], visible: list[NDArray[np.bool_]], size: int
) -> NDArray[np.float64] | None:
    """A centre at which the digit lies inside the scene and hides no other too much, or None if none was found."""
    points = np.concatenate(rings)
    low, high = 1 - points.min(axis=0), size - 1 - points.max(axis=0)
    for _ in range(_TRIES):
        centre: NDArray[np.float64] = rng.uniform(low, high)
        cover = _cover([ring + centre for ring in rings], size)
        left = [int((seen & ~cover).sum()) for seen in visible]
        if all(pixels >= (1 - MOST_HIDDEN) * below.cover.sum() for pixels, below in zip(left, placed, strict=True)):
            return centre
    return None


def _cover(rings: list[Ring], size: int) -> NDArray[np.bool_]:
    """The pixels of a scene that rings cover."""
    canvas = Image.new("1", (size, size))
    draw = ImageDraw.Draw(canvas)
    for ring in rings:
        draw.polygon([(x, y) for x, y in (ring - 0.5).tolist()], fill=1)
    return np.asarray(canvas)


def _draw(
    scene: NDArray[np.float32],
    glyph: _Glyph,
    rings: list[Ring],
    *,
    turn: NDArray[np.float64],
    centre: NDArray[np.float64],
    rng: np.random.Generator,
) -> None:
    """Draws a digit onto the scene, antialiased, in an ink that stands out from what is beneath."""
    points = np.concatenate(rings)
    x0, y0 = np.maximum(points.min(axis=0) - 2, 0).astype(int).tolist()
    x1, y1 = np.minimum(points.max(axis=0) + 3, scene.shape[0]).astype(int).tolist()
    window = scene[y0:y1, x0:x1]
    to_glyph = np.linalg.inv(turn) * glyph.extent
    shift = np.array(glyph.centre) + to_glyph @ (np.array([x0, y0]) - centre)
    fine = to_glyph / _SUPERSAMPLE
    canvas = ((x1 - x0) * _SUPERSAMPLE, (y1 - y0) * _SUPERSAMPLE)
    coefficients = (*fine[0].tolist(), float(shift[0]), *fine[1].tolist(), float(shift[1]))
    large = glyph.ink.transform(canvas, Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR)
    alpha = np.asarray(large.reduce(_SUPERSAMPLE), np.float32)[..., None] / 255
    colour = _ink_colour(rng, (window * alpha).sum(axis=(0, 1)) / alpha.sum())
    window += alpha * (colour - window)


def _ink_colour(rng: np.random.Generator, beneath: NDArray[np.float32]) -> NDArray[np.float32]:
    """A random colour whose luminance is far from that of the background; black or white if chance finds none."""
    luminance = np.array([0.299, 0.587, 0.114], np.float32)
    for _ in range(_TRIES):
        colour = rng.uniform(0, 255, 3).astype(np.float32)
        if abs(float(luminance @ (colour - beneath))) > 80:
            return colour
    return np.full(3, 255.0 if luminance @ beneath < 128 else 0.0, np.float32)


def _to_coco(split: str, scenes: list[list[_Placed]], *, size: int) -> dict[str, Any]:
    annotations: list[dict[str, Any]] = []
    for image_id, scene in enumerate(scenes, 1):
        for placed in scene:
            points = np.concatenate(placed.rings)
            (x0, y0), (x1, y1) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": placed.label + 1,
                    "bbox": [x0, y0, round(x1 - x0, 2), round(y1 - y0, 2)],
                    "area": round(sum(ring_area(ring) for ring in placed.rings), 2),
                    "iscrowd": 0,
                    "segmentation": [ring.reshape(-1).tolist() for ring in placed.rings],
                }
            )
    return {
        "info": {"description": "Handwriting in the wild: scikit-learn's digits on its sample photographs"},
        "images": [
            {"id": image_id, "file_name": f"{split}_{image_id - 1:05d}.jpg", "height": size, "width": size}
            for image_id in range(1, len(scenes) + 1)
        ],
        "annotations": annotations,
        "categories": [{"id": digit + 1, "name": str(digit)} for digit in range(10)],
    }
