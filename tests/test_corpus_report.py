"""The section of figures of whole tasks."""

import re

from medtune.metrics.models import METRICS
from medtune.reporting.corpus import NAMES, corpus_tables
from medtune.reporting.html import render_markdown

FIGURE = {"mean": 0.5, "low": 0.25, "high": 0.75, "n": 8, "patients": 4}
CHANGE = FIGURE | {"p": 0.01, "p_holm": 0.04, "effect": None, "detectable": 0.3}
FOUND = {
    "f1 Edema": None,
    "green": FIGURE | {"failed": 2},
    "meteor": {"not_run": "no corpus"},
    "gleu": FIGURE,
}
METRICS_JSON = {
    "corpus": {"report_generation": {"sft": FOUND}},
    "corpus_comparisons": {"report_generation": {"sft - base": {"gleu": CHANGE}}},
}


def test_figures_come_in_order_and_say_why_they_are_missing():
    tables = corpus_tables(METRICS_JSON)
    assert [row[0] for row in tables["figures"].rows] == [
        *("GLEU ↑", "METEOR ↑", "GREEN by the judge ↑", "F1 of Edema ↑"),
    ]
    cells = [row[3:] for row in tables["figures"].rows]
    assert cells == [
        ["0.500 [0.250, 0.750]", "8", "4"],
        ["not run: no corpus", "0", "0"],
        ["0.500 [0.250, 0.750]", "8; 2 more without a verdict", "4"],
        ["undefined", "0", "0"],
    ]
    assert len(tables["short"].rows) == 3  # without single labels
    [change] = tables["comparisons"].rows
    assert change[2:] == ["sft - base", "+0.500 [+0.250, +0.750]", "0.01", "0.04", "0.3", "8"]
    assert set(METRICS) < set(NAMES)


def test_sources_of_a_task_are_rows_of_their_own():
    of_source = {"phrase_grounding/ms_cxr": {"sft": {"ap": FIGURE}}}
    tables = corpus_tables({"corpus": METRICS_JSON["corpus"] | of_source})
    assert tables["figures"].rows[-1][:3] == [f"{NAMES['ap']} ↑", "phrase grounding, ms_cxr", "sft"]
    assert tables["figures"].filters["task"] == ""
    assert {row[1] for row in tables["short"].rows} == {"report generation"}


def test_the_section_is_there_for_films_alone():
    text = render_markdown("corpus.md.jinja", corpus=corpus_tables(METRICS_JSON))
    rows = re.findall(r"^\|.*\|$", text, re.M)
    assert len(rows) == 2 + 3
    assert "not run: no corpus" in text
    nothing = corpus_tables({"corpus": {}, "corpus_comparisons": {}})
    assert render_markdown("corpus.md.jinja", corpus=nothing).strip() == ""


def test_what_the_reward_pays_is_marked():
    figures = {"gleu": FIGURE, "rouge_l": FIGURE, "chexbert_micro_14": FIGURE, "f1 Edema": FIGURE}
    boxes = {"normal_specificity": FIGURE, "f1_50": FIGURE}
    metrics = {
        "corpus": {
            "report_generation/a": {"sft": figures},
            "abnormality_detection": {"sft": boxes},
        },
        "corpus_comparisons": METRICS_JSON["corpus_comparisons"],
        "rewarded": ["format", "gleu", "chexbert", "grounding", "own term"],
    }
    tables = corpus_tables(metrics)
    assert [row[0] for row in tables["figures"].rows if "(rewarded)" in row[0]] == [
        "GLEU ↑ (rewarded)",
        "CheXbert F1 of 14 findings, micro ↑ (rewarded)",
        "specificity on normal films ↑ (rewarded)",
    ]
    assert tables["comparisons"].rows[0][0] == "GLEU ↑ (rewarded)"
    labels = corpus_tables(metrics | {"rewarded": ["labels"]})["figures"].rows
    assert [row[0] for row in labels if "(rewarded)" in row[0]] == ["F1 of Edema ↑ (rewarded)"]
