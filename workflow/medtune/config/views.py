"""Section about the views of the data set: what other trainers load."""

from typing import Literal

from pydantic import Field

from medtune.config.base import Section

Trainer = Literal["llava", "easyr1", "segzero"]
# The others see an image padded to a square or cut out of its middle; stored images are neither.
ViewFormat = Literal["qwen2_5_vl", "qwen3_vl", "llava_onevision", "chexagent"]
VOLUME_FORMATS: tuple[ViewFormat, ...] = ("qwen2_5_vl", "qwen3_vl", "llava_onevision")


class ViewsConfig(Section):
    """The data set as other trainers load it; medtune's own training reads none of this."""

    trainers: list[Trainer] = Field(
        ["llava", "easyr1", "segzero"],
        description="Whose forms are written: LLaVA JSON, Parquet for EasyR1, a DatasetDict for "
        "Seg-Zero and its kin. The last holds a copy of the image for each question that names "
        "what to find.",
    )
    format: ViewFormat | None = Field(
        None,
        description="Coordinate format of LLaVA JSON and EasyR1, by the model family that writes "
        "it: pixels (qwen2_5_vl), thousandths (qwen3_vl), fractions with two decimals "
        "(llava_onevision: LLaVA, RadVLM), hundredths in tokens of boxes (chexagent: films "
        "alone); null: that of `model.family`. Seg-Zero reads pixels alone.",
    )
