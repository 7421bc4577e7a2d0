"""What every section is, and the kinds of numbers they hold."""

from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
# Families whose code lies in the model's own folder.
RemoteFamily = Literal["llava_med", "chexagent", "maira2"]
# Families that only answer, and only about films.
OtherFamily = Literal["llava_onevision", "gemma3", RemoteFamily]


def _is_trained(family: Any) -> Any:
    if family in get_args(OtherFamily):
        raise ValueError("is only evaluated, not trained: name the model in evaluation.models")
    return family


Trained = Literal["qwen2_5_vl", "qwen3_vl"]
Family = Annotated[Trained, BeforeValidator(_is_trained)]
AnyFamily = Literal[Trained, OtherFamily]
Part = Literal["vision", "projector", "head", "language"]


class Section(BaseModel):
    """A part of the configuration: unknown keys are errors, values never change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
