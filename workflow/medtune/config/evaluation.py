"""Sections about answering the test split, scoring the answers, and the report."""

from collections.abc import Iterator
from typing import Annotated, Literal, get_args

from pydantic import Field

from medtune.config.base import (
    AnyFamily,
    Count,
    Fault,
    Fraction,
    OtherFamily,
    RemoteFamily,
    Section,
)
from medtune.config.chest_llm import LlmConfig
from medtune.config.chest_scores import ChestScoresConfig


class AnswersConfig(Section):
    """How the test split is answered: greedy, sampled, and with shuffled videos."""

    batch_size: Count = Field(8, description="Prompts generated together.")
    max_new_tokens: Count = Field(512, description="Longest answer in tokens.")
    samples: Count = Field(4, description="Answers sampled per case at temperature 1.")
    engine: Literal["auto", "transformers", "vllm"] = Field(
        "auto",
        description="Who generates the answers; auto: vLLM where it is installed and a GPU is, "
        "else transformers. Families that are not trained are always transformers'.",
    )
    gpu_memory_utilization: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.5,
        description="Share of the GPU's memory that vLLM takes; beside it, the model is loaded "
        "once by transformers, for comparison.",
    )


# Names of models in the tables of the evaluation.
# Answers without a model, beside the constant one, by task.
BASELINES_OF = {
    "tumor_detection_3d": ("mean_box", "random", "center", "bright", "oracle"),
    "chest_xray": ("random", "center", "oracle"),
}
BASELINES = tuple(dict.fromkeys(name for names in BASELINES_OF.values() for name in names))
TAKEN = ("base", "sft", "grpo", "constant", *BASELINES)


class OtherModelConfig(Section):
    """A further model that answers the test split, beside base, SFT and GRPO."""

    name: str = Field(
        description="Its name in tables and folders; base, sft, grpo and the names of baselines "
        "are taken.",
        pattern=r"^[a-z0-9_]+$",
    )
    path: str = Field(description="Local folder or hub id (fetched if `model.download` allows).")
    family: AnyFamily = Field(
        description="Decides the box dialect and the processor. All but the Qwen families answer "
        "about films alone. gemma3 is MedGemma's too; llava_med, chexagent and maira2 need "
        "`remote_code`."
    )
    revision: str | None = Field(None, description="Hub revision to fetch; null: the newest.")
    remote_code: bool = Field(
        False, description="Run the Python code that lies in the model's folder. Read it first."
    )

    def faults(self) -> Iterator[Fault]:
        """Yield code that may not run, or that there is none of."""
        keys, remote = ("remote_code", "family"), self.family in get_args(RemoteFamily)
        if self.remote_code and not remote:
            found = f"{self.name}: a {self.family} needs no code"
            yield Fault(keys, found, "take remote_code away")
        if remote and not self.remote_code:
            found = (
                f"{self.name}: a {self.family} is loaded by Python code from its own folder, which "
                "is not allowed"
            )
            remedy = "read that code and set remote_code: true, or take the model away"
            yield Fault(keys, found, remedy)


class IntervalsConfig(Section):
    """How sure the figures are."""

    resamples: Count = Field(2000, description="Bootstrap resamples (of patients).")
    permutations: Count = Field(10_000, description="Permutations of a paired test.")
    confidence: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.95, description="Level of the intervals."
    )
    primary: list[str] = Field(
        [],
        description="Metrics that are primary endpoints: their tests are corrected among "
        "themselves (Holm), apart from those of all other metrics. Empty: the main metric of the "
        "task, and the reward.",
    )


class ScoringConfig(IntervalsConfig):
    """How answers are scored."""

    correct_from: Fraction = Field(
        0.5,
        description="Main metric of the task (volumes: IoU; films: score) from which an answer is "
        "correct, for pass@k: how probably at least one of k sampled answers is.",
    )
    scores: ChestScoresConfig = Field(
        ChestScoresConfig(), description="Scores of reports that need a model."
    )
    strip_reasoning: list[str] = Field(
        [],
        description="Names of models (base, sft, grpo or of `models`) whose answer is what stands "
        "after their last closing tag, such as </think>, so that thinking and direct models stand "
        "in one table. No reasoning form is asked of them. Rewards stay strict.",
    )


class JudgingConfig(Section):
    """Who judges answers in words."""

    judge: LlmConfig | None = Field(
        None,
        description="A language model that judges reports (GREEN) and replies in conversations; "
        "null: nobody. Its endpoint sees texts of test patients: `endpoint.allow_remote` holds. "
        "Take a model that has written nothing of the data, and `temperature: 0`.",
    )


class EvaluationConfig(ScoringConfig, JudgingConfig, AnswersConfig):
    """Evaluation on the test split: greedy, sampled, and with shuffled videos."""

    shards: Count = Field(1, description="Jobs that share the test split of one model.")
    models: list[OtherModelConfig] = Field([], description="Further models that answer it.")

    @property
    def film_models(self) -> list[str]:
        """Names of the models that answer about films alone."""
        return [one.name for one in self.models if one.family in get_args(OtherFamily)]

    def faults(self) -> Iterator[Fault]:
        """Yield names that are taken, and names of nothing."""
        names = [*TAKEN, *(model.name for model in self.models)]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            yield Fault(("models",), f"the name {twice[0]!r} is taken", "choose another")
        models = ["base", "sft", "grpo", *(model.name for model in self.models)]
        if unknown := sorted(set(self.strip_reasoning) - set(models)):
            remedy = f"name some of {models}"
            yield Fault(("strip_reasoning", "models"), f"{unknown} are no models", remedy)


class ReportConfig(Section):
    """The report."""

    title: str = Field("medtune report", description="Heading of the page.")
    cases: Count = Field(9, description="Cases of each model to look at (best, median, worst).")
