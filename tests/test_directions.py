"""Which way is better, in one place; and all figures as a tidy table."""

import pyarrow.parquet as pq
import pytest
from evaluated import STAGE, evaluate, gold, rows_of

from medtune.cli.scores import score as verb
from medtune.config.data import TaskConfig
from medtune.evaluation.directions import sense, with_arrow
from medtune.evaluation.tidy import WHAT, tidy, write_tidy
from medtune.models.coordinate_format import COORDINATE_FORMATS
from medtune.records.sample import iterate, load_split
from medtune.runtime.files import MANIFEST, manifest_of, read_json, with_manifest, write_json
from medtune.runtime.tables import write_rows
from medtune.tasks import get_task


def test_a_better_answer_moves_every_metric_the_way_its_arrow_points(dataset):
    task, moved = get_task(TaskConfig()), set()
    for one in iterate(load_split(dataset, "test")):
        dialect = COORDINATE_FORMATS["qwen2_5_vl"]
        right = task.measure(task.judge(task.target(one, dialect), one, dialect))
        wrong = task.measure(task.judge("", one, dialect))
        for name, value in right.items():
            if value is not None and value != wrong[name]:
                assert (value > wrong[name]) == (sense(name) == 1), name
                moved.add(name)
    assert moved >= {"iou", "giou", "center_mm", "missed", "false_positive", "ratio_relative"}


@pytest.mark.parametrize(
    ("metric", "arrow"),
    [
        ("iou_lenient", "↑"),
        ("reward_valid", "↑"),
        ("truncated", "↓"),
        ("decision_brier", "↓"),
        ("radcliq", "↓"),
        ("term_peak_error", "↑"),
        ("readable", ""),
    ],
)
def test_arrows(metric, arrow):
    assert with_arrow("x", metric) == f"x {arrow}".strip()


def test_the_tidy_table_holds_every_figure_once_and_tells_undefined_from_not_run(dataset, tmp_path):
    held_out = list(iterate(load_split(dataset, "test")))
    found = evaluate(dataset, tmp_path, {"sft": rows_of(held_out, gold("qwen2_5_vl"))})
    write_json(tmp_path / "m.json", found)
    write_tidy(tmp_path / "m.json", tmp_path / "m.parquet")
    rows = pq.read_table(tmp_path / "m.parquet").to_pylist()
    assert rows == tidy(found)
    keys = [tuple(row[name] for name in WHAT) for row in rows]
    assert len(set(keys)) == len(keys)
    by_key = dict(zip(keys, rows, strict=True))

    def row(table, metric, model=None, mode="greedy", comparison=None):
        return by_key[table, None, None, model, mode, comparison, None, None, metric]

    iou = found["models"]["sft"]["greedy"]["iou"]
    known = row("figures", "iou", "sft")
    assert {name: known[name] for name in iou} == iou
    assert (known["status"], known["better"]) == ("ok", "more")
    assert row("figures", "readable", "sft")["status"] == "undefined"
    change = found["comparisons"]["sft - constant, greedy"]["iou"]
    assert row("comparisons", "iou", comparison="sft - constant")["p_holm"] == change["p_holm"]
    assert row("comparisons", None, comparison="grpo - sft")["status"] == "not run"
    corpus = {"grounding/a": {"sft": {"f1": {"not_run": "no model"}, "ap": None}}}
    figures = tidy({"models": {}, "groups": {}, "comparisons": {}, "corpus": corpus})
    assert [(r["source"], r["status"], r["reason"]) for r in figures] == [
        ("a", "not run", "no model"),
        ("a", "undefined", None),
    ]


def test_the_verb_writes_the_table_and_its_manifest_names_it(dataset, tmp_path):
    rows = rows_of(list(iterate(load_split(dataset, "test"))), gold("qwen2_5_vl"))
    shard = tmp_path / "sft/0000.parquet"
    with with_manifest("predict", STAGE, [dataset / MANIFEST], shard):
        write_rows(shard, rows)
    written = [tmp_path / name for name in ("m.json", "cases.parquet", "means.json")]
    verb(STAGE.model_dump_json(), dataset, [tmp_path / "sft"], *written)
    assert pq.read_table(tmp_path / "m.parquet").num_rows == len(tidy(read_json(written[0])))
    assert "m.parquet" in manifest_of(written[0]).read_text()
