"""Sections about scores of reports that need a model, and about rewards from a service."""

from typing import Literal

from pydantic import Field

from medtune.config.base import Count, Positive, Section


class ChestScoresConfig(Section):
    """Models that score reports. What is missing is reported as not run."""

    models: str | None = Field(
        None,
        description="Folder with the models, one folder each: `bertscore`, `radcliq_bertscore`, "
        "`chexbert`, `radgraph`, `radgraph-xl`; `medtune/metrics/models.py` says what they hold. "
        "null: none is run.",
    )
    device: Literal["cpu", "cuda"] = Field("cpu", description="Where they run.")
    batch_size: Count = Field(32, description="Texts a model reads together.")


class RewardServiceConfig(Section):
    """A service that scores reports in a process of its own: `medtune reward-service`.

    It must run wherever the reward is computed: in the scoring pass, GRPO and scores.
    """

    metric: Literal["bertscore", "radgraph", "chexbert", "radcliq", "radcliq_published"] = Field(
        description="What it scores, and the name of the reward term; its weight is 0.45 unless "
        "`reward.weights` says another."
    )
    url: str = Field(
        "http://127.0.0.1:9400", description="Where it listens.", pattern=r"^https?://[^/]+$"
    )
    allow_remote: list[str] = Field(
        [],
        description="Names of the sources whose reports, and the answers about them, may go to a "
        "service that is not on this machine. Data under a use agreement may not, unless the "
        "agreement says so.",
    )
    wait_seconds: Positive = Field(
        900.0, description="How long to wait until its model is loaded; then the run stops."
    )
    timeout_seconds: Positive = Field(120.0, description="How long one request may take.")
    attempts: Count = Field(
        5, description="How often a request is sent before the run stops; pauses double to 30 s."
    )
    batch_size: Count = Field(64, description="Pairs in one request.")
