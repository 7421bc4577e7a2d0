"""What every section is, and the kinds of numbers they hold."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal, NamedTuple, Self, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    model_validator,
)

Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
# Families whose code lies in the model's own folder.
RemoteFamily = Literal["llava_med", "chexagent", "maira2"]
# Families that only answer, and only about films.
OtherFamily = Literal["llava_onevision", "gemma3", RemoteFamily]


# Context of a validation that leaves the faults between keys for later, to see all at once.
LATER = {"faults": "later"}


class Fault(NamedTuple):
    """What is wrong with a key, or with several that are valid each by itself.

    Attributes:
        keys: The key to change, and all others that it is about; of a section, relative to it.
        found: What was found there, and what was expected.
        remedy: What the user can do about it.
    """

    keys: tuple[str, ...]
    found: str
    remedy: str

    def __str__(self) -> str:
        """Return it in a line."""
        return f"`{self.keys[0]}`: {self.found}: {self.remedy}"


class RefusedValueError(ValueError):
    """A value that a validator refuses, with its remedy."""

    def __init__(self, found: str, remedy: str) -> None:
        self.found, self.remedy = found, remedy
        super().__init__(f"{found}: {remedy}")


def _is_trained(family: Any) -> Any:
    if family in get_args(OtherFamily):
        raise RefusedValueError(
            "is only evaluated, not trained", "name the model in evaluation.models"
        )
    return family


Trained = Literal["qwen2_5_vl", "qwen3_vl"]
Family = Annotated[Trained, BeforeValidator(_is_trained)]
AnyFamily = Literal[Trained, OtherFamily]
Part = Literal["vision", "projector", "head", "language"]


class Section(BaseModel):
    """A part of the configuration: unknown keys are errors, values never change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    def faults(self) -> Iterator[Fault]:
        """Yield what is wrong between keys that are valid each by itself."""
        yield from ()

    @model_validator(mode="after")
    def _has_no_faults(self, info: ValidationInfo) -> Self:
        if info.context != LATER and (faults := [str(fault) for fault in self.faults()]):
            raise ValueError("; ".join(faults))
        return self


def sections_of(model: type[BaseModel]) -> dict[str, type[BaseModel]]:
    """Return the sections directly inside a section, by key (also inside list and `| None`)."""
    inside = {}
    for key, field in model.model_fields.items():
        candidates = [field.annotation, *get_args(field.annotation)]
        for candidate in candidates:
            if isinstance(candidate, type) and issubclass(candidate, BaseModel):
                inside[key] = candidate
    return inside
