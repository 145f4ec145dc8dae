"""The base of every configuration section: frozen, and closed to unknown keys."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Discriminator, Field


class Section(BaseModel):
    """A typed, immutable part of the configuration. Unknown keys, wrong types and impossible values are load errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
NonNegative = Annotated[float, Field(ge=0.0)]
Count = Annotated[int, Field(ge=1)]
CountOrZero = Annotated[int, Field(ge=0)]


def by_type(default: str) -> Discriminator:
    """Tells the members of a union apart by their `type`, which a file may leave out where it is `default`.

    Each member needs a `Tag` of its type.
    """

    def type_of(value: Any) -> str:
        stated = value.get("type", default) if isinstance(value, dict) else getattr(value, "type", default)
        return str(stated)

    return Discriminator(type_of)
