"""A training that failed: the first screen says why, and cases and texts are there to look at."""

import json
import re
import shutil
from pathlib import Path

import pytest
from evaluated import STAGE as SCORED_STAGE
from evaluated import rows_of
from test_report import STAGE, held_out, results  # noqa: F401  (fixtures)

from medtune.evaluation.failures import alike, failures, some_texts
from medtune.evaluation.score import score
from medtune.reporting.gallery import ALL_ALIKE
from medtune.reporting.page import write_report
from medtune.runtime.files import read_json
from medtune.runtime.tables import write_rows

NOTHING = "The scan is unremarkable <b>here"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("bbox_3d [1, 2] is not six numbers", "bbox_3d [9.5, 7, 3] is not six numbers"),
        ("tumor_ratio is 1.5, not a number", "tumor_ratio is -2e-3, not a number"),
        ("peak_slice is '12', not a frame", "peak_slice is 'x', not a frame"),
    ],
)
def test_reasons_that_differ_in_numbers_alone_are_one(first, second):
    assert alike(first) == alike(second)
    assert alike("no JSON (Expecting value)") != alike("empty")


def row(number, reason=None, ended=True, mode="greedy"):
    return {
        "id": f"{number}",
        "mode": mode,
        "reason": reason,
        "ended": ended,
        "text": f"{number}",
    } | {"readable": None if reason is None else float(reason == "empty")}


def test_shares_are_of_all_greedy_answers():
    rows = [row(n, "empty", False) for n in range(3)] + [row(n, f"box {n}") for n in range(3, 5)]
    rows += [row(n) for n in range(5, 10)] + [row(0, "sampled", False, "sampled")]
    assert failures(rows) == {
        "answers": 10,
        "invalid": 0.5,
        "readable": 0.6,
        "cut_off": 0.3,
        "reasons": [{"reason": "empty", "share": 0.3}, {"reason": "box …", "share": 0.2}],
    }
    assert {one["reason"] for one in some_texts(rows)} <= {"empty", "box 3", "box 4"}
    assert len(some_texts([row(n) for n in range(399)])) == 3
    assert len(some_texts([row(n, "bad") for n in range(5000)])) == 10
    assert len(some_texts([row(1)])) == 1


def test_a_model_that_learned_nothing_is_diagnosed(dataset: Path, held_out, results, tmp_path):  # noqa: F811
    folder = tmp_path / "results/demo"
    shutil.copytree(results, folder)
    shutil.rmtree(folder / "report")
    rows = [row | {"ended": False} for row in rows_of(held_out, lambda _: NOTHING)]
    tables = [tmp_path / name for name in ("base", "sft", "grpo")]
    for table in tables:
        write_rows(table / "0000.parquet", rows)
    metrics = folder / "eval/metrics.json"
    score(SCORED_STAGE, dataset, tables, metrics, folder / "eval/cases.parquet")
    assert read_json(metrics)["failures"]["sft"]["invalid"] == 1
    write_report(STAGE, folder, folder / "report/report.html")
    page, text = ((folder / f"report/report.{kind}").read_text() for kind in ("html", "md"))
    first_screen = page[: page.index('id="iou"')]
    assert '<details class="failures" open>' in first_screen
    for words in (
        "many answers are invalid; many answers are cut off at evaluation.max_new_tokens",
        "100.0 %: no JSON",
        "The scan is unremarkable &lt;b&gt;here",
    ):
        assert words in first_screen
    assert "- grpo: many answers are invalid" in text
    cases = re.findall(r'data-labels="([^"]*)"', page)
    assert cases == [ALL_ALIKE] * STAGE.report.cases
    shown = page[page.index('class="cases"') :]
    assert shown.count("<details open>") == len(cases)
    assert shown.count("<pre>The scan is unremarkable") >= 3 * len(cases)
    assert json.loads(metrics.read_text())["systematic_errors"] == []
