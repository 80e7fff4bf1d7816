"""What documents share: camelCase outside, frozen inside, numbers as decimal strings."""

from decimal import Decimal
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

DecimalString = Annotated[
    str, Field(pattern=r"^[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]{1,3})?$", max_length=40)
]


class Document(BaseModel):
    """Base of what users write: camelCase outside, frozen, no unknown fields."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        alias_generator=to_camel,
        populate_by_name=True,
        use_attribute_docstrings=True,
    )


def decimal(value: float) -> str:
    """Write a number as the API conventions ask: no floats."""
    return str(Decimal(f"{value:.9g}"))
