"""Tasks by name."""

from medtune.sections import TaskConfig
from medtune.tasks.base import Task
from medtune.tasks.tumor_detection_3d import TumorDetection3D


def get_task(config: TaskConfig) -> Task:
    """Return the task a configuration names."""
    return {"tumor_detection_3d": TumorDetection3D}[config.name](config)
