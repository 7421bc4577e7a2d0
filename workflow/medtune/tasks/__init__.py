"""Tasks by name, and the reward terms that a configuration asks for."""

from pathlib import Path

from medtune.rewards.base import Term
from medtune.rewards.custom import load_terms
from medtune.sections.data import TaskConfig
from medtune.sections.training import RewardConfig
from medtune.tasks.base import Task
from medtune.tasks.chest.xray import ChestXray
from medtune.tasks.tumor_detection_3d import TumorDetection3D


def get_task(config: TaskConfig) -> Task:
    """Return the task a configuration names."""
    return ChestXray(config) if config.name == "chest_xray" else TumorDetection3D(config)


def get_terms(task: Task, reward: RewardConfig, sha256: str | None = None) -> list[Term]:
    """Return the reward terms a configuration asks for: the preset's and those of its file.

    Args:
        task: The task.
        reward: The configuration.
        sha256: What the file's content must hash to, if that has been settled.

    Raises:
        ConfigError: The file cannot be used, or the weights do not fit the terms.
    """
    own: list[Term] = []
    if reward.file is not None:
        preset = [term.name for term in task.terms(reward.preset, {})]
        own = load_terms(Path(reward.file), reward.weights, preset, sha256)
    return task.terms(reward.preset, reward.weights, own)
