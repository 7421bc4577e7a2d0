"""Where figures of a training go besides its own folder; it reruns nothing."""

from typing import Literal

from pydantic import Field

from medtune.config.base import Section


class TrackingConfig(Section):
    """A tracker of experiments."""

    report_to: Literal["none", "tensorboard", "wandb_offline", "wandb_online"] = Field(
        "none",
        description="Tracker of losses, rewards and tables of completions with their frames; "
        "`wandb_offline` writes beside the model folders and sends nothing, `wandb_online` sends "
        "them, with the key of WANDB_API_KEY. WANDB_MODE=offline or disabled wins.",
    )
    allow_restricted: bool = Field(
        False,
        description="Let wandb_online send frames and answers of restricted sources; their "
        "agreement must permit it.",
    )
    project: str = Field(
        "medtune",
        description="Project at Weights & Biases; the runs of an experiment are a group of it.",
    )
