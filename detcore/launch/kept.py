"""What a job leaves behind must not be where Ray unpacked the files that it came with: they go after the job."""

from itertools import pairwise
from pathlib import Path

from detcore.config.stores import is_url

_UNPACKED = ("runtime_resources", "working_dir_files")
"""Of a node's folders, those in which Ray unpacks what jobs came with."""


def is_kept(place: str | Path) -> bool:
    """Whether a file, a folder or what is at a URL stays after the job; so does all that is not a job's."""
    if is_url(place):
        return True
    parts = Path(place).absolute().parts
    return not any(pair == _UNPACKED for pair in pairwise(parts))


def check_kept(setting: str, place: str) -> None:
    """Raises a ValueError with the remedy where results would be lost."""
    if not is_kept(place):
        raise ValueError(
            f"{setting} = {place} is in the copy of the submitted folder that Ray removes after the job: set {setting} "
            "to a folder that stays, and that all nodes mount"
        )
