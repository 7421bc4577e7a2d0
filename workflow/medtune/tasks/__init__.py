"""Tasks by name, and the reward terms that a configuration asks for."""

from pathlib import Path

from medtune.config.data import TaskConfig
from medtune.config.training import RewardConfig
from medtune.rewards.base import Term
from medtune.rewards.custom import load_terms
from medtune.rewards.service_client import served_term
from medtune.tasks.base import Task
from medtune.tasks.brain.tumor_detection_3d import TumorDetection3D
from medtune.tasks.chest.xray import ChestXray


def get_task(config: TaskConfig) -> Task:
    """Return the task a configuration names."""
    return ChestXray(config) if config.name == "chest_xray" else TumorDetection3D(config)


def get_terms(task: Task, reward: RewardConfig, sha256: str | None = None) -> list[Term]:
    """Return the reward terms a configuration asks for: of preset, service and file.

    Args:
        task: The task.
        reward: The configuration.
        sha256: What the file's content must hash to, if that has been settled.

    Raises:
        ConfigError: The file cannot be used, or the weights do not fit the terms.
    """
    own = [served_term(reward.service)] if reward.service else []
    if reward.file is not None:
        given = [term.name for term in task.terms(reward.preset, {}, own)]
        own += load_terms(Path(reward.file), reward.weights, given, sha256)
    return task.terms(reward.preset, reward.weights, own)
