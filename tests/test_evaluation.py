"""Intervals against closed forms, and scores of answers whose score is known beforehand."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from medtune.evaluation.predict import partners
from medtune.evaluation.probes import CONSTANT, hollow_rows
from medtune.evaluation.score import per_case, score, score_rows, summarise
from medtune.evaluation.statistics import cluster_bootstrap
from medtune.geometry import Geometry
from medtune.models.dialect import DIALECTS
from medtune.reporting.headline import headline, show
from medtune.schema import iterate, load_split
from medtune.sections.data import TaskConfig
from medtune.sections.training import EvaluationConfig, RewardConfig
from medtune.stages import ScoreStage
from medtune.tables import write_rows
from medtune.tasks import get_task

STAGE = ScoreStage(
    task=TaskConfig(), reward=RewardConfig(), evaluation=EvaluationConfig(resamples=1000)
)
TASK = get_task(TaskConfig())


def test_interval_agrees_with_the_normal_approximation_and_scipy():
    values = np.random.default_rng(0).normal(3, 2, 400)
    found = cluster_bootstrap(values.tolist(), [str(i) for i in range(400)], 4000, 0.95, 1)
    half = 1.96 * values.std(ddof=1) / 20
    assert found.mean == pytest.approx(values.mean())
    assert found.high - found.low == pytest.approx(2 * half, rel=0.06)
    reference = stats.bootstrap(
        (values,), np.mean, n_resamples=4000, method="percentile", rng=2
    ).confidence_interval
    assert found.low == pytest.approx(reference.low, abs=0.03)
    assert found.high == pytest.approx(reference.high, abs=0.03)


def test_repeated_cases_of_a_patient_add_no_certainty():
    values = np.random.default_rng(1).normal(size=60)
    names = [str(i) for i in range(60)]
    once = cluster_bootstrap(values.tolist(), names, 2000, 0.9, 1)
    many = cluster_bootstrap(np.repeat(values, 5).tolist(), np.repeat(names, 5), 2000, 0.9, 1)
    assert many.mean == pytest.approx(once.mean)
    assert many.high - many.low == pytest.approx(once.high - once.low, rel=0.1)
    naive = cluster_bootstrap(
        np.repeat(values, 5).tolist(), [str(i) for i in range(300)], 2000, 0.9, 1
    )
    assert naive.high - naive.low < 0.6 * (once.high - once.low)


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    rng = np.random.default_rng(2)
    covered = 0
    for trial in range(200):
        values = rng.exponential(1.0, 50).tolist()
        found = cluster_bootstrap(values, [str(i) for i in range(50)], 400, 0.9, trial)
        covered += found.low <= 1.0 <= found.high
    assert 0.8 <= covered / 200 <= 0.96


def test_few_patients():
    assert cluster_bootstrap([], [], 100, 0.95, 1) is None
    one = cluster_bootstrap([0.2, 0.4], ["a", "a"], 100, 0.95, 1)
    assert (one.mean, one.low, one.high, one.n, one.patients) == (
        pytest.approx(0.3),
        None,
        None,
        2,
        1,
    )


def rows_of(samples, write, family="qwen2_5_vl"):
    return [
        {
            "id": s.id,
            "family": family,
            "mode": "greedy",
            "draw": 0,
            "video_of": s.id,
            "text": write(s),
            "tokens": 1,
            "ended": True,
        }
        for s in samples
    ]


def gold(family):
    def write(sample):
        geometry = Geometry.model_validate(sample.geometry)
        return TASK.target(sample.truth, geometry, DIALECTS[family])

    return write


def swapped(sample):
    answer = json.loads(gold("qwen2_5_vl")(sample))
    if answer["bbox_3d"]:
        x1, y1, z1, x2, y2, z2 = answer["bbox_3d"]
        answer["bbox_3d"] = [y1, x1, z1, y2, x2, z2]
    return json.dumps(answer)


@pytest.fixture
def held_out(dataset: Path):
    return list(iterate(load_split(dataset, "test")))


def mean(scored, metric):
    return np.mean([value for _, value in per_case(scored, metric).values()])


@pytest.mark.parametrize("family", DIALECTS)
def test_ground_truth_scores_full_marks_in_both_dialects(held_out, family):
    known = {s.id: s for s in held_out}
    scored = score_rows(STAGE, "oracle", rows_of(held_out, gold(family), family), known)
    assert mean(scored, "valid") == 1
    assert mean(scored, "peak_error") == 0
    assert mean(scored, "iou") > 0.85  # rounding to pixels of a 32 x 32 frame
    assert mean(scored, "reward") > 0.9
    assert all(row["reason"] is None for row in scored)


def test_a_model_that_gives_the_constant_answer_scores_like_the_baseline(dataset, held_out):
    known = {s.id: s for s in held_out}
    train = list(iterate(load_split(dataset, "train")))
    constant = hollow_rows(TASK, "qwen2_5_vl", train, held_out)[CONSTANT]
    texts = {row["id"]: row["text"] for row in constant}
    scored = score_rows(STAGE, "constant", constant, known)
    copied = score_rows(STAGE, "sft", rows_of(held_out, lambda s: texts[s.id]), known)
    for metric in ("iou", "peak_error", "reward", "valid"):
        assert mean(copied, metric) == mean(scored, metric)
    assert mean(scored, "valid") == 1
    assert 0 < mean(scored, "iou") < 0.5


def test_swapped_axes_cost_most_of_the_score(held_out):
    known = {s.id: s for s in held_out}
    right = score_rows(STAGE, "a", rows_of(held_out, gold("qwen2_5_vl")), known)
    wrong = score_rows(STAGE, "b", rows_of(held_out, swapped), known)
    assert mean(wrong, "valid") == 1
    assert mean(wrong, "iou") < 0.6 * mean(right, "iou")


def test_junk_counts_as_failure_and_is_not_dropped(held_out):
    known = {s.id: s for s in held_out}
    junk = score_rows(STAGE, "a", rows_of(held_out, lambda _: "left side"), known)
    tumours = sum(s.truth["bbox_3d"] is not None for s in held_out)
    assert len(per_case(junk, "iou")) == tumours
    assert mean(junk, "iou") == mean(junk, "valid") == mean(junk, "reward") == 0
    assert all("JSON" in row["reason"] for row in junk)


def test_metrics_given_a_valid_answer_leave_invalid_ones_out(held_out):
    known = {s.id: s for s in held_out}
    rows = rows_of(held_out, gold("qwen2_5_vl"))
    rows[0] |= {"text": "junk"}
    right = score_rows(STAGE, "sft", rows_of(held_out, gold("qwen2_5_vl")), known)
    partly = score_rows(STAGE, "grpo", rows, known)
    assert mean(partly, "reward") < mean(partly, "reward_valid")
    assert mean(partly, "reward_valid") == pytest.approx(
        np.mean([row["reward"] for row in right[1:]])
    )
    assert rows[0]["id"] not in per_case(partly, "reward_valid")

    # Compared are the cases valid under both: there the two say the same.
    for pair in ((partly, right), (right, partly)):
        named = zip(("grpo", "sft"), pair, strict=True)
        summary = summarise([row | {"model": m} for m, rows in named for row in rows], STAGE)
        change = summary["comparisons"]["grpo - sft, greedy"]
        assert change["reward"]["mean"] != 0
        assert change["reward"]["n"] == len(held_out)
        assert change["reward_valid"]["mean"] == 0
        assert change["reward_valid"]["n"] == len(held_out) - 1
    junk = score_rows(STAGE, "sft", rows_of(held_out, lambda _: "junk"), known)
    assert summarise(junk, STAGE)["models"]["sft"]["greedy"]["iou_valid"] is None


def test_partners_are_other_patients_and_alike_where_possible(samples):
    chosen = partners(samples)
    alike = 0
    for sample, other in zip(samples, chosen, strict=True):
        assert other.patient_id != sample.patient_id
        alike += other.media[0].frames == sample.media[0].frames
    assert alike > len(samples) / 2
    again = partners(samples[::-1])
    assert [o.id for o in again[::-1]] == [o.id for o in chosen]
    assert partners(samples[:1]) == [None]


def test_metrics_file_and_headline(dataset: Path, held_out, tmp_path: Path):
    tables = {}
    for model, write in (("base", lambda _: ""), ("sft", swapped), ("grpo", gold("qwen2_5_vl"))):
        rows = rows_of(held_out, write)
        if model != "base":
            rows += [row | {"mode": "sampled"} for row in rows]
        tables[model] = tmp_path / f"{model}.parquet"
        write_rows(tables[model], rows)
    score(STAGE, dataset, tables, tmp_path / "m.json", tmp_path / "c.parquet")
    metrics = json.loads((tmp_path / "m.json").read_text())
    assert metrics["comparisons"]["grpo - sft, greedy"]["iou"]["mean"] == pytest.approx(
        metrics["models"]["grpo"]["greedy"]["iou"]["mean"]
        - metrics["models"]["sft"]["greedy"]["iou"]["mean"]
    )
    assert metrics["comparisons"]["grpo - sft, sampled"]["reward"]["low"] > 0
    sft, grpo, vision = headline(metrics)
    assert grpo.verdict == "good"
    assert "valid answers 100.0 % before and 100.0 % after" in grpo.detail
    assert (vision.verdict, vision.value) == ("open", "not run")
    models = metrics["models"]
    for own, other, verdict in ((0.9, 0.1, "good"), (0.9, 0.6, "bad"), (0.0, 0.0, "bad")):
        for model in ("sft", "grpo"):
            for mode, value in (("greedy", own), ("shuffled", other)):
                estimate = {"mean": value, "low": value, "high": value}
                models[model][mode] = {"iou": estimate}
        models["constant"]["greedy"]["iou"] |= {"mean": 0.2, "low": 0.1, "high": 0.3}
        assert headline(metrics)[2].verdict == verdict
    assert show(None) == "not run"
    assert sft.verdict in ("good", "bad")
    first = (tmp_path / "m.json").read_bytes()
    score(STAGE, dataset, tables, tmp_path / "m.json", tmp_path / "c.parquet")
    assert (tmp_path / "m.json").read_bytes() == first
