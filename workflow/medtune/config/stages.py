"""The part of the configuration that each stage reads.

A stage sees only the sections of its own `Stage` model, and exactly these are handed to it and
decide whether it reruns: a stage cannot depend on a key that does not rerun it. The file of reward
terms is known by its content.
"""

import json
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter

from medtune.config.base import Section
from medtune.config.data import (
    FixedSplitsConfig,
    MediaConfig,
    PhantomConfig,
    RegionConfig,
    ShownConfig,
    SourceConfig,
    SplitsConfig,
    TargetConfig,
    TaskConfig,
    VerificationConfig,
)
from medtune.config.evaluation import (
    AnswersConfig,
    IntervalsConfig,
    JudgingConfig,
    ReportConfig,
    ScoringConfig,
)
from medtune.config.experiment import Config, load
from medtune.config.export import ExportConfig, ReleaseConfig
from medtune.config.faults import checked
from medtune.config.films import (
    FilmImagesPart,
    FilmIndexConfig,
    FilmSplitsPart,
    FilmTextsPart,
    FilmVerifyPart,
)
from medtune.config.tracking import TrackingConfig
from medtune.config.training import (
    AnsweringConfig,
    FamilyConfig,
    GrpoConfig,
    ModelConfig,
    RewardConfig,
    ScoringPassConfig,
    SftConfig,
)
from medtune.config.views import ViewsConfig
from medtune.runtime.fingerprint import code_sha256

# What of the code only a reward leads to.
REWARD_CODE = (
    *(
        "rewards.custom",
        "rewards.service_client",
        "rewards.terms",
        "tasks.brain.tumor_rewards",
        "tasks.chest.rewards",
        "tasks.get_terms",
    ),
    "training.validation.ValidationGenerations",
)


class Stage(Section):
    """The sections one stage may read; see the subclasses."""

    @classmethod
    def unread(cls, _: Config) -> set[str]:
        """Return the sections that are not read with this configuration: they get defaults."""
        return set()


class PhantomStage(Stage):
    """Sections read by `medtune phantom`."""

    seed: int = 1
    phantom: PhantomConfig


class IndexStage(Stage):
    """Sections read by `medtune index`."""

    sources: list[SourceConfig]


class VerifyStage(Stage):
    """Sections read by `medtune verify-shard`."""

    sources: list[SourceConfig]
    verification: VerificationConfig
    media: ShownConfig = ShownConfig()


class FindingsStage(Stage):
    """Sections read by `medtune findings` and `medtune qc-page`: of the task only the region.

    So another region reads no raw file again.
    """

    splits: FixedSplitsConfig
    verification: VerificationConfig
    task: RegionConfig = RegionConfig()


class ConvertStage(Stage):
    """Sections read by `medtune convert`: of the task only the target."""

    media: MediaConfig
    task: TargetConfig


class QcStage(Stage):
    """Sections read by `medtune qc`."""

    task: TargetConfig


class AnnotateStage(Stage):
    """Sections read by `medtune annotate`."""

    seed: int = 1
    splits: SplitsConfig
    task: TaskConfig


class FilmIndexStage(Stage):
    """Sections read by `medtune film-index`."""

    films: FilmIndexConfig


class FilmVerifyStage(Stage):
    """Sections read by `medtune film-verify`: only where the files are."""

    films: FilmVerifyPart


class FilmFindingsStage(Stage):
    """Sections read by `medtune film-findings`."""

    films: FilmImagesPart


class FilmImagesStage(Stage):
    """Sections read by `medtune film-images`."""

    films: FilmImagesPart


class FilmSplitsStage(Stage):
    """Sections read by `medtune film-splits`."""

    seed: int = 1
    films: FilmSplitsPart


class FilmTextsStage(Stage):
    """Sections read by `medtune film-texts`, which no seed changes."""

    films: FilmTextsPart


class FilmAnnotateStage(Stage):
    """Sections read by `medtune film-reasoning` and `medtune annotate-films`."""

    seed: int = 1
    films: FilmTextsPart


class ViewsStage(Stage):
    """Sections read by `medtune views`: of the model only its family."""

    task: TaskConfig
    model: FamilyConfig
    views: ViewsConfig


class ModelStage(Stage):
    """Sections read by `medtune model`."""

    seed: int = 1
    task: TaskConfig
    model: AnsweringConfig


class SftStage(Stage):
    """Sections read by `medtune sft`; the reward only where answers are evaluated."""

    seed: int = 1
    task: TaskConfig
    model: ModelConfig
    reward: RewardConfig = RewardConfig()
    reward_sha256: str | None = None
    sft: SftConfig

    @classmethod
    def unread(cls, config: Config) -> set[str]:
        """Return the reward where `sft.eval_generation_samples` is 0."""
        return set() if config.sft.eval_generation_samples else {"reward", "reward_sha256"}


class DifficultyStage(Stage):
    """Sections read by `medtune difficulty`."""

    seed: int = 1
    task: TaskConfig
    model: ModelConfig
    reward: RewardConfig
    reward_sha256: str | None = None
    grpo: ScoringPassConfig


class GrpoStage(Stage):
    """Sections read by `medtune grpo`."""

    seed: int = 1
    task: TaskConfig
    model: ModelConfig
    reward: RewardConfig
    reward_sha256: str | None = None
    grpo: GrpoConfig


class PredictStage(Stage):
    """Sections read by `medtune predict`."""

    seed: int = 1
    task: TaskConfig
    model: AnsweringConfig
    evaluation: AnswersConfig


class BaselinesStage(Stage):
    """Sections read by `medtune baselines`: of the model only its family."""

    seed: int = 1
    task: TaskConfig
    model: FamilyConfig


class JudgeStage(Stage):
    """Sections read by `medtune judge`."""

    seed: int = 1
    task: TaskConfig
    evaluation: JudgingConfig


class ScoreStage(Stage):
    """Sections read by `medtune score`."""

    seed: int = 1
    task: TaskConfig
    reward: RewardConfig
    reward_sha256: str | None = None
    evaluation: ScoringConfig


class ReportStage(Stage):
    """Sections read by `medtune report`."""

    task: TaskConfig
    report: ReportConfig


class ExportStage(Stage):
    """Sections read by `medtune export`."""

    task: TaskConfig
    model: ModelConfig
    evaluation: IntervalsConfig
    export: ReleaseConfig


class RewardServiceStage(Stage):
    """Sections read by `medtune reward-service`."""

    reward: RewardConfig
    evaluation: ScoringConfig


class TrackingStage(Stage):
    """What the trackers of `medtune sft` and `medtune grpo` read; it reruns nothing."""

    experiment: str
    tracking: TrackingConfig


class PushStage(Stage):
    """Sections read by `medtune push`."""

    export: ExportConfig


STAGES: dict[str, type[Stage]] = {
    stage.__name__.removesuffix("Stage").lower(): stage for stage in Stage.__subclasses__()
}
S = TypeVar("S", bound=Stage)


def stage_json(config: Config, stage: str) -> str:
    """Return the part of a configuration that a stage reads, as canonical JSON."""
    unread = STAGES[stage].unread(config)
    part = {
        name: _part(getattr(config, name), field.annotation)
        for name, field in STAGES[stage].model_fields.items()
        if name not in unread
    }
    return json.dumps(part, sort_keys=True)


def stage_code(config: Config, verb: str) -> str:
    """Return the hash of the code of a verb, as far as it runs with this configuration."""
    stage = STAGES.get(verb)
    rewarded = stage is None or "reward" not in stage.unread(config)
    return code_sha256(verb, () if rewarded else REWARD_CODE)


def _part(value: Any, annotation: Any) -> Any:
    """Return a section as JSON values, without the keys that the stage's section lacks."""
    if value is not None and isinstance(annotation, type) and issubclass(annotation, Section):
        return value.model_dump(mode="json", include=set(annotation.model_fields))
    return TypeAdapter(annotation).dump_python(value, mode="json") if value is not None else None


def load_stage(stage: type[S], config: str) -> S:
    """Return the part of a configuration that a stage reads.

    Args:
        stage: The stage's model.
        config: Path of a configuration file, or the JSON that `stage_json` wrote.
    """
    if not config.lstrip().startswith("{"):
        name = stage.__name__.removesuffix("Stage").lower()
        loaded = load(Path(config))
        config = stage_json(loaded, name)
    return checked(stage, json.loads(config), f"sections of {stage.__name__}")
