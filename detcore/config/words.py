"""Values as words of the command line, in Hydra's grammar."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

_READ_AS_OTHERS = {"true", "false", "null", "inf", "nan"}


def as_word(value: Any) -> str:
    """A value as the right side of an override, which is read back as just that value."""
    match value:
        case str() if value.isidentifier() and value.lower() not in _READ_AS_OTHERS:
            return value
        case str():
            return _quoted(value)
        case Mapping():
            return "{" + ",".join(f"{key}:{as_word(item)}" for key, item in value.items()) + "}"
        case Sequence():
            return "[" + ",".join(map(as_word, value)) + "]"
        case bool() | None:
            return json.dumps(value)
    return repr(value)


def _quoted(text: str) -> str:
    # OmegaConf would put something in the place of ${...}. To both, backslashes stand for themselves but before what
    # they escape.
    literal = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)
    return "'" + re.sub(r"(\\*)('|$)", lambda found: 2 * found[1] + found[2].replace("'", "\\'"), literal) + "'"
