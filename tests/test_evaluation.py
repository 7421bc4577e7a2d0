"""Scores of answers whose score is known beforehand."""

import json
from pathlib import Path

import numpy as np
import pytest
from evaluated import STAGE, TASK, changed, evaluate, exact, gold, rows_of

from medtune.evaluation.blind_answers import CONSTANT, blind_rows
from medtune.evaluation.predict import partners
from medtune.evaluation.score import Scorer, score, summarize
from medtune.evaluation.summary import CaseTable
from medtune.models.coordinate_format import COORDINATE_FORMATS
from medtune.records.sample import iterate, load_split
from medtune.reporting.key_results import headline
from medtune.runtime.errors import DataError
from medtune.runtime.tables import write_rows
from medtune.tasks.brain.tumor_metrics import ERROR_HYPOTHESES

swapped = changed(ERROR_HYPOTHESES["x and y are exchanged"])


@pytest.fixture
def held_out(dataset: Path):
    return list(iterate(load_split(dataset, "test")))


def values(scored, metric):
    """Return the value of every case; NaN where the metric does not apply."""
    table = CaseTable(scored)
    return table.values[:, 0, table.metrics.index(metric)]


def mean(scored, metric):
    return np.nanmean(values(scored, metric))


BEST = {"giou": 1, "reward": 1, "valid": 1, "no_tumor_correct": 1}
BEST |= dict.fromkeys(
    ("iou", "iou_30", "iou_50", "iou_70", "iou_valid", "reward_valid", "iou_lenient"), 1
)
BEST |= {f"peak_within_{bound}": 1 for bound in (3, 5, 10)}


def test_the_truth_scores_one(dataset, held_out, tmp_path):
    found = evaluate(dataset, tmp_path, {"sft": rows_of(held_out, exact)})
    assert found["systematic_errors"] == []
    figures = found["models"]["sft"]["greedy"]
    assert figures.pop("readable") is None  # nothing is invalid
    for name, estimate in figures.items():
        expected = 1 if name.startswith("term_") else BEST.get(name, 0)
        assert estimate["mean"] == pytest.approx(expected, abs=1e-9), name


@pytest.mark.parametrize("family", COORDINATE_FORMATS)
def test_ground_truth_scores_full_marks_in_both_dialects(held_out, family):
    scored = Scorer(STAGE, held_out).score("oracle", rows_of(held_out, gold(family), family))
    assert mean(scored, "valid") == 1
    assert mean(scored, "peak_error") == 0
    assert mean(scored, "iou") > 0.85  # rounding to pixels of a 32 x 32 frame
    assert mean(scored, "reward") > 0.9
    assert all(row["reason"] is None for row in scored)


def test_a_model_that_gives_the_constant_answer_scores_like_the_baseline(
    dataset, held_out, tmp_path
):
    train = list(iterate(load_split(dataset, "train")))
    constant = blind_rows(TASK, "qwen2_5_vl", train, held_out)[CONSTANT]
    texts = {row["id"]: row["text"] for row in constant}
    found = evaluate(dataset, tmp_path, {"sft": rows_of(held_out, lambda s: texts[s.id])})
    baseline, copied = (found["models"][name]["greedy"] for name in (CONSTANT, "sft"))
    assert copied == baseline
    assert copied["valid"]["mean"] == 1
    assert 0 < copied["iou"]["mean"] < 0.5
    change = found["comparisons"]["sft - constant, greedy"]["iou"]
    assert (change["mean"], change["p"], change["p_holm"], change["effect"]) == (0, 1, 1, None)
    assert found["degenerate_answer_rates"]["sft"][CONSTANT] == 1
    assert found["systematic_errors"] == []


@pytest.mark.parametrize("name", [name for name in ERROR_HYPOTHESES if " z " not in name])
def test_a_mistake_in_every_answer_is_named(dataset, held_out, tmp_path, name):
    """But for those whose answers lie outside these videos of few frames."""
    family, mistake = "qwen2_5_vl", changed(ERROR_HYPOTHESES[name])
    if "thousandths" in name:
        family, mistake = "qwen3_vl", exact
    rows = {
        "base": rows_of(held_out, mistake, family),
        "sft": rows_of(held_out, gold(family), family),
    }
    found = evaluate(dataset, tmp_path, rows)["systematic_errors"]
    assert any(text.startswith(f"base: boxes fit the truth far better if {name}") for text in found)
    assert not any(text.startswith("sft") for text in found)


def test_swapped_axes_cost_most_of_the_score(held_out):
    right = Scorer(STAGE, held_out).score("a", rows_of(held_out, gold("qwen2_5_vl")))
    wrong = Scorer(STAGE, held_out).score("b", rows_of(held_out, swapped))
    assert mean(wrong, "valid") == 1
    assert mean(wrong, "iou") < 0.6 * mean(right, "iou")


def test_junk_counts_as_failure_and_is_not_dropped(held_out):
    junk = Scorer(STAGE, held_out).score("a", rows_of(held_out, lambda _: "left side"))
    tumors = sum(s.truth["bbox_3d"] is not None for s in held_out)
    assert np.sum(~np.isnan(values(junk, "iou"))) == tumors
    assert mean(junk, "iou") == mean(junk, "valid") == mean(junk, "reward") == 0
    assert all("JSON" in row["reason"] for row in junk)


def test_metrics_given_a_valid_answer_leave_invalid_ones_out(held_out):
    rows = rows_of(held_out, gold("qwen2_5_vl"))
    rows[0] |= {"text": "junk"}
    right = Scorer(STAGE, held_out).score("sft", rows_of(held_out, gold("qwen2_5_vl")))
    partly = Scorer(STAGE, held_out).score("grpo", rows)
    assert mean(partly, "reward") < mean(partly, "reward_valid")
    assert mean(partly, "reward_valid") == pytest.approx(
        np.mean([row["reward"] for row in right[1:]])
    )
    assert np.sum(np.isnan(values(partly, "reward_valid"))) == 1

    # Compared are the cases valid under both: there the two say the same.
    for pair in ((partly, right), (right, partly)):
        named = zip(("grpo", "sft"), pair, strict=True)
        summary = summarize([row | {"model": m} for m, rows in named for row in rows], STAGE)
        change = summary["comparisons"]["grpo - sft, greedy"]
        assert change["reward"]["mean"] != 0
        assert change["reward"]["n"] == len(held_out)
        assert change["reward_valid"]["mean"] == 0
        assert change["reward_valid"]["n"] == len(held_out) - 1
    junk = Scorer(STAGE, held_out).score("sft", rows_of(held_out, lambda _: "junk"))
    assert summarize(junk, STAGE)["models"]["sft"]["greedy"]["iou_valid"] is None


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
    tables = []
    for model, write in (("base", lambda _: ""), ("sft", swapped), ("grpo", gold("qwen2_5_vl"))):
        rows = rows_of(held_out, write)
        if model != "base":
            rows += [row | {"mode": "sampled"} for row in rows]
        tables.append(tmp_path / model)
        write_rows(tables[-1] / "0000.parquet", rows)
    # Six patients are sure of little.
    evaluation = STAGE.evaluation.model_copy(update={"confidence": 0.6})
    stage = STAGE.model_copy(update={"evaluation": evaluation})
    score(stage, dataset, tables, tmp_path / "m.json", tmp_path / "c.parquet")
    metrics = json.loads((tmp_path / "m.json").read_text())
    assert metrics["comparisons"]["grpo - sft, greedy"]["iou"]["mean"] == pytest.approx(
        metrics["models"]["grpo"]["greedy"]["iou"]["mean"]
        - metrics["models"]["sft"]["greedy"]["iou"]["mean"]
    )
    reward = metrics["comparisons"]["grpo - sft, sampled"]["reward"]
    assert reward["mean"] > 0
    assert (reward["primary"], reward["p_is_limit"]) == (True, False)  # exact, of few patients
    sft, grpo, vision = headline(metrics)
    assert (grpo.verdict, grpo.sign, grpo.color) == ("better", "▲", "good")
    assert "valid answers 100.0 % before and 100.0 % after" in grpo.detail
    assert (vision.verdict, vision.value) == ("undecided", "not run")
    models = metrics["models"]
    for own, other, verdict in (
        (0.9, 0.1, "better"),
        (0.9, 0.6, "undecided"),
        (0.0, 0.0, "undecided"),
        (0.1, 0.2, "worse"),
    ):
        for model in ("sft", "grpo"):
            for mode, value in (("greedy", own), ("shuffled", other)):
                estimate = {"mean": value, "low": value, "high": value}
                models[model][mode] = {"iou": estimate}
        models["constant"]["greedy"]["iou"] |= {"mean": 0.2, "low": 0.1, "high": 0.3}
        assert headline(metrics)[2].verdict == verdict
    assert "Against the base model: " in sft.detail
    first = (tmp_path / "m.json").read_bytes()
    score(stage, dataset, tables, tmp_path / "m.json", tmp_path / "c.parquet")
    assert (tmp_path / "m.json").read_bytes() == first


def test_groups_part_the_cases(dataset, held_out, tmp_path):
    found = evaluate(dataset, tmp_path, {"sft": rows_of(held_out, swapped)})
    tumors = {s.id: s.meta["volume_ml"] for s in held_out if s.truth["bbox_3d"]}
    whole = found["models"]["sft"]["greedy"]
    assert set(found["groups"]) == {"source", "size", "side"}
    for kind, groups in found["groups"].items():
        own = [models["sft"]["greedy"] for models in groups.values()]
        for metric in ("iou", "reward", "no_tumor_correct"):
            parts = [one[metric] for one in own if one[metric]]
            assert sum(part["n"] for part in parts) == whole[metric]["n"], kind
            mean = sum(part["n"] * part["mean"] for part in parts) / whole[metric]["n"]
            assert mean == pytest.approx(whole[metric]["mean"])
    sizes = found["groups"]["size"]
    assert sizes["no tumor"]["sft"]["greedy"]["iou"] is None
    small, large = found["size_terciles"]
    assert small == pytest.approx(np.quantile(list(tumors.values()), 1 / 3))
    counts = [sizes[name]["sft"]["greedy"]["iou"]["n"] for name in ("small", "medium", "large")]
    assert counts[0] == sum(volume <= small for volume in tumors.values())
    assert counts[2] == sum(volume > large for volume in tumors.values())


def test_a_tercile_belongs_to_the_smaller(samples):
    tumors = [s for s in samples if s.truth["bbox_3d"]][:4]
    labels = Scorer(STAGE, tumors).labels  # of four, the terciles are the second and the third
    ordered = sorted(tumors, key=lambda s: s.meta["volume_ml"])
    assert [labels[s.id]["size"] for s in ordered] == ["small", "small", "medium", "large"]


def test_of_sampled_answers_the_best_and_the_consensus_are_scored(dataset, held_out, tmp_path):
    none = '{"bbox_3d": null, "peak_slice": null, "tumor_ratio": 0}'
    draws = [lambda _: "junk", swapped, exact, swapped]
    rows = [
        row
        for draw, write in enumerate(draws)
        for row in rows_of(held_out, write, mode="sampled", draw=draw)
    ]
    models = {"sft": rows_of(held_out, lambda _: none) + rows, "grpo": rows_of(held_out, exact)}
    found = evaluate(dataset, tmp_path, models)["models"]
    assert set(found["grpo"]) == {"greedy"}
    sampled, best, agreed = (found["sft"][m] for m in ("sampled", "best_of_n", "majority"))
    assert best["iou"]["mean"] == best["reward"]["mean"] == 1
    wrong = evaluate(dataset, tmp_path / "b", {"sft": rows_of(held_out, swapped)})["models"]["sft"]
    assert agreed["iou"] == wrong["greedy"]["iou"]
    assert sampled["iou"]["mean"] == pytest.approx((2 * agreed["iou"]["mean"] + 1) / 4)
    # One draw of four is invalid, so wrong about the tumor; the greedy "no tumor" always is.
    assert sampled["decision_brier"]["mean"] == pytest.approx(1 / 16)
    greedy = found["sft"]["greedy"]
    assert greedy["decision_brier"]["mean"] == greedy["decision_error"]["mean"]
    assert greedy["missed"]["mean"] == 1
    assert greedy["false_positive"]["mean"] == 0


def test_cut_off_answers_are_counted(held_out):
    rows = rows_of(held_out, exact)
    rows[0] |= {"ended": False}
    assert mean(Scorer(STAGE, held_out).score("a", rows), "truncated") == 1 / len(rows)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda rows: rows[1:], "1 of 6 test cases have no greedy answer"),
        (lambda rows: [*rows, rows[0] | {"id": "x"}], "1 answers are to other cases"),
        (lambda rows: [*rows, rows[0]], "1 answers are given twice"),
    ],
)
def test_answers_that_do_not_fit_the_test_split_are_refused(
    dataset, held_out, tmp_path, spoil, words
):
    assert len(held_out) == 6
    models = {"base": rows_of(held_out, exact), "sft": spoil(rows_of(held_out, exact))}
    with pytest.raises(DataError, match="predictions of sft") as raised:
        evaluate(dataset, tmp_path, models)
    assert words in str(raised.value)
