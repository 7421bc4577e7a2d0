"""Eight tasks in one data set go through training, evaluation and scoring like one."""

from pathlib import Path

import numpy as np
import pytest
from chest_films import MEDIA, film, normal, samples
from evaluated import STAGE, evaluate, rows_of
from PIL import Image
from training_stages import grpo_stage, history, model_config, sft_stage

from medtune.config.data import TaskConfig
from medtune.config.stages import BaselinesStage, ModelStage
from medtune.config.training import FamilyConfig, RewardConfig
from medtune.evaluation.baselines import write_baselines
from medtune.evaluation.score import Scorer
from medtune.geometry.image import ImageGeometry
from medtune.models.coordinate_format import COORDINATE_FORMATS
from medtune.records.sample import iterate, load_split, write_dataset
from medtune.reporting.gallery import build_case, choose, quality
from medtune.runtime.files import sha256, write_manifest
from medtune.runtime.tables import read_rows
from medtune.tasks import get_task
from medtune.tasks.chest.xray import PARTS, true_boxes
from medtune.training.base_model import prepare_base
from medtune.training.grpo import train_grpo
from medtune.training.sft import train_sft

CONFIG = TaskConfig(name="chest_xray")
TASK = get_task(CONFIG)
FAMILY = "qwen3_vl"
REWARD = RewardConfig()
SMALL = ImageGeometry(source_size=(2000, 1400), size=(125, 87), frame_size=(128, 96))
BASELINES = ("constant", "random", "center", "oracle")


def chest(stage, **changes):
    """A stage that asks about films."""
    return stage.model_copy(update={"task": CONFIG, **changes})


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    """A data set folder of one small image; every split holds all tasks."""
    folder = tmp_path_factory.mktemp("chest") / "datasets"
    folder.mkdir()
    pixels = np.random.default_rng(1).integers(0, 255, (96, 128), dtype=np.uint8)
    path = folder.parent / "f.png"
    Image.fromarray(pixels).save(path)
    media = MEDIA.model_copy(
        update={"path": str(path), "sha256": sha256(path), "width": 128, "height": 96}
    )
    splits = ["train"] * 4 + ["val"] + ["test"] * 2
    write_dataset(
        [
            one
            for number, split in enumerate(splits)
            for each in (film(number), normal(100 + number))
            for one in samples(each, split, media, SMALL)
        ],
        folder,
    )
    files = [path for path in folder.rglob("*") if path.is_file()]
    write_manifest(folder, files, {}, stage="annotate")
    return folder


@pytest.fixture(scope="module")
def held_out(dataset: Path):
    return list(iterate(load_split(dataset, "test")))


@pytest.fixture(scope="module")
def trained(dataset: Path, tmp_path_factory) -> Path:
    """A tiny model after a pass over all tasks."""
    folder = tmp_path_factory.mktemp("runs")
    stage = ModelStage(task=TaskConfig(), model=model_config(FAMILY))
    prepare_base(chest(stage), dataset, folder / "base")
    mix = {"made/phrase_grounding": 3.0}
    stage = sft_stage(
        FAMILY, epochs=1, dataset_weights=mix, eval_generation_samples=16, eval_steps=20
    )
    train_sft(chest(stage, reward=REWARD), folder / "base", dataset, folder / "sft")
    return folder / "sft"


def test_all_tasks_are_trained_on_in_one_run(trained):
    told = history(trained)
    losses = [entry["loss"] for entry in told if "loss" in entry]
    assert losses[-1] < losses[0] - 1
    last = [entry for entry in told if "eval_reward" in entry][-1]
    measured = {name for name in PARTS if any(key.startswith(f"eval_{name}_") for key in last)}
    assert len(measured) > 4  # of the sixteen answers


def test_all_tasks_are_rewarded_in_one_run(trained, dataset, tmp_path):
    stage = chest(grpo_stage(FAMILY, steps=2), reward=REWARD)
    train_grpo(stage, trained, dataset, tmp_path / "grpo")
    rewards = [entry for entry in history(tmp_path / "grpo") if "reward" in entry]
    assert [entry["step"] for entry in rewards] == [1, 2]
    assert all(0 <= entry["reward"] <= 1 for entry in rewards)


def test_predictions_of_all_tasks_are_scored(dataset, held_out, tmp_path):
    stage = BaselinesStage(task=TaskConfig(), model=FamilyConfig(family=FAMILY))
    tables = {name: tmp_path / name / "0.parquet" for name in BASELINES}
    write_baselines(chest(stage), dataset, tables)
    rows = {name: read_rows(path) for name, path in tables.items() if name != "constant"}

    def gold(sample):
        return TASK.target(sample, COORDINATE_FORMATS[FAMILY])

    rows |= {"sft": rows_of(held_out, gold, FAMILY), "grpo": rows_of(held_out, junk, FAMILY)}
    found = evaluate(dataset, tmp_path, rows, chest(STAGE, reward=REWARD))
    greedy = {name: modes["greedy"] for name, modes in found["models"].items()}
    own = [row["text"] for row in read_rows(tables["constant"])]
    assert len(own) == len(held_out)  # the constant answer of `baselines` is that of `score`
    for name, part in PARTS.items():
        for score in part.scores:
            key = f"{name}_{score}"
            assert greedy["grpo"][key]["mean"] == 0, key
            assert greedy["oracle"][key] == greedy["sft"][key], key
            assert greedy["oracle"][key]["mean"] > 0.8, key
            assert greedy["constant"][key]["mean"] <= greedy["oracle"][key]["mean"] + 1e-9, key
    assert greedy["oracle"]["valid"]["mean"] == 1 > greedy["grpo"]["valid"]["mean"] == 0
    assert greedy["constant"]["reward"]["mean"] > greedy["random"]["reward"]["mean"]
    difference = found["comparisons"]["grpo - sft, greedy"]["score"]
    assert difference["mean"] < -0.8
    sides = set(found["groups"]["side"])
    assert {"left", "right", "both", "no box"} >= sides > {"no box"}


def test_cases_of_all_tasks_are_shown(dataset, held_out):
    """Every true and answered box is drawn, on the one slice there is."""
    stage = chest(STAGE, reward=REWARD)
    rows = rows_of(held_out, lambda one: TASK.target(one, COORDINATE_FORMATS[FAMILY]), FAMILY)
    scored = Scorer(stage, held_out).score("sft", rows)
    assert {quality(row) for row in scored} > {1}
    assert len(choose(scored, 6)) == 6
    for sample, row in zip(held_out, scored, strict=True):
        case = build_case(["best"], sample, [row], TASK, dataset)
        assert (case.start, case.montage, case.strip.frames) == (0, [0], 1)
        for name in ("truth", "sft"):
            drawn = [one.box for one in case.boxes if one.name == name]
            assert len(drawn) == max(1, len(true_boxes(sample))) or "conversation" in sample.task
        assert case.answers[0].said
        assert sample.prompt in case.truth


def junk(_) -> str:
    return "?"
