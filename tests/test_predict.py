"""Predictions: what they depend on, what is generated again, and what a killed job leaves."""

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import prepare
from training_stages import changed_dataset, make_base, model_config

from medtune.config.data import SplitsConfig, TaskConfig
from medtune.config.evaluation import EvaluationConfig
from medtune.config.experiment import load
from medtune.config.stages import PredictStage
from medtune.evaluation import engines
from medtune.evaluation.cache import AnswerCache
from medtune.evaluation.engines import TransformersEngine
from medtune.evaluation.predict import JUDGING, predict
from medtune.evaluation.predictions import read_predictions
from medtune.models.base_reference import base_path
from medtune.models.vision import check_vision_record, vision_record
from medtune.records.sample import iterate, load_split
from medtune.runtime.errors import ConfigError, DataError, ModelError, VisionError
from medtune.runtime.files import MANIFEST, read_json
from medtune.runtime.fingerprint import PACKAGE, code_sha256
from medtune.runtime.tables import read_rows

FAMILY = "qwen2_5_vl"
MODES = ("greedy", "sampled", "shuffled")


OF_FAMILY = pytest.mark.parametrize("family", [FAMILY], indirect=True)


def stage(**changes) -> PredictStage:
    settings = {"batch_size": 4, "max_new_tokens": 24, "samples": 2} | changes
    evaluation = EvaluationConfig(**settings)
    return PredictStage(task=TaskConfig(), model=model_config(FAMILY), evaluation=evaluation)


@pytest.fixture
def generated(monkeypatch) -> list[int]:
    """How many answers each call of the model has generated."""
    calls, inner = [], TransformersEngine.answer

    def answer(self, asked, seeds):
        calls.append(len(seeds))
        return inner(self, asked, seeds)

    monkeypatch.setattr(TransformersEngine, "answer", answer)
    return calls


def run(model: Path, dataset: Path, folder: Path, shards: int = 1, cache="cache", **changes):
    """Predict all shards; return their rows."""
    for shard in range(shards):
        output = folder / f"{shard:04d}.parquet"
        predict(stage(**changes), model, dataset, MODES, output, folder / cache, shard, shards)
    (rows,) = read_predictions([folder]).values()
    return rows


def by_answer(rows):
    return sorted(rows, key=lambda row: (row["mode"], row["id"], row["draw"]))


@OF_FAMILY
def test_answers_depend_on_neither_batch_nor_shard(trained, dataset, tmp_path):
    whole = run(trained, dataset, tmp_path / "whole", batch_size=8)
    parts = run(trained, dataset, tmp_path / "parts", shards=8, batch_size=2)  # some are empty
    assert len(whole) == len(load_split(dataset, "test")) * 4
    assert by_answer(parts) == by_answer(whole)
    assert {row["finish"] for row in whole} <= {"stop", "length"}
    for row in whole:
        assert (row["answer"] is None) == (row["reason"] is not None)
        assert row["ended"] == (row["finish"] == "stop")
    texts = {(row["id"], row["draw"]): row["text"] for row in whole if row["mode"] == "sampled"}
    assert any(texts[name, 0] != texts[name, 1] for name, _ in texts)

    fewer = run(trained, dataset, tmp_path / "parts", shards=2)
    assert by_answer(fewer) == by_answer(whole), "tables of the earlier division are gone"


@OF_FAMILY
def test_nothing_is_generated_twice(trained, dataset, tmp_path, generated, monkeypatch):
    rows = run(trained, dataset, tmp_path, shards=2)
    table = (tmp_path / "0000.parquet").read_bytes()
    assert sum(generated) == len(rows)
    generated.clear()
    with monkeypatch.context() as patch:
        patch.setattr(engines, "load_model", None)  # the model is not even loaded
        assert by_answer(run(trained, dataset, tmp_path, shards=3)) == by_answer(rows)
        run(trained, dataset, tmp_path, shards=2)
    assert not generated
    assert (tmp_path / "0000.parquet").read_bytes() == table

    more = run(trained, dataset, tmp_path, samples=3)
    assert sum(generated) == len(load_split(dataset, "test")), "one draw more of each case"
    assert [row for row in more if row["draw"] < 2] == run(trained, dataset, tmp_path)


@OF_FAMILY
def test_a_split_that_grows_asks_for_the_new_samples_alone(trained, dataset, tmp_path, generated):
    test = list(load_split(dataset, "test")["id"])

    def without_last(sample, _, split):
        return sample.model_copy(update={"split": "train" if sample.id == test[-1] else split})

    small = changed_dataset(dataset, tmp_path / "small", without_last)
    modes, output, cache = ("greedy",), tmp_path / "0000.parquet", tmp_path / "cache"
    predict(stage(), trained, small, modes, output, cache)
    assert sum(generated) == len(test) - 1
    predict(stage(), trained, dataset, modes, output, cache)
    assert sum(generated) == len(test)
    assert {row["id"] for row in read_rows(output)} == set(test)


@OF_FAMILY
def test_other_weights_answer_again_and_the_old_answers_go(
    base, trained, dataset, tmp_path, generated
):
    run(trained, dataset, tmp_path)
    count = sum(generated)
    before = {json.loads(line)["origin"] for line in lines(tmp_path / "cache")}
    run(base, dataset, tmp_path)
    assert sum(generated) == 2 * count
    after = {json.loads(line)["origin"] for line in lines(tmp_path / "cache")}
    assert (len(before), len(after), len(before & after)) == (1, 1, 0)


@pytest.mark.parametrize(
    ("name", "old", "new", "again"),
    [
        ("models/inputs.py", "do_sample_frames=False", "do_sample_frames=True", True),
        ("training/sampling.py", "noise.log()", "noise", True),
        ("models/generate.py", "tokens[:count]", "tokens", True),
        ("tasks/brain/tumor_detection_3d.py", "0 <= ratio <= 1", "0 <= ratio < 1", False),
        ("models/coordinate_format.py", "x1 / x, y1 / y", "y1 / x, x1 / y", False),
    ],
)
def test_other_code_of_generation_answers_again_and_other_code_of_parsing_does_not(
    tmp_path, name, old, new, again
):
    """While every such change runs the stage again."""
    copy = tmp_path / "medtune"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    text = (copy / name).read_text()
    assert old in text
    (copy / name).write_text(text.replace(old, new))
    assert code_sha256("predict", (), copy) != code_sha256("predict")
    assert (code_sha256("predict", JUDGING, copy) != code_sha256("predict", JUDGING)) == again


def lines(cache: Path) -> list[bytes]:
    journals = sorted(cache.glob("*.jsonl"))
    return [line for path in journals for line in path.read_bytes().splitlines() if line]


def test_a_torn_line_is_no_answer(tmp_path):
    AnswerCache(tmp_path, 0, "a").add({"k1": {"text": "one"}})
    AnswerCache(tmp_path, 1, "b").add({"k2": {"text": "of another origin"}})
    with (tmp_path / "0000.jsonl").open("ab") as file:
        file.write(b'{"origin": "a", "answers": {"k3"')
    found = AnswerCache(tmp_path, 0, "a")
    assert found.known == {"k1": {"text": "one"}}
    found.add({"k4": {"text": "four"}})
    assert AnswerCache(tmp_path, 1, "a").known.keys() == {"k1", "k4"}
    found.tidy()
    assert len(lines(tmp_path)) == 3
    AnswerCache(tmp_path, 1, "a").tidy()
    assert len(lines(tmp_path)) == 2


@OF_FAMILY
def test_a_killed_job_continues_to_the_same_bytes(trained, dataset, tmp_path):
    """Killed at three random moments, each after some batches more are on disk."""
    rng, settings = random.Random(4), {"batch_size": 1, "samples": 3}
    run(trained, dataset, tmp_path / "whole", **settings)
    folder, killed = tmp_path / "broken", 0
    command = [
        *(sys.executable, "-m", "medtune", "predict"),
        *("--config", stage(**settings).model_dump_json()),
        *("--model", str(trained), "--dataset", str(dataset)),
        *(word for mode in MODES for word in ("--mode", mode)),
        *("--cache", str(folder / "cache"), "--output", str(folder / "0000.parquet")),
    ]
    total = len(lines(tmp_path / "whole/cache"))
    while killed < 3:
        target = len(lines(folder / "cache")) + rng.randint(1, total // 4)
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        while process.poll() is None and len(lines(folder / "cache")) < target:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.02))
        assert process.poll() is None, "it was done before it was killed"
        process.send_signal(signal.SIGKILL)
        process.wait()
        killed += 1
        assert not (folder / "0000.parquet").exists()
    kept = len(lines(folder / "cache"))
    assert 3 <= kept < total
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    assert (folder / "0000.parquet").read_bytes() == (tmp_path / "whole/0000.parquet").read_bytes()
    assert read_json(folder / "0000.manifest.json")["stage"] == "predict"


@OF_FAMILY
def test_the_same_case_has_the_same_answer_in_another_experiment(
    phantom_root, trained, dataset, tmp_path
):
    """Draws follow from seed, sample and number, not from who else is in the split."""
    other = prepare(phantom_root, tmp_path / "other", SplitsConfig(val=0.1, test=0.5))
    rows = {
        (r["id"], r["mode"], r["draw"]): r["text"] for r in run(trained, dataset, tmp_path / "a")
    }
    more = {(r["id"], r["mode"], r["draw"]): r["text"] for r in run(trained, other, tmp_path / "b")}
    shared = {key for key in rows.keys() & more.keys() if key[1] != "shuffled"}
    assert len(shared) > 6
    assert all(rows[key] == more[key] for key in shared)


@OF_FAMILY
def test_training_records_how_it_saw_its_media_and_answers_must_see_them_so(
    base, trained, dataset, tmp_path
):
    sample = next(iterate(load_split(dataset, "test")))
    seen = read_json(trained / MANIFEST)["seen"]
    assert seen == vision_record(base_path(base), sample) == vision_record(trained, sample)

    def windowed(sample, *_):
        return sample.model_copy(update={"meta": sample.meta | {"window": [1, 99]}})

    other = changed_dataset(dataset, tmp_path / "other", windowed)
    with pytest.raises(VisionError, match=r"window: is \[1, 99\], but in training it was \[0.5"):
        run(trained, other, tmp_path / "eval")
    run(base, other, tmp_path / "eval")  # nobody has trained it
    for key in ("processor", "vision"):
        with pytest.raises(VisionError, match=f"{key}: is "):
            check_vision_record(trained, sample, seen | {key: "0" * 64})


@OF_FAMILY
def test_a_changed_processor_is_another_one(trained, dataset, tmp_path):
    sample = next(iterate(load_split(dataset, "test")))
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in trained.iterdir():
        if path.is_file():
            (copy / path.name).write_bytes(path.read_bytes())
    assert vision_record(copy, sample) == vision_record(trained, sample)
    settings = json.loads((copy / "processor_config.json").read_text())
    settings["video_processor"]["image_mean"] = [0.0, 0.0, 0.0]
    (copy / "processor_config.json").write_text(json.dumps(settings))
    changed = vision_record(copy, sample)
    assert {k for k, v in vision_record(trained, sample).items() if changed[k] != v} == {
        "processor"
    }


def test_a_model_of_another_family_is_refused(dataset, tmp_path):
    make_base("qwen3_vl", dataset, tmp_path / "other")
    with pytest.raises(ModelError, match="is a qwen3_vl, expected qwen2_5_vl"):
        run(tmp_path / "other", dataset, tmp_path / "eval")


def test_a_folder_without_predictions_is_named(tmp_path):
    with pytest.raises(DataError, match="holds no predictions"):
        read_predictions([tmp_path])


def test_further_models_are_named_in_the_configuration(tmp_path):
    from small_experiment import small_config

    other = {"name": "theirs", "path": "somewhere/theirs", "family": "qwen3_vl"}
    config = load(small_config(tmp_path, evaluation={"models": [other]}))
    model = config.for_model("theirs").model
    assert (model.path, model.family, model.builder) == ("somewhere/theirs", "qwen3_vl", None)
    assert config.for_model("sft") == config
    for name in ("grpo", "oracle"):
        with pytest.raises(ConfigError, match=f"the name '{name}' is taken"):
            load(small_config(tmp_path, evaluation={"models": [other | {"name": name}]}))
