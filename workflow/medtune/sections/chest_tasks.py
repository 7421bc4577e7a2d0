"""The task section of chest films."""

from typing import Literal

from pydantic import Field

from medtune.sections.base import Section


class ChestTaskConfig(Section):
    """What is asked of the model about chest films."""

    name: Literal["chest_xray"] = Field("chest_xray", description="Module in `medtune.tasks`.")
    reasoning: bool = Field(
        False,
        description="Answer as <think>...</think><answer>...</answer>, conversations excepted; "
        "else the answer alone.",
    )
