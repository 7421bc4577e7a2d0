"""Eight tasks in one data set go through training, evaluation and scoring like one."""

from pathlib import Path

import numpy as np
import pytest
from chest_films import MEDIA, film, normal, samples
from evaluated import STAGE, evaluate, rows_of
from PIL import Image
from training_stages import grpo_stage, history, model_config, sft_stage

from medtune.evaluation.baselines import write_baselines
from medtune.files import sha256, write_manifest
from medtune.models.base import prepare_base
from medtune.models.dialect import DIALECTS
from medtune.schema import iterate, load_split, write_dataset
from medtune.sections.chest_tasks import ChestTaskConfig
from medtune.sections.data import TaskConfig
from medtune.sections.training import FamilyConfig
from medtune.stages import BaselinesStage, ModelStage
from medtune.tables import read_rows
from medtune.tasks import get_task
from medtune.tasks.chest.xray import PARTS
from medtune.training.grpo import train_grpo
from medtune.training.sft import train_sft

CONFIG = ChestTaskConfig()
TASK = get_task(CONFIG)
FAMILY = "qwen3_vl"
BASELINES = ("constant", "random", "centre", "oracle")


def chest(stage, **changes):
    """A stage that asks about films."""
    return stage.model_copy(update={"task": CONFIG, **changes})


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    """A data set folder of small noisy films; every split holds all tasks."""
    folder = tmp_path_factory.mktemp("chest") / "datasets"
    folder.mkdir()
    pixels = np.random.default_rng(1).integers(0, 255, (384, 512), dtype=np.uint8)
    Image.fromarray(pixels).resize((128, 96)).save(folder.parent / "f.png")
    media = MEDIA.model_copy(
        update={"path": "../f.png", "sha256": sha256(folder.parent / "f.png")}
    )
    media = media.model_copy(update={"width": 128, "height": 96})
    every = []
    for number, split in enumerate(["train"] * 6 + ["val"] * 2 + ["test"] * 3):
        own = [*samples(film(number), split, media), *samples(normal(100 + number), split, media)]
        every += [one.model_copy(update={"geometry": SMALL, "split": split}) for one in map(small, own)]
    write_dataset(every, folder)
    files = [path for path in folder.rglob("*") if path.is_file()]
    write_manifest(folder, files, {}, [], stage="annotate")
    return folder


SMALL = {
    "kind": "image",
    "source_size": [2000, 1400],
    "size": [125, 87],
    "frame_size": [128, 96],
}
