"""What is wrong with the files of images and maps."""

import hashlib
import io
import os
from collections import defaultdict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from PIL import Image

from detcore.data.checking.findings import Finding, finding
from detcore.data.formats import RawSplit
from detcore.data.images import PNG_BITS, read_image
from detcore.data.progress import track

_ORIENTATION = 0x0112  # EXIF tag
_SIXTEEN_BIT = ("I", "F")  # how the names of PIL's modes of more than 8 bits begin


@dataclass(frozen=True, kw_only=True)
class ImageFacts:
    """One image file, decoded.

    Attributes:
        size: height and width as prepare takes it; (0, 0) where it cannot be read.
        digest: of the pixels; the same for the same picture in two files.
        kinds: codes of what is peculiar about the file.
        error: why the image cannot be read, or None.
        map_error: why its map cannot be read, or None.
    """

    size: tuple[int, int]
    digest: bytes
    kinds: tuple[str, ...]
    error: str | None = None
    map_error: str | None = None


def look_at_images(split: RawSplit, what: str, *, max_pixels: int, progress: bool) -> list[ImageFacts | None]:
    """Decodes every image and map of a split, on all cores; None for an image that is not there."""
    files = split.images["file_name"].to_pylist()
    declared = list(zip(*(split.images[side].to_pylist() for side in ("height", "width")), strict=True))

    def look(row: int) -> ImageFacts | None:
        path = split.folder / files[row]
        return _facts(split, row, path.read_bytes(), declared[row], max_pixels) if path.is_file() else None

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return list(track(pool.map(look, range(len(files))), what, total=len(files), shown=progress))


def _facts(split: RawSplit, row: int, data: bytes, declared: tuple[int, int], max_pixels: int) -> ImageFacts:
    try:
        picture, _ = read_image(data, declared=declared, max_pixels=max_pixels)
    except ValueError as error:
        return ImageFacts(size=(0, 0), digest=b"", kinds=(), error=str(error))
    size = (picture.height, picture.width)
    map_error = None
    if split.maps is not None:
        try:
            split.maps.read(row, size)
        except ValueError as error:
            map_error = str(error)
    pixels = picture.convert("RGB").tobytes()
    digest = hashlib.blake2b(pixels, digest_size=16, salt=b"%d" % picture.width).digest()
    return ImageFacts(size=size, digest=digest, kinds=_kinds(data), map_error=map_error)


def _kinds(data: bytes) -> tuple[str, ...]:
    """Of a file that can be decoded."""
    image = Image.open(io.BytesIO(data))
    found = {
        "turned_by_exif": image.getexif().get(_ORIENTATION, 1) in range(2, 9),
        "sixteen_bit": image.mode.startswith(_SIXTEEN_BIT) or (image.format == "PNG" and data[PNG_BITS] > 8),
        "cmyk": image.mode == "CMYK",
        "several_pages": image.format != "MPO" and getattr(image, "n_frames", 1) > 1,
    }
    return tuple(code for code, there in found.items() if there)


def check_images(splits: Mapping[str, RawSplit], facts: Mapping[str, list[ImageFacts | None]]) -> list[Finding]:
    """The findings about all splits' files."""
    places: dict[str, list[str]] = defaultdict(list)
    for name, split in splits.items():
        declared = zip(*(split.images[side].to_pylist() for side in ("height", "width")), strict=True)
        rows = zip(split.images["file_name"].to_pylist(), declared, facts[name], strict=True)
        for file, stated, own in rows:
            where = f"{name}: {file}"
            if own is None:
                places["missing_image"].append(where)
            elif own.error is not None:
                places["unreadable_image"].append(f"{where}: {own.error}")
            else:
                for code in own.kinds:
                    places[code].append(where)
                if own.map_error is not None:
                    places["unreadable_map"].append(f"{where}: {own.map_error}")
                if all(stated) and stated != own.size:
                    sizes = f"{own.size[1]} x {own.size[0]}, not {stated[1]} x {stated[0]}"
                    places["other_size"].append(f"{where}: {sizes}")
    places.update(_shared(splits))
    places.update(_same_pixels(splits, facts))
    number = sum(split.images.num_rows for split in splits.values())
    return [one for code, where in places.items() for one in finding(code, where, of=number)]


def _shared(splits: Mapping[str, RawSplit]) -> dict[str, list[str]]:
    owner: dict[str, str] = {}
    shared = []
    for name, split in splits.items():
        for file in split.images["file_name"].to_pylist():
            other = owner.setdefault(os.path.normpath(split.folder / file), name)
            if other != name:
                shared.append(f"{other} and {name}: {file}")
    return {"shared_image": shared}


def _same_pixels(splits: Mapping[str, RawSplit], facts: Mapping[str, list[ImageFacts | None]]) -> dict[str, list[str]]:
    """Files whose picture another file has; one that is listed in two splits is told as such."""
    first: dict[tuple[tuple[int, int], bytes], list[tuple[str, str, str]]] = defaultdict(list)
    found: dict[str, list[str]] = {"same_pixels_across_splits": [], "same_pixels": []}
    for name, split in splits.items():
        for file, own in zip(split.images["file_name"].to_pylist(), facts[name], strict=True):
            if own is None or own.error is not None:
                continue
            path = os.path.normpath(split.folder / file)
            alike = [other for other in first[own.size, own.digest] if other[2] != path]
            across = [other for other in alike if other[0] != name]
            if alike:
                other_name, other_file, _ = (across or alike)[0]
                code = "same_pixels_across_splits" if across else "same_pixels"
                found[code].append(f"{other_name}: {other_file} = {name}: {file}")
            first[own.size, own.digest].append((name, file, path))
    return found
