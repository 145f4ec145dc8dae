"""The JSON files of the COCO formats, entry by entry."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_SPACE = re.compile(r"[\s,]*")


def json_entries(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The entries of a COCO file's three lists, one at a time: the whole file is never Python objects at once."""
    if not path.is_file():
        raise ValueError("does not exist")
    text = path.read_text(encoding="utf-8-sig")
    decode = json.JSONDecoder().raw_decode

    def token(at: int) -> int:
        found = _SPACE.match(text, at)
        assert found is not None  # the pattern matches the empty string
        return found.end()

    at = token(0)
    if text[at : at + 1] != "{":
        raise ValueError("is not a JSON object")
    at = token(at + 1)
    missing = {"images", "annotations", "categories"}
    while text[at : at + 1] != "}":
        key, at = decode(text, at)
        at = token(at)
        if text[at : at + 1] != ":":
            raise ValueError(f"no ':' after {key!r}")
        at = token(at + 1)
        if key not in missing or text[at : at + 1] != "[":
            _, at = decode(text, at)
        else:
            missing.remove(key)
            at = token(at + 1)
            while text[at : at + 1] != "]":
                entry, at = decode(text, at)
                if not isinstance(entry, dict):
                    raise ValueError(f"{key} holds {str(entry)[:40]!r}, not an object")
                yield key, entry
                at = token(at)
            at += 1
        at = token(at)
    if missing:
        raise ValueError(f"has no list {', '.join(sorted(missing))}")


def add_image(columns: dict[str, list[Any]], entry: dict[str, Any]) -> None:
    """Appends an entry of a file's images to the columns id, file_name, height and width."""
    name = "filename" if "filename" in entry and "file_name" not in entry else "file_name"
    columns["id"].append(entry["id"])
    columns["file_name"].append(entry[name])
    for side in ("height", "width"):
        columns[side].append(entry.get(side) or 0)
