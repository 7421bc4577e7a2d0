"""Sections of GRPO: who samples its answers, and which prompts they answer."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from medtune.config.base import Count, Fault, Fraction, Positive, Section


class RolloutConfig(Section):
    """Who samples the answers of GRPO."""

    engine: Literal["transformers", "vllm", "server"] = Field(
        "transformers",
        description="The learner itself, a vLLM beside it on the same GPU, or a vLLM elsewhere, "
        "started with `medtune rollout-server`.",
    )
    gpu_memory_utilization: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.4, description="Share of a GPU's memory that vLLM takes while it samples."
    )
    server: str | None = Field(
        None, description="URL of the rollout server, which shares the file system."
    )
    importance_sampling_correction: Literal[
        "none", "token_truncate", "token_mask", "sequence_truncate", "sequence_mask"
    ] = Field(
        "token_truncate",
        description="How the loss corrects for a vLLM whose probabilities are not quite the "
        "learner's, by TRL's names.",
    )

    def faults(self) -> Iterator[Fault]:
        """Yield a server without its engine, or the reverse."""
        if (self.engine == "server") != (self.server is not None):
            found = f"is {self.server!r}, and engine is {self.engine}"
            remedy = "give grpo.rollouts.server with engine: server, and only then"
            yield Fault(("server", "engine"), found, remedy)


class CurriculumConfig(Section):
    """Which prompts GRPO trains on, by the mean reward of answers sampled before."""

    num_samples: Count = Field(4, description="Answers to every prompt in the scoring pass.")
    min_reward: Fraction = Field(0.0, description="Prompts up to this mean reward are left out.")
    max_reward: Fraction = Field(0.7, description="Prompts above this mean reward are left out.")
    max_prompts: Count | None = Field(None, description="Prompts drawn at most; null: all others.")
    target_reward: Fraction = Field(0.3, description="Mean reward that is drawn most often.")
    target_std: Positive = Field(0.2, description="Standard deviation of the preference for it.")
