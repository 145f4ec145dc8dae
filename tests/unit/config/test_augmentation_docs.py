"""docs/augmentation.md has a row for each transform: its name, its parameters with their defaults, what it does."""

from typing import get_args

import pytest
import yaml

from detcore.config import config_directory, load
from detcore.config.transforms import Colour, Geometric, Mixing, Pointwise, Sizing, Transform


def shown(value) -> str:
    """A default as YAML has it."""
    plain = [list(v) if isinstance(v, tuple) else v for v in value] if isinstance(value, tuple) else value
    return yaml.safe_dump(plain, default_flow_style=True).removesuffix("...\n").strip()


def row(kind) -> str:
    fields = [
        f"`{name}`" if field.is_required() else f"`{name}: {shown(field.default)}`"
        for name, field in kind.model_fields.items()
        if name != "type"
    ]
    what = " ".join(kind.__doc__.partition("\n\n")[0].split())
    return f"| `{kind.model_fields['type'].default}` | {', '.join(fields)} | {what} |"


@pytest.mark.parametrize("kind", get_args(get_args(Transform)[0]), ids=lambda kind: kind.__name__)
def test_the_table_is_that_of_the_types(kind, repository):
    assert row(kind) in (repository / "docs" / "augmentation.md").read_text().splitlines()


def test_each_transform_is_of_one_kind():
    kinds = [kind for union in (Sizing, Geometric, Colour, Mixing, Pointwise) for kind in get_args(union)]
    assert sorted(kinds, key=id) == sorted(get_args(get_args(Transform)[0]), key=id)
    assert all(kind.__doc__ for kind in kinds)


RECIPES = sorted((config_directory() / "data" / "augmentation").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_of_augmentations_goes_with_any_data(path):
    stated = yaml.safe_load(path.read_text())
    for data in ("coco_mini", "digits"):
        config = load([f"data={data}", "data.root=somewhere", f"+data/augmentation={path.stem}"])
        assert [t.type for t in config.data.train_transforms] == [t["type"] for t in stated["train_transforms"]]


if __name__ == "__main__":
    for union in (Sizing, Geometric, Colour, Mixing, Pointwise):
        print(*(row(kind) for kind in get_args(union)), "", sep="\n")
