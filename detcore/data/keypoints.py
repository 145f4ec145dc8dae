"""What the keypoints of a data set are: their names, the lines between them, and which change places in a mirror."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

_SIDE = re.compile(r"(?<![^\W_])(left|right|l|r)(?![^\W_])", re.IGNORECASE)
_OTHER = {"left": "right", "right": "left", "l": "r", "r": "l"}


@dataclass(frozen=True, kw_only=True)
class KeypointLayout:
    """The keypoints that every object of a data set has.

    Attributes:
        names: of the K keypoints.
        skeleton: pairs of 0-based keypoints that a line is drawn between.
        flip: for each keypoint, which one it is in a mirrored image: left and right change places.
    """

    names: tuple[str, ...]
    skeleton: tuple[tuple[int, int], ...]
    flip: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.names)

    @classmethod
    def of(cls, names: Sequence[str], skeleton: Sequence[Sequence[int]] = ()) -> Self:
        """The layout of these names, left and right told by them: left_eye and right_eye, L_Eye and R_Eye.

        Args:
            names: no two alike.
            skeleton: pairs of 0-based keypoints.

        Raises:
            ValueError: a name twice, or a line to a keypoint that there is not.
        """
        place = {name: index for index, name in enumerate(names)}
        if len(place) < len(names):
            raise ValueError(f"keypoints {list(names)}: one name twice")
        for line in skeleton:
            if len(line) != 2 or not all(0 <= point < len(names) for point in line):
                raise ValueError(f"skeleton: {list(line)} is no pair of the {len(names)} keypoints")
        flip = tuple(place.get(_mirrored(name), index) for name, index in place.items())
        return cls(names=tuple(names), skeleton=tuple((a, b) for a, b in skeleton), flip=flip)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as in `dataset.json`."""
        return {"names": list(self.names), "skeleton": [list(line) for line in self.skeleton], "flip": list(self.flip)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """What `to_dict` gave."""
        return cls(
            names=tuple(values["names"]),
            skeleton=tuple((a, b) for a, b in values["skeleton"]),
            flip=tuple(values["flip"]),
        )


def _mirrored(name: str) -> str:
    def other(found: re.Match[str]) -> str:
        side = found[0]
        swapped = _OTHER[side.lower()]
        return swapped.upper() if side.isupper() else swapped.capitalize() if side[0].isupper() else swapped

    return _SIDE.sub(other, name)
