"""Answers that need no video earn no more than the constant one, and the report says who does."""

import json

import pytest
from evaluated import STAGE, rows_of

from medtune.config.data import TaskConfig
from medtune.config.stages import ScoreStage
from medtune.config.training import RewardConfig
from medtune.evaluation.blind_answers import CONSTANT, blind_rows, degenerate_answer_rates
from medtune.evaluation.score import Scorer, score
from medtune.models.coordinate_format import COORDINATE_FORMATS
from medtune.records.sample import iterate, load_split
from medtune.reporting.reward_hacking import gaming, warnings
from medtune.rewards.base import Term
from medtune.runtime.tables import write_rows
from medtune.tasks import get_task
from medtune.tasks.brain.tumor_rewards import PRESETS

TASK = get_task(TaskConfig())
# It grades the think block by its length and asks nothing of what it says, as published.
PAID = {"published_4_5": {"constant, after long reasoning"}}
NEVER_VALID = {
    "constant, with NaN for numbers",
    "constant, with infinite numbers",
    "constant, twice",
    "the question",
    "nothing",
}
CLAIMS = {"the whole video", "one voxel", "no tumor"}


@pytest.fixture(scope="module")
def everyone(dataset):
    return [
        sample
        for split in ("train", "val", "test")
        for sample in iterate(load_split(dataset, split))
    ]


def rewards(preset: str, family: str, samples) -> dict[str, tuple[float, set]]:
    """Mean reward of each blind answer, and whether it was ever valid."""
    reward = RewardConfig(preset=preset)
    config = TaskConfig(chain_of_thought=reward.pays_reasoning)
    stage = ScoreStage(task=config, reward=reward, evaluation=STAGE.evaluation)
    tables = blind_rows(get_task(config), family, samples, samples)
    scorer = Scorer(stage, samples)
    scored = {name: scorer.score(name, rows) for name, rows in tables.items()}
    return {
        name: (sum(r["reward"] for r in rows) / len(rows), {r["reason"] is None for r in rows})
        for name, rows in scored.items()
    }


@pytest.mark.parametrize("family", COORDINATE_FORMATS)
@pytest.mark.parametrize("preset", PRESETS)
def test_no_blind_answer_earns_more_than_the_constant_one(everyone, preset, family):
    found = rewards(preset, family, everyone)
    assert set(found) == {CONSTANT, *NEVER_VALID, *CLAIMS, "constant, after long reasoning"}
    constant = found[CONSTANT][0]
    above = {name for name, (mean, _) in found.items() if mean > constant + 1e-9}
    assert above == PAID.get(preset, set())
    assert all(found[name][1] == {False} for name in NEVER_VALID)
    assert all(found[name][1] == {True} for name in CLAIMS)
    if preset == "default":
        assert all(found[name][0] == 0 for name in NEVER_VALID)


def test_the_report_names_what_a_bad_reward_pays(dataset, tmp_path, monkeypatch):
    test = list(iterate(load_split(dataset, "test")))
    blind = blind_rows(TASK, "qwen2_5_vl", iterate(load_split(dataset, "train")), test)

    def no_tumor(sample):
        return blind["no tumor"][0]["text"].replace(", ", ",")  # spaced otherwise

    tables = []
    for model, write in (("sft", lambda s: f"answer {s.id}"), ("grpo", no_tumor)):
        tables.append(tmp_path / model)
        write_rows(tables[-1] / "0000.parquet", rows_of(test, write))
    assert (
        degenerate_answer_rates(Scorer(STAGE, test).judge, rows_of(test, no_tumor), blind)[
            "no tumor"
        ]
        == 1
    )

    def report() -> dict:
        score(STAGE, dataset, tables, tmp_path / "m.json", tmp_path / "c.parquet")
        return gaming(json.loads((tmp_path / "m.json").read_text()))

    sound = report()
    assert sound["verdict"] == "No answer below is shown to earn more than the constant one."
    said = {row[0]: row[-2:] for row in sound["rows"]}
    assert said["no tumor"] == ["0.0 %", "100.0 %"]
    assert said[CONSTANT] == ["0.0 %", "0.0 %"]
    assert said["the answer given most often"] == [f"{100 / len(test):.1f} %", "100.0 %"]

    words = Term("words", 1.0, lambda judged: min(1.0, len(judged.text) / 10_000))
    monkeypatch.setattr(type(TASK), "terms", lambda *_: [words])
    gamed = report()["verdict"]
    assert gamed.startswith("Yes: more than the constant answer earns")
    assert "constant, after long reasoning" in gamed
    assert "nothing" not in gamed


def test_the_report_warns_of_collapse_and_of_a_blind_gain():
    frozen = [{"step": n, "entropy": 1.0 if n < 9 else 0.01, "reward": n / 20} for n in range(20)]
    lost = {"mean": -0.1, "low": -0.2, "high": -0.05}
    comparison = {"comparisons": {"grpo - sft, greedy": {"reward": lost}}}
    first, second = warnings(frozen, comparison)
    assert first.startswith("since step 9, entropy per token fell from 1 to 0.01")
    assert second.startswith("the reward of rollouts rose")
    assert warnings(frozen[:9], {"comparisons": {"grpo - sft, greedy": None}}) == []


UP, DOWN, PERHAPS_UP, PERHAPS_DOWN = (
    {"low": mean - 0.1, "high": mean + 0.1, "mean": mean} for mean in (0.2, -0.2, 0.05, -0.05)
)


@pytest.mark.parametrize(
    ("changes", "paid", "worse"),
    [
        ({"gleu": UP, "cider_d": DOWN, "green": DOWN}, ["gleu"], "CIDEr-D (0 to 10), GREEN by the"),
        ({"gleu": UP, "radcliq": UP}, ["gleu"], "RadCliQ, canonical"),
        ({"gleu": UP, "radcliq": DOWN, "cider_d": UP, "chexbert": PERHAPS_DOWN}, ["gleu"], None),
        ({"gleu": UP, "rouge_l": DOWN}, ["gleu"], None),
        ({"gleu": UP, "chexbert": DOWN}, ["gleu"], "CheXbert F1, mean of reports"),
        ({"gleu": UP, "chexbert": DOWN}, ["gleu", "chexbert"], None),
        ({"gleu": UP, "cider_d": DOWN}, ["labels"], None),
        ({"gleu": PERHAPS_UP, "cider_d": DOWN}, ["gleu"], None),
        ({"gleu": UP, "cider_d": DOWN | {"low": None, "high": None}}, ["gleu"], None),
    ],
)
def test_the_report_warns_of_a_reward_that_rises_alone(changes, paid, worse):
    metrics = {
        "comparisons": {},
        "corpus_comparisons": {"report_generation": {"grpo - sft": changes}},
        "rewarded": paid,
    }
    found = warnings([], metrics)
    assert len(found) == (worse is not None)
    if worse:
        assert found[0].startswith("GLEU of reports, which is rewarded, rose by 0.200, but these")
        assert f"got worse: {worse}" in found[0]
