"""The JSON files of the COCO formats, entry by entry."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from detcore.data.formats.fields import brief, integer, shown, side, text

_SPACE = re.compile(r"[ \t\r\n]*")
_LISTS = ("images", "annotations", "categories")


def json_entries(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The entries of a COCO file's three lists, one at a time: the whole file is never Python objects at once.

    Raises:
        ValueError: the file is missing, empty or not UTF-8; it is no JSON, with line and column; or it is JSON of
            another form: no object, a list that is missing or there twice, an entry that is no object.
    """
    if not path.is_file():
        raise ValueError("does not exist")
    try:
        document = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 (byte {error.start})") from error
    if not document.strip():
        raise ValueError("is empty")
    yield from _Reader(document).entries()


def load_json(path: Path) -> dict[str, Any]:
    """A whole small JSON file that holds an object.

    Raises:
        ValueError: naming the file, as `json_entries`.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise ValueError(f"{path}: does not exist") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is not UTF-8 (byte {error.start})") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: {_why(error)}") from error
    if not isinstance(document, dict):
        raise ValueError(f"{path}: holds {shown(document)}, not an object")
    return document


def _why(error: Exception) -> str:
    return "is nested too deeply" if isinstance(error, RecursionError) else f"is not JSON: {brief(error)}"


class _Reader:
    """A place in a JSON text."""

    def __init__(self, document: str) -> None:
        self._text, self._at = document, 0
        self._decode = json.JSONDecoder().raw_decode

    def entries(self) -> Iterator[tuple[str, dict[str, Any]]]:
        missing = set(_LISTS)
        self._expect("{")
        for key in self._members("}"):
            if not isinstance(key, str):
                self._fail("a name in quotes")
            self._expect(":")
            if key not in _LISTS:
                self._value()
                continue
            if key not in missing:
                raise ValueError(f"has two lists {key}")
            missing.remove(key)
            if self._peek() != "[":
                raise ValueError(f"{key} is {shown(self._value())}, not a list")
            self._expect("[")
            for entry in self._members("]"):
                if not isinstance(entry, dict):
                    raise ValueError(f"{key} holds {shown(entry)}, not an object")
                yield key, entry
        if self._peek():
            self._fail("the end")
        if missing:
            raise ValueError(f"has no list {', '.join(sorted(missing))}")

    def _members(self, end: str) -> Iterator[Any]:
        """The values up to the closing bracket; of an object, the names, each to be read on from."""
        if self._peek() != end:
            yield self._value()
            while self._peek() == ",":
                self._expect(",")
                yield self._value()
        self._expect(end)

    def _value(self) -> Any:
        self._peek()
        try:
            value, self._at = self._decode(self._text, self._at)
        except (ValueError, RecursionError) as error:
            raise ValueError(_why(error)) from error
        return value

    def _peek(self) -> str:
        found = _SPACE.match(self._text, self._at)
        assert found is not None  # the pattern matches the empty string
        self._at = found.end()
        return self._text[self._at : self._at + 1]

    def _expect(self, character: str) -> None:
        if self._peek() != character:
            self._fail(repr(character))
        self._at += 1

    def _fail(self, expected: str) -> None:
        raise ValueError(_why(json.JSONDecodeError(f"expecting {expected}", self._text, self._at)))


def add_image(columns: dict[str, list[Any]], entry: dict[str, Any], name: str = "file_name") -> None:
    """Appends an entry of a file's images to the columns id, file_name, height and width."""
    if name == "file_name" and "filename" in entry and name not in entry:
        name = "filename"
    values = (integer(entry, "id"), text(entry, name), side(entry, "height"), side(entry, "width"))
    for column, value in zip(("id", "file_name", "height", "width"), values, strict=True):
        columns[column].append(value)
