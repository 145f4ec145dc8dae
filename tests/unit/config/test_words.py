"""Values as words of the command line: each is read back as itself."""

from typing import Any

import pytest

from detcore.config import compose_params
from detcore.config.words import as_word

TEXTS = ["plain", "null", "True", "nan", "3", "", "it's", r"a\b", r"a\\b", "ends\\", r"\'", "${oc.env:HOME}", r"\\${x}"]


@pytest.mark.parametrize("value", [*TEXTS, 3, -1.5e-7, True, None, [1, "a b", ["x=y"]], {"type": "it's", "sizes": [1]}])
def test_any_value_survives_the_override_grammar(value: Any) -> None:
    assert compose_params([f"data.root={as_word(value)}"])["data"]["root"] == value
