"""A whole configuration: its sections together, and how a file is read.

A configuration file is YAML with the sections of `Config`; see `config/README.md`.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import Field, NonNegativeInt

from medtune.config.base import Fault, Section
from medtune.config.chest_llm import LlmConfig
from medtune.config.data import (
    SHOWS,
    ListedSourceConfig,
    MediaConfig,
    PhantomConfig,
    SplitsConfig,
    TaskConfig,
    VerificationConfig,
)
from medtune.config.evaluation import EvaluationConfig, ReportConfig
from medtune.config.export import ExportConfig
from medtune.config.faults import checked
from medtune.config.films import FilmsConfig
from medtune.config.tracking import TrackingConfig
from medtune.config.training import (
    AnsweringConfig,
    GrpoConfig,
    ModelConfig,
    RewardConfig,
    SftConfig,
)
from medtune.config.views import VOLUME_FORMATS, ViewsConfig
from medtune.runtime.errors import ConfigError
from medtune.runtime.files import sha256_bytes


class Config(Section):
    """A whole experiment."""

    experiment: str = Field(
        description="Name of the folder under `results/`.",
        pattern=r"^[A-Za-z0-9_-][A-Za-z0-9_.-]*$",
    )
    seed: NonNegativeInt = Field(
        1, description="All randomness derives from this and from stable ids."
    )
    phantom: PhantomConfig | None = Field(None, description="Write synthetic patients first.")
    sources: list[ListedSourceConfig] = Field([], description="Data sets of volumes.")
    films: FilmsConfig | None = Field(
        None, description="Chest films, instead of `sources`; for `task.name: chest_xray`."
    )
    verification: VerificationConfig = Field(VerificationConfig(), description="Check of the data.")
    splits: SplitsConfig = Field(SplitsConfig(), description="Train, validation and test patients.")
    media: MediaConfig = Field(MediaConfig(), description="Volumes to videos.")
    task: TaskConfig = Field(TaskConfig(), description="Question and answer.")
    views: ViewsConfig = Field(ViewsConfig(), description="The data set for other trainers.")
    reward: RewardConfig = Field(RewardConfig(), description="Reward terms.")
    model: ModelConfig = Field(description="The base model.")
    sft: SftConfig = Field(SftConfig(), description="Supervised fine-tuning.")
    grpo: GrpoConfig = Field(GrpoConfig(), description="Reinforcement learning.")
    evaluation: EvaluationConfig = Field(EvaluationConfig(), description="Evaluation.")
    report: ReportConfig = Field(ReportConfig(), description="Report.")
    tracking: TrackingConfig = Field(TrackingConfig(), description="Tracker of experiments.")
    export: ExportConfig = Field(ExportConfig(), description="Models to hand on.")

    def faults(self) -> Iterator[Fault]:
        """Yield what is wrong between sections."""
        yield from self._of_names()
        yield from self._of_films() if self.films else self._of_volumes()
        if (self.films is None) == (not self.sources):
            found = "there are both, or neither, of `sources` and `films`"
            yield Fault(("sources", "films"), found, "give either `sources` (volumes) or `films`")
        if (self.films is not None) != (self.task.name == "chest_xray"):
            found = f"is {self.task.name}; `films` and task.name chest_xray need each other"
            yield Fault(("task.name", "films"), found, "change one of them")
        if self.reward.pays_reasoning and not self.task.chain_of_thought:
            found = f"{self.reward.preset} needs task.chain_of_thought"
            yield Fault(
                ("reward.preset", "task.chain_of_thought"), found, "set task.chain_of_thought: true"
            )
        for name, section in (("sft", self.sft), ("grpo", self.grpo)):
            unused = section.trains_rows and not self.model.added_tokens
            if section.learning_rates.head and unused:
                key = f"{name}.learning_rates.head"
                yield Fault(
                    (key, f"{name}.lora", f"{name}.freeze", "model.added_tokens"),
                    "is set, but with lora the head is frozen",
                    "take it away, or set lora.train_head: true",
                )

    def _of_names(self) -> Iterator[Fault]:
        """Yield names of sources that are not there, or there twice."""
        names = [source.name for source in (self.films.sources if self.films else self.sources)]
        listed = "films.sources" if self.films else "sources"
        keys = tuple(f"{listed}.{number}.name" for number in range(len(names)))
        if len(set(names)) < len(names):
            yield Fault(keys, f"sources need unique names, found {names}", "give each its own")
        service = self.reward.service
        mentioned = {
            "splits.fixed": {*self.splits.fixed},
            "reward.service.allow_remote": {*service.allow_remote} if service else set(),
            "sft.dataset_weights": {name.partition("/")[0] for name in self.sft.dataset_weights},
            "grpo.dataset_weights": {name.partition("/")[0] for name in self.grpo.dataset_weights},
        }
        for key, given in mentioned.items():
            if unknown := sorted(given - set(names)):
                found = f"names {unknown}, but the sources are {names}"
                yield Fault((key, *keys), found, "name a source")

    def _of_volumes(self) -> Iterator[Fault]:
        """Yield what volumes cannot have, and frames that do not fit layout and model."""
        if self.evaluation.film_models:
            found = (
                f"{self.evaluation.film_models[0]} is of a family that answers about films alone, "
                "not about volumes"
            )
            yield Fault(("evaluation.models", "films"), found, "take it away")
        if self.views.format not in (None, *VOLUME_FORMATS):
            found = f"{self.views.format} has no boxes of volumes"
            yield Fault(
                ("views.format", "films"), found, f"take one of {', '.join(VOLUME_FORMATS)}"
            )
        possible, listed = SHOWS[self.media.layout], len(self.media.modalities)
        if listed not in possible:
            found = (
                f"{self.media.layout} shows {' or '.join(map(str, possible))} modalities, "
                f"media.modalities lists {listed}"
            )
            yield Fault(("media.layout", "media.modalities"), found, "change one of them")
        yield from self._of_patches("media.multiple_of", self.media.multiple_of)

    def _of_patches(self, key: str, multiple: int) -> Iterator[Fault]:
        """Yield sides that are no whole vision tokens of the model."""
        if multiple % (side := self.model.merged_patch):
            found = f"is {multiple}, this model needs a multiple of {side} (patch x merge)"
            yield Fault((key, "model.family", "model.builder", "model.tiny"), found, f"set {side}")

    def _of_films(self) -> Iterator[Fault]:
        """Yield what films cannot have, or not together."""
        assert self.films is not None
        for name in ("phantom", "verification", "splits", "media"):
            if getattr(self, name) != type(self).model_fields[name].default:
                found = f"`{name}` is for volumes; films have their own below `films`"
                yield Fault((name, "films"), found, "take it away")
        yield from self._of_patches("films.images.multiple_of", self.films.images.multiple_of)
        judge, texts = self.evaluation.judge, self.films.texts
        if judge and texts and self._model_of(judge) == self._model_of(texts.llm):
            found = (
                "is the model that wrote the texts (films.texts.llm), and would favor its own words"
            )
            yield Fault(("evaluation.judge", "films.texts.llm"), found, "name another")
        if texts and texts.reasoning and not self.task.chain_of_thought:
            keys = ("films.texts.reasoning", "task.chain_of_thought")
            yield Fault(
                keys, "needs task.chain_of_thought: true", "set it, or take the reasoning away"
            )

    @staticmethod
    def _model_of(llm: LlmConfig) -> str:
        """Return what tells a language model from others."""
        serve = llm.endpoint.serve
        return serve.path if serve else llm.model

    def for_model(self, name: str) -> Self:
        """Return the configuration with which a model of `evaluation.models`, or else any, answers.

        Of the model section it has its own origin, and no added tokens.
        """
        found = [other for other in self.evaluation.models if other.name == name]
        if not found:
            return self
        own = found[0].model_dump(exclude={"name"}) | {"builder": None, "added_tokens": []}
        return self.model_copy(update={"model": AnsweringConfig(**self.model.model_dump() | own)})

    @property
    def reward_sha256(self) -> str | None:
        """SHA-256 of `reward.file`: stages that use the file run again when it changes.

        Raises:
            ConfigError: The file cannot be read.
        """
        if self.reward.file is None:
            return None
        from medtune.config.training import read_source

        return sha256_bytes(read_source(Path(self.reward.file)))


def parse_config(values: Any, where: str = "configuration") -> Config:
    """Validate a mapping as a `Config`.

    Raises:
        ConfigError: It names all keys that are unknown (with the nearest valid one), missing, out
            of range or do not fit others.
    """
    if not isinstance(values, dict):
        raise ConfigError(where, "is not a mapping of sections", "see config/config.yaml")
    return checked(Config, values, where)


class _UniqueKeys(yaml.SafeLoader):
    """Notes keys that are given twice, of which plain YAML would silently keep the last."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.twice: list[str] = []

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return a mapping."""
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                self.twice.append(
                    f"key `{key.value}` is given twice, line {key.start_mark.line + 1}"
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> Any:
    """Return what a configuration file holds, not yet validated.

    Raises:
        ConfigError: The file cannot be read, or gives a key twice.
    """
    try:
        loader = _UniqueKeys(path.read_text(encoding="utf-8"))
        values = loader.get_single_data()
    except FileNotFoundError:
        raise ConfigError(path, "the file does not exist", "give an existing --config") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(path, f"cannot be read ({error})", "give a YAML file") from None
    except yaml.YAMLError as error:
        raise ConfigError(path, f"is not valid YAML: {error}", "correct the file") from None
    if loader.twice:
        raise ConfigError(path, "; ".join(loader.twice), "take one of each away")
    return values


def load(path: Path) -> Config:
    """Read and validate a configuration file."""
    return parse_config(read_yaml(path), str(path))
