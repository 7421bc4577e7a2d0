"""pass@k: the estimate without bias, its rule and its place in metrics and report."""

from itertools import combinations

import numpy as np
import pytest
from evaluated import STAGE, evaluate, exact, rows_of

from medtune.evaluation.pass_at_k import pass_at, pass_rates
from medtune.records.sample import iterate, load_split
from medtune.reporting.pass_at_k import pass_table


@pytest.mark.parametrize(("answers", "correct"), [(6, 0), (6, 1), (6, 4), (6, 6), (3, 2)])
def test_it_is_the_share_of_choices_of_k_that_hold_a_correct_answer(answers, correct):
    right = [True] * correct + [False] * (answers - correct)
    for k in range(1, answers + 1):
        choices = [any(chosen) for chosen in combinations(right, k)]
        assert pass_at(answers, correct, k) == pytest.approx(np.mean(choices))


def test_its_mean_is_the_probability_and_the_plain_one_is_too_low():
    p, n, k = 0.3, 4, 3
    drawn = np.random.default_rng(0).binomial(n, p, 100_000)
    truth = 1 - (1 - p) ** k
    values, counts = np.unique(drawn, return_counts=True)
    mean = np.average([pass_at(n, int(c), k) for c in values], weights=counts)
    assert mean == pytest.approx(truth, abs=0.005)
    assert np.mean(1 - (1 - drawn / n) ** k) < truth - 0.02


def row(case: str, iou: float | None, mode: str = "sampled", model: str = "sft") -> dict:
    return {"model": model, "mode": mode, "id": case, "patient_id": f"P{case}", "iou": iou}


def test_correct_is_the_main_metric_from_the_threshold_on():
    rows = [row("a", value) for value in (0.5, 0.499, 0.0, 0.9)]
    rows += [row("b", value) for value in (0.0, 0.0, 0.1, 0.2)]
    rows += [row("healthy", None)] * 4 + [row("a", 1.0, "greedy")]
    rows += [row("a", 1.0, model="once")]
    found = pass_rates(rows, STAGE)
    assert (found["metric"], found["correct_from"]) == ("iou", 0.5)
    assert list(found["models"]) == ["sft"]
    means = {k: one["mean"] for k, one in found["models"]["sft"].items()}
    assert means == pytest.approx({"1": 0.25, "2": (1 - 1 / 6) / 2, "4": 0.5})
    assert found["models"]["sft"]["1"]["n"] == found["models"]["sft"]["1"]["patients"] == 2
    section = STAGE.evaluation.model_copy(update={"correct_from": 0.2})
    lower = pass_rates(rows, STAGE.model_copy(update={"evaluation": section}))
    assert lower["models"]["sft"]["4"]["mean"] == 1


def test_metrics_and_report_have_it(dataset, tmp_path):
    held_out = list(iterate(load_split(dataset, "test")))
    greedy = rows_of(held_out, exact)
    sampled = [
        one
        for draw, write in enumerate((exact, lambda _: "junk"))
        for one in rows_of(held_out, write, mode="sampled", draw=draw)
    ]
    metrics = evaluate(dataset, tmp_path, {"sft": greedy + sampled, "base": greedy})
    rates = metrics["pass_at"]["models"]
    assert {k: one["mean"] for k, one in rates["sft"].items()} == {"1": 0.5, "2": 1.0}
    table = pass_table(metrics)
    assert [line[:2] for line in table.rows] == [["sft", "1"], ["sft", "2"]]
    assert table.rows[1][2].startswith("1.000 [")
    assert pass_table(metrics | {"pass_at": {"models": {}}}) is None
