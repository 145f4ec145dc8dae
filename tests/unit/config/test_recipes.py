"""Every recipe of conf/model, as it stands."""

from pathlib import Path

import pytest
import yaml
from pydantic import TypeAdapter

from detcore.config.model import ModelConfig

FOLDER = Path(__file__).parents[3] / "conf" / "model"


@pytest.mark.parametrize("name", sorted(file.stem for file in FOLDER.glob("*.yaml")))
def test_a_recipe_is_a_valid_section_with_a_title(name: str) -> None:
    text = (FOLDER / f"{name}.yaml").read_text()
    assert text.startswith("# ")
    TypeAdapter(ModelConfig).validate_python(yaml.safe_load(text))
