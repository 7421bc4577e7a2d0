"""Two sides compared case by case, from what `medtune score` wrote."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from evaluated import STAGE, changed, evaluate, exact, rows_of

from medtune.config.data import TaskConfig
from medtune.config.evaluation import ScoringConfig
from medtune.config.training import RewardConfig
from medtune.evaluation.compare import compare, over_seeds, show
from medtune.evaluation.summary import compared
from medtune.records.sample import iterate, load_split
from medtune.runtime.errors import DataError
from medtune.runtime.files import manifest_of, write_json, write_manifest
from medtune.runtime.tables import read_rows, write_rows
from medtune.tasks.brain.tumor_metrics import ERROR_HYPOTHESES

shifted = changed(lambda box, _: (*box[:2], max(box[2] - 1, 0), *box[3:]))
swapped = changed(ERROR_HYPOTHESES["x and y are exchanged"])


@pytest.fixture(scope="module")
def held_out(dataset: Path):
    return list(iterate(load_split(dataset, "test")))


@pytest.fixture(scope="module")
def results(dataset, held_out, tmp_path_factory):
    """Two experiments: sft is shifted, then exchanged; grpo is always right."""
    folder = tmp_path_factory.mktemp("compare")
    for name, write in (("one", shifted), ("two", swapped)):
        models = {"sft": rows_of(held_out, write), "grpo": rows_of(held_out, exact)}
        evaluate(dataset, folder / name, models)
    return folder


def test_stages_compare_as_in_their_evaluation(results):
    found = compare([f"{results}/one:sft"], [f"{results}/one"], "greedy")
    metrics = json.loads((results / "one/eval/metrics.json").read_text())
    expected = metrics["comparisons"]["grpo - sft, greedy"]
    assert found["cases"] == 6
    assert found["second"] == [f"{results}/one:grpo"]
    for name, metric in found["metrics"].items():
        assert (metric["difference"] or {}) | {"p_holm": 0} == (expected[name] or {}) | {
            "p_holm": 0
        }
        for side, model in (("first", "sft"), ("second", "grpo")):
            own = metrics["models"][model]["greedy"][name]
            assert metric[side] == (own and own | {"seeds_sd": None})


def test_experiments_compare_over_common_cases(dataset, held_out, results, tmp_path, capsys):
    found = compare([f"{results}/one:sft"], [f"{results}/two:sft"], "greedy")["metrics"]["iou"]
    change = found["difference"]["mean"]
    assert change == pytest.approx(found["second"]["mean"] - found["first"]["mean"])
    assert change < 0
    same = compare([f"{results}/one"], [f"{results}/two"], "greedy")["metrics"]["iou"]["difference"]
    assert (same["mean"], same["p"]) == (0, 1)

    table = tmp_path / "eval/cases.parquet"
    metrics = tmp_path / "eval/metrics.json"
    write_rows(table, read_rows(results / "two/eval/cases.parquet")[::2])
    write_json(metrics, {})
    config = STAGE.model_dump(mode="json")
    write_manifest(manifest_of(metrics), [metrics, table], config, stage="score")
    found = compare([f"{results}/one"], [str(tmp_path)], "greedy")
    assert 0 < found["cases"] < 6
    assert f"only {found['cases']} of 6 cases are common" in capsys.readouterr().err


def test_seeds_are_averaged_and_their_spread_is_told(results, capsys):
    sides = [f"{results}/one:sft", f"{results}/two:sft"], [f"{results}/one:grpo"]
    found = compare(*sides, "greedy")
    alone = [compare([name], sides[1], "greedy")["metrics"]["iou"]["first"] for name in sides[0]]
    iou = found["metrics"]["iou"]
    assert iou["first"]["mean"] == pytest.approx(sum(one["mean"] for one in alone) / 2)
    gap = abs(alone[0]["mean"] - alone[1]["mean"])
    assert iou["first"]["seeds_sd"] == pytest.approx(gap / 2**0.5)
    assert iou["second"]["seeds_sd"] is None
    show(found)
    line = next(line for line in capsys.readouterr().err.splitlines() if line.startswith("iou "))
    assert f"{iou['first']['mean']:.3f} (sd {iou['first']['seeds_sd']:.3f})" in line
    assert f"{iou['difference']['mean']:+.3f} [" in line


def test_three_seeds_make_a_claim_about_methods_and_fewer_none(results, capsys):
    show(compare([f"{results}/one:sft"] * 2, [f"{results}/one:grpo"] * 3, "greedy"))
    assert "no claim about methods: 2 and 3 trainings" in capsys.readouterr().err
    found = compare([f"{results}/one:sft"] * 3, [f"{results}/one:grpo"] * 3, "greedy")
    show(found)
    assert "intervals and p are over seeds (3 and 3) and patients" in capsys.readouterr().err
    assert found["metrics"]["iou"]["difference"]["p"] < 0.05


def test_intervals_over_seeds_cover_the_difference_of_methods():
    """Two methods of one mean, whose trainings differ by seed: over patients alone, most lie."""
    rng, patients = np.random.default_rng(0), [str(n) for n in range(30)]
    stage = STAGE.model_copy(update={"evaluation": ScoringConfig(resamples=200)})
    over, alone = [], []
    for _ in range(60):
        seeds = rng.normal(0.6, 0.05, (2, 4, 1, 1))
        values = list(seeds + rng.normal(0, 0.1, (2, 4, 30, 1)))
        means = [side.mean(axis=0) for side in values]
        first = compared({"": (means[1], means[0])}, ["iou"], patients, stage, ["iou"])[""]
        second = over_seeds(values, ["iou"], patients, stage, first)
        alone.append(first["iou"]["low"] <= 0 <= first["iou"]["high"])
        over.append(second["iou"]["low"] <= 0 <= second["iou"]["high"])
    assert np.mean(over) >= 0.9
    assert np.mean(alone) < 0.8


def test_what_cannot_be_compared_is_refused_or_left_out(
    dataset, held_out, results, tmp_path, capsys
):
    with pytest.raises(DataError, match="has no sampled answers of grpo") as raised:
        compare([f"{results}/one"], [f"{results}/two"], "sampled")
    assert "choose one of: constant greedy, grpo greedy, sft greedy" in str(raised.value)

    models = {"grpo": rows_of(held_out, exact)}
    other = STAGE.model_copy(update={"task": TaskConfig(region="ET")})
    evaluate(dataset, tmp_path / "et", models, other)
    with pytest.raises(DataError, match="answers another task"):
        compare([f"{results}/one"], [f"{tmp_path}/et"], "greedy")

    other = STAGE.model_copy(update={"reward": RewardConfig(weights={"iou": 2})})
    evaluate(dataset, tmp_path / "paid", models, other)
    found = compare([f"{results}/one"], [f"{tmp_path}/paid"], "greedy")
    assert "the rewards differ" in capsys.readouterr().err
    assert not [name for name in found["metrics"] if "reward" in name or "term_" in name]
    assert "iou_valid" in found["metrics"]

    with (tmp_path / "paid/eval/metrics.json").open("a") as file:
        file.write(" ")
    with pytest.raises(DataError, match="changed since"):
        compare([f"{tmp_path}/paid"], [f"{results}/one"], "greedy")


def test_other_cases_of_the_same_names_are_refused(dataset, results, tmp_path):
    """As where the synthetic patients of two experiments have other seeds."""
    rows = read_rows(results / "two/eval/cases.parquet")
    table, metrics = tmp_path / "eval/cases.parquet", tmp_path / "eval/metrics.json"
    mirror = {"left": "right", "right": "left"}
    write_rows(table, [row | {"side": mirror.get(row["side"], row["side"])} for row in rows])
    write_json(metrics, {})
    write_manifest(
        manifest_of(metrics), [metrics, table], STAGE.model_dump(mode="json"), stage="score"
    )
    with pytest.raises(DataError, match="other cases than") as raised:
        compare([f"{results}/one"], [str(tmp_path)], "greedy")
    assert "tumor on another side" in str(raised.value)


def test_the_verb_prints_and_writes(results, tmp_path):
    command = [sys.executable, "-m", "medtune", "compare", "one:sft", "one:grpo"]
    run = subprocess.run(
        [*command, "--json", str(tmp_path / "c.json")],
        cwd=results,
        env=os.environ,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "greedy answers to 6 cases" in run.stderr
    assert "center_mm ↓" in run.stderr
    assert "iou_50 ↑" in run.stderr
    found = json.loads((tmp_path / "c.json").read_text())
    assert found["metrics"]["center_mm"]["more_is_better"] is False
    assert found == compare([f"{results}/one:sft"], [f"{results}/one:grpo"], "greedy") | {
        "first": ["one:sft"],
        "second": ["one:grpo"],
    }
