"""LVIS: COCO's format for 1203 classes, of which annotators looked for a part in each image (arXiv:1908.03195)."""

from pathlib import Path

from detcore.data.formats.coco import combined, find_json
from detcore.data.formats.coco_file import CocoFile, read_file
from detcore.data.formats.fields import shown
from detcore.data.formats.raw import RawDataset, Splits

_FILES = ("lvis*_{}.json", "annotations/lvis*_{}.json")
_FREQUENCIES = ("r", "c", "f")


def read_lvis(root: Path, splits: Splits | None = None) -> RawDataset:
    """Reads lvis_v1_{train,val}.json, in the folder or in its annotations/; lvisdataset.org has the format.

    An image that has no file_name is named by the last two parts of its coco_url, as train2017/000000391895.jpg: LVIS
    divides COCO's images anew. They are looked for below the folder and its images/. Classes are the categories by
    rising id, whether or not they occur.

    Raises:
        ValueError: as `read_coco`; an image without neg_category_ids or not_exhaustive_category_ids, or with an unknown
            category in them; a category whose frequency is not r, c or f, or another in another split.
    """
    if splits:
        places: dict[str, tuple[Path, Path | None]]
        places = {name: (root / split.annotations, root / split.images) for name, split in splits.items()}
    else:
        places = {name: (path, None) for name, path in find_json(root, _FILES).items()}
    read = {name: read_file(path, federated=True) for name, (path, _) in places.items()}
    frequencies: dict[int, str] = {}
    for file in read.values():
        _add_frequencies(frequencies, file)
    return combined(root, read, {name: folder for name, (_, folder) in places.items()}, frequencies=frequencies)


def _add_frequencies(frequencies: dict[int, str], file: CocoFile) -> None:
    for category in file.categories:
        where = f"{file.split.source}: category {category['id']}"
        if "frequency" not in category:
            raise ValueError(f"{where}: 'frequency' is missing; for files without, set data.format to coco")
        own = category["frequency"]
        if own not in _FREQUENCIES:
            raise ValueError(f"{where}: frequency {shown(own)} is none of {', '.join(_FREQUENCIES)}")
        if frequencies.setdefault(category["id"], own) != own:
            raise ValueError(f"{where}: frequency {own!r}, in another split {frequencies[category['id']]!r}")
