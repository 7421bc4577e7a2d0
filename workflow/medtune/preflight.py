"""Checks that cost nothing and run before anything else does."""

import os
from importlib.util import find_spec
from pathlib import Path

from medtune.config import Config
from medtune.errors import ConfigError
from medtune.models.loading import check_base
from medtune.sections.tracking import TrackingConfig
from medtune.sources import check_source
from medtune.sources.chest.index import check_folders
from medtune.tasks import get_task, get_terms


def check_experiment(config: Config) -> None:
    """Check configuration, reward terms, source folders and base model of an experiment.

    A file of reward terms is executed.

    Raises:
        MedtuneError: The first thing that would stop the experiment later.
    """
    get_terms(get_task(config.task), config.reward)
    written = Path(config.phantom.root) if config.phantom else None
    for source in config.sources:
        if Path(source.root) != written:
            check_source(source, config.media.modalities, config.task.region)
    if config.films:
        for films in config.films.sources:
            check_folders(films)
    for name in ("base", *(other.name for other in config.evaluation.models)):
        model = config.for_model(name).model
        if model.path:
            check_base(model)
    check_packages(config)
    check_tracking(config.tracking)


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


def check_tracking(config: TrackingConfig) -> None:
    """Check that a tracker could start, without starting it.

    Raises:
        ConfigError: It is not installed, or lacks its key.
    """
    package = {"none": None, "tensorboard": "tensorboard"}.get(config.to, "wandb")
    if package and find_spec(package) is None:
        found = f"{package} is not installed"
        raise ConfigError("tracking.to", found, f"pip install 'medtune[{package}]'")
    online = config.to == "wandb_online" and os.environ.get("WANDB_MODE", "online") == "online"
    if online and not os.environ.get("WANDB_API_KEY"):
        found = "wandb_online needs the key of an account"
        raise ConfigError("tracking.to", found, "export WANDB_API_KEY, or choose wandb_offline")
