"""Reward terms of the user's own: loaded, called, and stopped where they are wrong."""

import asyncio
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import REPOSITORY
from test_rewards import sample, text_of

from medtune.config.data import TaskConfig
from medtune.config.evaluation import EvaluationConfig
from medtune.config.experiment import load
from medtune.config.stages import STAGES, ScoreStage, stage_json
from medtune.config.training import RewardConfig
from medtune.evaluation.score import score
from medtune.models.coordinate_format import PIXELS
from medtune.orchestration.preflight import check_experiment
from medtune.records.sample import iterate, load_split
from medtune.rewards.base import RewardError, Term, saved_failures, score_all
from medtune.runtime.errors import ConfigError
from medtune.runtime.files import sha256
from medtune.runtime.tables import read_rows, write_rows
from medtune.tasks import get_task, get_terms

TASK = get_task(TaskConfig())
FILE = """
import asyncio
from dataclasses import dataclass

BATCHED = ["ranks", "remote_ranks"]
active = most = 0

@dataclass
class Helper:
    length: int = 100

def brevity(judged):
    return max(0.0, 1 - len(judged.text) / Helper().length)

async def remote(judged):
    global active, most
    active, most = active + 1, max(most, active + 1)
    await asyncio.sleep(0.01)
    active -= 1
    return float(judged.answer is not None)

def ranks(judged):
    return [index / len(judged) for index in range(len(judged))]

async def remote_ranks(judged):
    await asyncio.sleep(0)
    return ranks(judged)
"""


def write(folder: Path, text: str) -> str:
    (folder / "terms.py").write_text(text)
    return str(folder / "terms.py")


def terms_of(folder: Path, text: str, **weights: float) -> list[Term]:
    return get_terms(TASK, RewardConfig(file=write(folder, text), weights=weights))


def judged(*texts: str):
    return [TASK.judge(text, sample(), PIXELS) for text in texts]


def test_all_kinds_of_terms_give_one_reward(tmp_path: Path):
    terms = terms_of(tmp_path, FILE, brevity=1, remote=2, ranks=1, remote_ranks=1, iou=0)
    assert sum(term.weight for term in terms) == pytest.approx(5.5)  # 0.5 of the preset are left
    texts = [text_of(), "no", text_of(peak=5), "none at all"]
    results = score_all(terms, judged(*texts))
    for index, (text, (total, parts)) in enumerate(zip(texts, results, strict=True)):
        valid = float(text.startswith("{"))
        assert parts["brevity"] == pytest.approx(max(0, 1 - len(text) / 100))
        assert parts["remote"] == parts["valid"] == valid
        assert parts["ranks"] == parts["remote_ranks"] == index / 4
        points = parts["brevity"] + 2 * valid + 2 * index / 4 + 0.5 * valid
        assert total == pytest.approx(points / 5.5)
    module = next(t.score.__globals__ for t in terms if t.name == "remote")
    assert module["most"] == 4, "async terms are awaited together"
    again = score_all(terms, judged(*texts))  # on the same event loop
    assert again == results


def test_numbers_of_numpy_and_torch_are_numbers():
    values = [np.float32(0.5), torch.tensor(0.5), True, 1]
    terms = [Term(f"t{i}", 1.0, lambda _, v=v: v) for i, v in enumerate(values)]
    array = Term("array", 1.0, lambda rows: np.full(len(rows), 0.25), batched=True)
    parts = score_all([*terms, array], judged("a", "b"))[1][1]
    assert parts == {"t0": 0.5, "t1": 0.5, "t2": 1, "t3": 1, "array": 0.25}
    assert all(type(value) is float for value in parts.values())


@pytest.mark.parametrize(
    ("text", "weights", "words"),
    [
        (FILE, {"brevty": 1}, "unknown term ['brevty'], not in"),
        (FILE, {"iou": 1}, "names none of the functions of"),
        (FILE, {}, "valid: valid, iou, center, peak_slice, tumor_ratio, Helper, brevity"),
        ("x = 3", {"x": 1}, "`x` is of type int"),
        ("def x(): ...", {"x": 1}, "`x` cannot be called with one argument"),
        ("def x(a, b): ...", {"x": 1}, "`x` cannot be called with one argument"),
        ("def iou(judged): ...", {"iou": 1}, "defines ['iou'], which the preset has too"),
        ("def x(judged) ...", {"x": 1}, "cannot be loaded: SyntaxError"),
        ("\nimport nothing_like_it", {"x": 1}, "No module named 'nothing_like_it', line 2"),
        ("BATCHED = 'x'\ndef x(judged): ...", {"x": 1}, "BATCHED is 'x'"),
        (FILE, dict.fromkeys(["brevity", *(t.name for t in TASK.terms("default", {}))], 0), "all"),
    ],
)
def test_mistakes_in_a_file_are_named_before_anything_runs(tmp_path, text, weights, words):
    values = yaml.safe_load((REPOSITORY / "config/config.yaml").read_text())
    values["reward"] |= {"file": write(tmp_path, text), "weights": weights}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(ConfigError) as caught:
        check_experiment(load(tmp_path / "config.yaml"))
    assert words in str(caught.value)
    assert "terms.py" in str(caught.value) or "reward.weights" in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path):
    reward = RewardConfig(file=str(tmp_path / "none.py"), weights={"x": 1})
    with pytest.raises(ConfigError, match=r"none\.py: cannot be read \(No such file"):
        get_terms(TASK, reward)


def test_the_content_of_the_file_decides_what_reruns(tmp_path: Path):
    values = yaml.safe_load((REPOSITORY / "config/config.yaml").read_text())
    values["reward"] |= {"file": write(tmp_path, FILE), "weights": {"brevity": 1}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
    config = load(tmp_path / "config.yaml")
    before = {name: stage_json(config, name) for name in STAGES}
    assert json.loads(before["grpo"])["reward_sha256"] == sha256(tmp_path / "terms.py")
    get_terms(TASK, config.reward, config.reward_sha256)
    planned = config.reward_sha256
    write(tmp_path, FILE + "\n")
    after = {name: stage_json(config, name) for name in STAGES}
    assert {name for name in STAGES if before[name] != after[name]} == {
        "difficulty",
        "grpo",
        "score",
    }
    with pytest.raises(ConfigError, match="has changed since this run was planned"):
        get_terms(TASK, config.reward, planned)


def raising(_):
    raise ZeroDivisionError("a bug")


async def raising_later(judged):
    await asyncio.sleep(0)
    return 1 / len(judged.text)


WRONG = {
    "raised ZeroDivisionError: a bug, for s/c/t": (raising, False, ["a"]),
    "raised ZeroDivisionError: a bug, for 2 answers": (raising, True, ["a", ""]),
    "raised ZeroDivisionError: division by zero, for s/c/t": (raising_later, False, [""]),
    "is 1.5 for s/c/t, expected a number in 0..1": (lambda _: 1.5, False, ["a"]),
    "is -0.1 for s/c/t": (lambda _: -0.1, False, ["a"]),
    "is nan for s/c/t": (lambda rows: [1, float("nan")], True, [""]),
    "is None for s/c/t": (lambda _: None, False, ["a"]),
    "is '1' for s/c/t": (lambda _: "1", False, ["a"]),
    "returned 3 values for 2 answers": (lambda _: [1, 1, 1], True, ["a", ""]),
    "returned 1, expected a list of 2 values": (lambda _: 1, True, ["a", ""]),
}


@pytest.mark.parametrize("words", WRONG)
def test_a_term_that_fails_stops_and_leaves_what_it_failed_on(tmp_path: Path, words):
    function, batched, texts = WRONG[words]
    term = Term("bad", 1.0, function, batched, Path("terms.py"))
    (tmp_path / "grpo.failed_reward.json").write_text("of an earlier run")
    with pytest.raises(RewardError) as caught, saved_failures(tmp_path / "grpo"):
        score_all([term], judged("a", ""))
    said = str(caught.value)
    assert f"reward term bad of terms.py: {words}" in said
    path = tmp_path / "grpo.failed_reward.json"
    assert str(path) in said
    record = json.loads(path.read_text())
    assert record["term"] == "bad"
    assert words in record["found"]
    assert [answer["text"] for answer in record["answers"]] == texts
    assert record["answers"][0]["id"] == "s/c/t"
    assert record["answers"][0]["prompt"] == sample().prompt
    assert ("ZeroDivisionError" in record["traceback"]) == words.startswith("raised")


def test_a_run_without_failures_leaves_no_file(tmp_path: Path):
    (tmp_path / "grpo.failed_reward.json").write_text("of an earlier run")
    with saved_failures(tmp_path / "grpo"):
        score_all(TASK.terms("default", {}), judged("a"))
    assert not list(tmp_path.iterdir())


def test_evaluation_pays_with_the_same_terms(dataset: Path, tmp_path: Path):
    reward = RewardConfig(file=write(tmp_path, FILE), weights={"brevity": 1, "remote_ranks": 1})
    stage = ScoreStage(task=TaskConfig(), reward=reward, evaluation=EvaluationConfig(resamples=100))
    test = list(iterate(load_split(dataset, "test")))
    who = {"family": "qwen2_5_vl", "mode": "greedy", "draw": 0, "tokens": 1, "ended": True}
    rows = [who | {"id": s.id, "video_of": s.id, "text": "no"} for s in test]
    write_rows(tmp_path / "sft/0000.parquet", rows)
    tables, metrics = [tmp_path / "sft"], tmp_path / "eval/metrics.json"
    score(stage, dataset, tables, metrics, tmp_path / "eval/cases.parquet")
    scored = [r for r in read_rows(tmp_path / "eval/cases.parquet") if r["model"] == "sft"]
    answers = [TASK.judge("no", s, PIXELS) for s in test]
    expected = score_all(get_terms(TASK, reward), answers)
    assert [row["reward"] for row in scored] == [total for total, _ in expected]
    assert [row["term_brevity"] for row in scored] == [0.98] * len(test)

    write(tmp_path, FILE.replace("1 - len", "2 - len"))
    with pytest.raises(RewardError, match="reward term brevity of"):
        score(stage, dataset, tables, metrics, tmp_path / "eval/cases.parquet")
    record = json.loads((tmp_path / "eval/metrics.failed_reward.json").read_text())
    assert record["answers"][0]["id"] in {s.id for s in test}
