"""Sections about what is handed on to others: the exported folder and where it may be pushed."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from medtune.config.base import Fault, Section


class ReleaseConfig(Section):
    """What an exported folder holds."""

    stages: Annotated[list[Literal["sft", "grpo"]], Field(min_length=1)] = Field(
        ["grpo"], description="Stages whose models `snakemake export` writes."
    )
    dtype: Literal["bfloat16", "float32"] = Field(
        "bfloat16",
        description="Precision of the written weights; what rounding changes is measured and "
        "stands in the model card.",
    )
    license: str | None = Field(
        None, description="License of the model, by its hub id; null: the card says none is stated."
    )


class ExportConfig(ReleaseConfig):
    """A folder to hand on: weights, processor, model card; uploaded only if `push` says so."""

    push: bool = Field(
        False, description="Allow `medtune push` to upload an exported folder to `repo`."
    )
    repo: str | None = Field(
        None,
        description="Hub repository `owner/name` to push to; made private if it does not exist.",
        pattern=r"^[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+$",
    )

    def faults(self) -> Iterator[Fault]:
        """Yield what an upload lacks."""
        if self.push and self.repo is None:
            yield Fault(("repo", "push"), "push: true needs it", "name it: owner/name")
