"""Values out of other people's files, taken only for what they claim to be."""

from collections.abc import Mapping, Sequence
from reprlib import Repr
from typing import Any

_SHORT = Repr()
_SHORT.maxstring = _SHORT.maxother = 80
_SHORT.maxlevel, _SHORT.maxlist, _SHORT.maxdict = 2, 6, 3
LARGEST_SIDE = 2**31 - 1
"""The most pixels a side of an image can have: sizes are int32."""


def shown(value: object) -> str:
    """A value as a message shows it: on one line and short, however large or deep it is."""
    return _SHORT.repr(value)


def brief(message: object) -> str:
    """What an error says, on one line and of a length to be read, whatever a file put into it."""
    line = " ".join(str(message).split())
    return line if len(line) <= 300 else f"{line[:200]} ... {line[-80:]}"


def integer(entry: Mapping[str, Any], key: str, *, least: int = -(2**63), most: int = 2**63 - 1) -> int:
    """A whole number.

    Raises:
        KeyError: it is missing.
        ValueError: it is something else, or out of the range.
    """
    value = entry[key]
    if type(value) is not int:  # a bool is an int, but no number
        raise ValueError(f"{key} {shown(value)} is not a whole number")
    if not least <= value <= most:
        raise ValueError(f"{key} {shown(value)} is not in {least}..{most}")
    return value


def side(entry: Mapping[str, Any], key: str) -> int:
    """Height or width of an image in pixels, 0 where the file does not say."""
    return 0 if entry.get(key) is None else integer(entry, key, least=0, most=LARGEST_SIDE)


def text(entry: Mapping[str, Any], key: str) -> str:
    """A text that can be a file's name or a label.

    Raises:
        KeyError: it is missing.
        ValueError: it is something else, empty, or holds half a character or a NUL.
    """
    value = entry[key]
    if not isinstance(value, str) or not value or "\0" in value or (not value.isascii() and not _encodes(value)):
        raise ValueError(f"{key} {shown(value)} is not a text")
    return value


def _encodes(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def flag(entry: Mapping[str, Any], key: str) -> bool:
    """A yes or no, as 0 and 1 or false and true; no where it is missing."""
    value = entry.get(key)
    if value is None or (isinstance(value, int) and value in (0, 1)):
        return bool(value)
    raise ValueError(f"{key} {shown(value)} is neither 0 nor 1")


def entries(entry: Mapping[str, Any], key: str) -> list[Any]:
    """A list, which may be empty.

    Raises:
        KeyError: it is missing.
        ValueError: it is something else.
    """
    value = entry[key]
    if not isinstance(value, list):
        raise ValueError(f"{key} {shown(value)} is not a list")
    return value


def numbers(values: object, what: str) -> Sequence[float]:
    """A list of numbers, of which some may be infinite or not a number: prepare drops and names those objects.

    Raises:
        ValueError: it is something else, or holds something else.
    """
    if not isinstance(values, list | tuple) or not {*map(type, values)} <= {float, int}:
        raise ValueError(f"{what} {shown(values)} is not a list of numbers")
    return values
