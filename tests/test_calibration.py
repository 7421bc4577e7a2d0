"""The reliability curve of the decision whether there is a tumor."""

import numpy as np
import pytest
from evaluated import STAGE, evaluate, exact, rows_of
from scipy import stats

from medtune.evaluation.calibration import calibration
from medtune.evaluation.statistics import calibration_error, wilson
from medtune.records.sample import iterate, load_split
from medtune.reporting.calibration import bin_table, reliability, summary_table

FINDS = '{"bbox_3d": [1, 1, 1, 9, 9, 5], "peak_slice": 3, "tumor_ratio": 0.1}'
NONE = '{"bbox_3d": null, "peak_slice": null, "tumor_ratio": 0}'


def scored(said, true, patients, draws=4, valid=None, model="grpo"):
    """Rows as `score` writes them: of every case, a share of draws that find a tumor."""
    rows = []
    for case, (share, tumor, patient) in enumerate(zip(said, true, patients, strict=True)):
        for draw in range(draws):
            found, good = draw < share * draws, 1.0 if valid is None else valid[case]
            decided = {"missed": 1.0 - found, "false_positive": None}
            if not tumor:
                decided = {"missed": None, "false_positive": float(found or not good)}
            names = {"model": model, "mode": "sampled", "id": str(case), "patient_id": patient}
            rows.append(names | decided | {"valid": good})
    return rows


def error(said, true, patients, bins=None):
    bins = (said * 10 + 1e-9).astype(int) if bins is None else bins
    return calibration_error(said - true, bins, patients, 500, 0.95, 1)


def test_the_calibration_error_is_its_definition():
    rng = np.random.default_rng(1)
    said, true = rng.integers(0, 5, 200) / 4, rng.integers(0, 2, 200).astype(float)
    patients = [str(n // 2) for n in range(200)]
    by_hand = sum(
        abs(said[said == v].mean() - true[said == v].mean()) * np.mean(said == v)
        for v in np.unique(said)
    )
    found = error(said, true, patients)
    assert found.mean == pytest.approx(by_hand)
    assert found.low < found.mean < found.high
    assert (found.n, found.patients) == (200, 100)
    whole = error(said, true, patients, bins=np.zeros(200, int))
    assert whole.mean == pytest.approx(abs(said.mean() - true.mean()))
    assert error(said[:2], true[:2], patients[:2]).low is None


def test_doubt_that_is_worth_what_it_says_has_no_error_but_chance():
    rng = np.random.default_rng(2)
    said = rng.integers(0, 11, 20_000) / 10
    true = (rng.uniform(size=20_000) < said).astype(float)
    patients = [str(n) for n in range(20_000)]
    assert error(said, true, patients).mean < 0.01
    sure = np.round(said)  # the same decisions without doubt
    assert error(sure, true, patients).mean > 0.1


def test_the_interval_of_a_share_agrees_with_scipy():
    for hits, count in ((0, 5), (3, 7), (20, 20), (40, 90)):
        reference = stats.binomtest(hits, count).proportion_ci(0.9, "wilson")
        assert wilson(hits / count, count, 0.9) == pytest.approx(
            (reference.low, reference.high), abs=1e-12
        )


def test_bins_hold_every_case_and_count_patients():
    said = [0.0, 0.25, 0.25, 0.5, 1.0, 1.0]
    true = [0, 0, 1, 1, 1, 0]
    rows = scored(said, true, ["a", "b", "b", "c", "d", "e"])
    found = calibration([*rows, rows[0] | {"mode": "greedy", "id": "x"}], STAGE)["grpo"]
    assert (found["cases"], found["without"]) == (6, 3)
    shown = [
        (b["above"], b["below"], b["said"], b["true"], b["n"], b["patients"]) for b in found["bins"]
    ]
    assert shown == [
        (0.0, 0.1, 0, 0, 1, 1),
        (0.2, 0.3, 0.25, 0.5, 2, 1),
        (0.5, 0.6, 0.5, 1, 1, 1),
        (0.9, 1.0, 1, 0.5, 2, 2),
    ]
    assert found["error"]["mean"] == pytest.approx((0 + 2 * 0.25 + 0.5 + 2 * 0.5) / 6)
    # Of one patient, two cases are no more than one trial.
    for one in found["bins"]:
        assert (one["low"], one["high"]) == pytest.approx(
            wilson(one["true"], one["patients"], 0.95)
        )


def test_an_invalid_answer_finds_nothing():
    rows = scored([0, 0], [0, 1], ["a", "b"], valid=[0.0, 0.0])
    (only,) = calibration(rows, STAGE)["grpo"]["bins"]
    assert (only["said"], only["true"], only["valid"], only["n"]) == (0, 0.5, 0, 2)


def test_answers_of_a_task_without_the_decision_have_none():
    assert calibration([{"model": "grpo", "mode": "sampled", "id": "1", "valid": 1.0}], STAGE) == {}


def test_sampled_answers_are_judged_in_an_evaluation(dataset, tmp_path):
    held_out = list(iterate(load_split(dataset, "test")))
    tumors = {s.id for s in held_out if s.truth["bbox_3d"]}
    writers = [exact, exact, lambda s: FINDS, lambda s: NONE if s.id in tumors else exact(s)]
    rows = rows_of(held_out, exact)
    for draw, write in enumerate(writers):
        rows += rows_of(held_out, write, mode="sampled", draw=draw)
    metrics = evaluate(dataset, tmp_path, {"sft": rows, "grpo": rows_of(held_out, exact)})
    assert list(metrics["calibration"]) == ["sft"]  # grpo was not sampled
    free, ill = metrics["calibration"]["sft"]["bins"]
    assert (free["said"], free["true"], free["n"]) == (0.25, 0, len(held_out) - len(tumors))
    assert (ill["said"], ill["true"], ill["n"]) == (0.75, 1, len(tumors))
    assert metrics["calibration"]["sft"]["error"]["mean"] == 0.25
    brier = metrics["models"]["sft"]["sampled"]["decision_brier"]["mean"]
    assert brier == pytest.approx(1 / 16)
    (summary,) = summary_table(metrics)
    assert summary[0] == "sft"
    assert summary[1].startswith("0.250 [")
    assert summary[2].startswith("0.062 [")
    assert [row[1] for row in bin_table(metrics).rows] == ["0.2 to 0.3", "0.7 to 0.8"]
    values = reliability("sft", metrics["calibration"]["sft"])["layer"][1]["data"]["values"]
    assert [(one["said"], one["true"]) for one in values] == [(0.25, 0), (0.75, 1)]
