"""What pydantic finds wrong, in the words of those who set it: the dotted key, what is wrong, what was meant."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

from pydantic import ValidationError

from detcore.config.root import Config
from detcore.config.section import Section
from detcore.config.stores import without_secrets
from detcore.spelling import meant


def fault_lines(error: ValidationError, values: Mapping[str, Any], *, source: str) -> list[str]:
    """One line for each fault: where `values` came from, the key's path, what is wrong."""
    return [_fault(source, fault, values) for fault in error.errors()]


def _fault(source: str, fault: Mapping[str, Any], values: Mapping[str, Any]) -> str:
    path = _key_path(fault["loc"], values)
    message = str(fault["msg"]).removeprefix("Value error, ")
    if fault["type"] == "extra_forbidden":
        message = "no such key" + meant(str(fault["loc"][-1]), _keys_beside(fault["loc"]))
    given = (
        ""
        if isinstance(fault["input"], dict) or fault["type"] == "missing"
        else f" (got {without_secrets(repr(fault['input']))})"
    )
    return f"{source}: {path + ': ' if path else ''}{message}{given}"


def _key_path(location: Sequence[str | int], values: Any) -> str:
    """The dotted key as a user writes it: pydantic's location without the tags of typed unions."""
    keys: list[str] = []
    for part in location:
        if isinstance(values, Mapping) and part not in values and part == values.get("type"):
            continue
        if isinstance(part, str) and not isinstance(values, Mapping | None):  # such as number or range, by the value
            continue
        keys.append(str(part))
        try:
            values = values[part]
        except (KeyError, IndexError, TypeError):
            values = None
    return ".".join(keys)


def _keys_beside(location: Sequence[str | int]) -> set[str]:
    """The keys that there could be in that place."""
    sections: list[type[Section]] = [Config]
    for part in location[:-1]:
        fields = [section.model_fields[str(part)] for section in sections if str(part) in section.model_fields]
        if fields:  # else it is the tag of a union, or a place in a list
            sections = [inner for field in fields for inner in _sections(field.annotation)]
    return {key for section in sections for key in section.model_fields}


def _sections(annotation: Any) -> Iterator[type[Section]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    for inner in get_args(annotation):
        yield from _sections(inner)
