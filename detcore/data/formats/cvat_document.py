"""One XML file of CVAT: its labels, its images, and what is annotated on each."""

import re
from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element

from detcore.data.formats.cvat_shapes import Shape, over_frames, read_shape
from detcore.data.formats.fields import LARGEST_SIDE, brief, shown
from detcore.data.formats.raw import IMAGE_SUFFIXES, folder_of, listing, refuse_repeats
from detcore.data.formats.xml_document import attribute, fragment, read_xml, whole_number
from detcore.data.keypoints import KeypointLayout

_FRAME = re.compile(r"frame_(\d{1,9})")
_EDGE = ("data-node-from", "data-node-to")


@dataclass(frozen=True, kw_only=True)
class CvatImage:
    """An image and what is annotated on it; a height or width of 0 is not known."""

    name: str
    subset: str
    height: int
    width: int
    shapes: list[Shape]


@dataclass(frozen=True, kw_only=True)
class CvatDocument:
    """What one file says, or its images of one subset; `layouts` are those of the labels that are skeletons."""

    path: Path
    folder: Path
    images: list[CvatImage]
    labels: list[str]
    layouts: dict[str, KeypointLayout]


def read_document(path: Path, folders: list[Path]) -> CvatDocument:
    document = read_xml(path, "annotations")
    try:
        labels, layouts = _labels(document)
        images = _images(document, folders)
    except ValueError as error:
        raise ValueError(f"{path}: {brief(error)}") from error
    if not labels:
        labels = sorted({shape.label for image in images for shape in image.shapes})
    for image in images:
        if unknown := [shape.label for shape in image.shapes if shape.kind != "tag" and shape.label not in labels]:
            where = f"{path}: image {shown(image.name)}"
            raise ValueError(f"{where}: unknown label {shown(unknown[0])}; the labels are {listing(labels)}")
    refuse_repeats(path, "has an image", [f"{image.subset}/{image.name}".lstrip("/") for image in images])
    folder = folder_of(folders, [image.name for image in images])
    return CvatDocument(path=path, folder=folder, images=images, labels=labels, layouts=layouts)


def _labels(document: Element) -> tuple[list[str], dict[str, KeypointLayout]]:
    """The labels that can be classes, in their order, and the keypoints of those that are skeletons."""
    labels: list[str] = []
    points: dict[str, list[str]] = {}
    drawings: dict[str, str] = {}
    for element in document.iterfind("meta//labels/label"):
        name, parent = element.findtext("name") or "", element.findtext("parent")
        if not name:
            raise ValueError("a label without name")
        if parent:
            points.setdefault(parent, []).append(name)
        elif element.findtext("type") != "tag":
            labels.append(name)
            drawings[name] = element.findtext("svg") or ""
    if len({*labels}) < len(labels):
        raise ValueError(f"two labels with one name, among {listing(labels)}")
    layouts = {}
    for label, names in points.items():
        if label not in labels:
            raise ValueError(f"label {shown(names[0])} belongs to {shown(label)}, which is no label")
        layouts[label] = KeypointLayout.of(names, _lines(label, names, drawings[label]))
    return labels, layouts


def _lines(label: str, names: list[str], drawing: str) -> list[tuple[int, int]]:
    """The lines of a skeleton, out of its drawing in SVG, as pairs of points."""
    try:
        elements = list(fragment(drawing))
    except ValueError as error:
        raise ValueError(f"label {shown(label)}: its svg: {error}") from error
    nodes = {element.get("data-node-id"): element.get("data-label-name") for element in elements}
    ends = [[nodes.get(element.get(end)) for end in _EDGE] for element in elements if element.get(_EDGE[0])]
    return [(names.index(a), names.index(b)) for a, b in ends if a in names and b in names]


def _images(document: Element, folders: list[Path]) -> list[CvatImage]:
    images: dict[int, CvatImage] = {}
    listed: list[CvatImage] = []
    for element in document.iterfind("image"):
        name = attribute(element, "name")
        try:
            height, width = (
                whole_number(attribute(element, side), side, most=LARGEST_SIDE) for side in ("height", "width")
            )
            number = whole_number(attribute(element, "id"), "id", most=2**62)
            shapes = [read_shape(child, attribute(child, "label")) for child in element]
        except ValueError as error:
            raise ValueError(f"image {shown(name)}: {error}") from error
        image = CvatImage(name=name, subset=element.get("subset") or "", height=height, width=width, shapes=shapes)
        listed.append(image)
        images[number] = image
    tracks = list(document.iterfind("track"))
    if not listed:
        images = _frames(document, tracks, folders)
        listed = list(images.values())
    if len({track.get("task_id") for track in tracks}) > 1:
        raise ValueError("has tracks of several tasks, whose frames have the same numbers; export each task")
    for track in tracks:
        name = f"track {(track.get('id') or '')[:20]!r}: "
        try:
            shapes_of = over_frames(_keyframes(track), sorted(images))
        except ValueError as error:
            raise ValueError(f"{name}{error}") from error
        for frame, shape in sorted(shapes_of.items()):
            if frame not in images:
                raise ValueError(f"{name}is in frame {frame}, of which there is no image")
            images[frame].shapes.append(shape)
    return listed


def _keyframes(track: Element) -> dict[int, Shape]:
    label = attribute(track, "label")
    shapes: dict[int, Shape] = {}
    for element in track:
        frame = _frame_of(element)
        if frame in shapes:
            raise ValueError(f"two shapes in frame {frame}")
        try:
            shapes[frame] = read_shape(element, label)
        except ValueError as error:
            raise ValueError(f"frame {frame}: {error}") from error
    return shapes


def _frame_of(element: Element) -> int:
    return whole_number(attribute(element, "frame"), "frame", most=10**9)


def _frames(document: Element, tracks: list[Element], folders: list[Path]) -> dict[int, CvatImage]:
    """The frames of a video: those that there are files of, or else those that have shapes."""
    files = [path.name for folder in folders for path in folder.glob("frame_*")]
    files = [name for name in files if Path(name).suffix.lower() in IMAGE_SUFFIXES]
    names = {int(found[1]): name for name in sorted(files) if (found := _FRAME.fullmatch(Path(name).stem))}
    names = names or {_frame_of(shape): f"frame_{_frame_of(shape):06d}.png" for track in tracks for shape in track}
    sides = (document.findtext(f"meta//original_size/{side}") or "0" for side in ("height", "width"))
    height, width = (whole_number(side, "original_size", most=LARGEST_SIDE) for side in sides)
    return {
        frame: CvatImage(name=names[frame], subset="", height=height, width=width, shapes=[]) for frame in sorted(names)
    }
