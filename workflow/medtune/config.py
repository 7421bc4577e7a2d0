"""A whole configuration: its sections together, and how a file is read and its faults explained.

A configuration file is YAML with the sections of `Config`; see `config/README.md`.
"""

import difflib
from pathlib import Path
from typing import Any, Self, get_args

import yaml
from pydantic import (
    BaseModel,
    Field,
    NonNegativeInt,
    ValidationError,
    model_validator,
)

from medtune.errors import ConfigError
from medtune.files import sha256_bytes
from medtune.sections.base import Section
from medtune.sections.chest_llm import LlmConfig
from medtune.sections.data import (
    SHOWS,
    ListedSourceConfig,
    MediaConfig,
    PhantomConfig,
    SplitsConfig,
    TaskConfig,
    VerificationConfig,
)
from medtune.sections.evaluation import EvaluationConfig, ReportConfig
from medtune.sections.export import ExportConfig
from medtune.sections.films import FilmsConfig
from medtune.sections.tracking import TrackingConfig
from medtune.sections.training import (
    AnsweringConfig,
    GrpoConfig,
    ModelConfig,
    RewardConfig,
    SftConfig,
)
from medtune.sections.views import VOLUME_FORMATS, ViewsConfig


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

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        self._check_kind()
        names = [source.name for source in (self.films.sources if self.films else self.sources)]
        if len(set(names)) < len(names):
            raise ValueError(f"sources need unique names, found {names}")
        unknown = sorted(set(self.splits.fixed) - set(names))
        if unknown:
            raise ValueError(f"splits.fixed names {unknown}, but the sources are {names}")
        allowed = self.reward.service.allow_remote if self.reward.service else []
        if unknown := sorted(set(allowed) - set(names)):
            raise ValueError(
                f"reward.service.allow_remote names {unknown}, but the sources are {names}"
            )
        mixed = {name.partition("/")[0] for name in (*self.sft.mix, *self.grpo.mix)}
        unknown = sorted(mixed - set(names))
        if unknown:
            raise ValueError(f"mix names {unknown}, but the sources are {names}")
        if self.films is None:
            self._check_media()
        if self.reward.pays_reasoning and not self.task.reasoning:
            raise ValueError(f"reward.preset {self.reward.preset} needs task.reasoning: true")
        for name, section in (("sft", self.sft), ("grpo", self.grpo)):
            unused = section.trains_rows and not self.model.added_tokens
            if section.learning_rates.head and unused:
                raise ValueError(
                    f"{name}.learning_rates.head is set, but with lora the head is frozen: take it "
                    "away, or set lora.train_head: true"
                )
        return self

    def _check_kind(self) -> None:
        """Check that there are either volumes or films, and that task and model are theirs."""
        if (self.films is None) == (not self.sources):
            raise ValueError("give either `sources` (volumes) or `films`")
        if (self.films is not None) != (self.task.name == "chest_xray"):
            raise ValueError("`films` and task.name chest_xray need each other")
        if self.films is None:
            if self.evaluation.film_models:
                raise ValueError(
                    f"evaluation.models: {self.evaluation.film_models[0]} is of a family that "
                    "answers about films alone, not about volumes: take it away"
                )
            if self.views.format not in (None, *VOLUME_FORMATS):
                raise ValueError(
                    f"views.format {self.views.format} has no boxes of volumes: take one of "
                    f"{', '.join(VOLUME_FORMATS)}"
                )
            return
        for name in ("phantom", "verification", "splits", "media"):
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"`{name}` is for volumes; films have their own below `films`")
        if self.films.images.multiple_of % self.model.merged_patch:
            raise ValueError(
                f"films.images.multiple_of is {self.films.images.multiple_of}, this model needs a "
                f"multiple of {self.model.merged_patch} (patch x merge)"
            )
        judge, texts = self.evaluation.judge, self.films.texts
        if judge and texts and self._model_of(judge) == self._model_of(texts.llm):
            raise ValueError(
                "evaluation.judge is the model that wrote the texts (films.texts.llm), and would "
                "favour its own words: name another"
            )
        if self.films.texts and self.films.texts.reasoning and not self.task.reasoning:
            raise ValueError("films.texts.reasoning needs task.reasoning: true")

    @staticmethod
    def _model_of(llm: LlmConfig) -> str:
        """Return what tells a language model from others."""
        serve = llm.endpoint.serve
        return serve.path if serve else llm.model

    def _check_media(self) -> None:
        """Check that the frames fit layout and model."""
        possible, listed = SHOWS[self.media.layout], len(self.media.modalities)
        if listed not in possible:
            raise ValueError(
                f"media.layout {self.media.layout} shows {' or '.join(map(str, possible))} "
                f"modalities, media.modalities lists {listed}"
            )
        if self.media.multiple_of % self.model.merged_patch:
            raise ValueError(
                f"media.multiple_of is {self.media.multiple_of}, this model needs a multiple of "
                f"{self.model.merged_patch} (patch x merge)"
            )
        if self.media.tile_size and any(n % self.media.multiple_of for n in self.media.tile_size):
            raise ValueError("media.tile_size must hold multiples of media.multiple_of")

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
        from medtune.rewards.custom import read_source

        return sha256_bytes(read_source(Path(self.reward.file)))


def sections_of(model: type[BaseModel]) -> dict[str, type[BaseModel]]:
    """Return the sections directly inside a section, by key (also inside list and `| None`)."""
    found = {}
    for key, field in model.model_fields.items():
        candidates = [field.annotation, *get_args(field.annotation)]
        for candidate in candidates:
            if isinstance(candidate, type) and issubclass(candidate, BaseModel):
                found[key] = candidate
    return found


def _keys_at(location: tuple[int | str, ...]) -> list[str]:
    """Return the valid keys of the section that holds the key at `location`."""
    model: type[BaseModel] = Config
    for part in location[:-1]:
        if isinstance(part, str):
            model = sections_of(model).get(part, model)
    return list(model.model_fields)


def explain(error: ValidationError, where: str) -> ConfigError:
    """Turn the first pydantic error into one that names the key and the nearest valid one."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"]) or "the configuration"
    if first["type"] == "extra_forbidden":
        valid = _keys_at(first["loc"])
        near = difflib.get_close_matches(str(first["loc"][-1]), valid, n=1, cutoff=0)[0]
        return ConfigError(
            where, f"unknown key `{key}`", f"did you mean `{near}`? Valid here: {', '.join(valid)}"
        )
    if first["type"] == "missing":
        return ConfigError(where, f"`{key}` is missing", "add it; see config/README.md")
    given = first.get("input")
    shown = f" (found {given!r})" if not isinstance(given, dict | BaseModel) else ""
    return ConfigError(where, f"`{key}`: {first['msg']}{shown}", "correct it; see config/README.md")


def parse_config(values: Any, where: str = "configuration") -> Config:
    """Validate a mapping as a `Config`.

    Raises:
        ConfigError: A key is unknown (the nearest valid one is named), missing or out of range.
    """
    if not isinstance(values, dict):
        raise ConfigError(where, "is not a mapping of sections", "see config/config.yaml")
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise explain(error, where) from None


class _UniqueKeys(yaml.SafeLoader):
    """Refuses a key that is given twice, of which plain YAML would silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return a mapping, or raise a YAML error that says where the second key is."""
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key `{key.value}` is given twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> Any:
    """Return what a configuration file holds, not yet validated.

    Raises:
        ConfigError: The file cannot be read, or gives a key twice.
    """
    try:
        # A subclass of the safe loader.
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeys)  # noqa: S506
    except FileNotFoundError:
        raise ConfigError(path, "the file does not exist", "give an existing --config") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(path, f"cannot be read ({error})", "give a YAML file") from None
    except yaml.YAMLError as error:
        raise ConfigError(path, f"is not valid YAML: {error}", "correct the file") from None


def load(path: Path) -> Config:
    """Read and validate a configuration file."""
    return parse_config(read_yaml(path), str(path))
