"""All figures of an evaluation as a tidy table: a row for each figure."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from medtune.evaluation.directions import sense
from medtune.runtime.files import read_json
from medtune.runtime.tables import write_rows

# What a figure is of: a name that does not apply is null.
WHAT = ("table", "task", "source", "model", "mode", "comparison", "group_by", "group", "metric")
NUMBERS = ("mean", "low", "high", "p", "p_holm", "effect", "detectable")
SCHEMA = pa.schema(
    [(name, pa.string()) for name in WHAT]
    + [("better", pa.string()), ("status", pa.string()), ("reason", pa.string())]
    + [(name, pa.float64()) for name in NUMBERS]
    + [("n", pa.int64()), ("patients", pa.int64())]
    + [("p_is_limit", pa.bool_()), ("primary", pa.bool_())]
)
Row = dict[str, Any]


def tidy(metrics: Mapping[str, Any]) -> list[Row]:
    """Return a row for each figure of `metrics.json`.

    `table` is figures, comparisons, groups, corpus or corpus_comparisons. `better` is "more",
    "less" or null. `status` is "ok"; "undefined" where a figure applies to no case; or
    "not run", with the `reason` where one is known.
    """
    return [*_figures(metrics), *_groups(metrics), *_comparisons(metrics), *_corpus(metrics)]


def write_tidy(metrics: Path, table: Path) -> None:
    """Write `tidy` of a JSON that `score` wrote as Parquet."""
    write_rows(table, tidy(read_json(metrics)), SCHEMA)


def _row(metric: str | None, found: Mapping[str, Any] | None, status: str = "", **what: str) -> Row:
    row: Row = dict.fromkeys(SCHEMA.names) | what | {"metric": metric}
    known = found or {}
    row |= {name: known[name] for name in SCHEMA.names if name in known and name not in WHAT}
    row["better"] = metric and {1: "more", -1: "less", 0: None}[sense(metric)]
    row["status"] = status or ("ok" if found else "undefined")
    if "not_run" in known:
        row |= {"status": "not run", "reason": known["not_run"]}
    return row


def _figures(metrics: Mapping[str, Any]) -> Iterator[Row]:
    for model, modes in metrics["models"].items():
        for mode, found in modes.items():
            for name, figure in found.items():
                yield _row(name, figure, table="figures", model=model, mode=mode)


def _groups(metrics: Mapping[str, Any]) -> Iterator[Row]:
    for kind, values in metrics["groups"].items():
        for value, models in values.items():
            what = {"table": "groups", "group_by": kind, "group": value}
            for model, modes in models.items():
                for mode, found in modes.items():
                    for name, figure in found.items():
                        yield _row(name, figure, model=model, mode=mode, **what)


def _comparisons(metrics: Mapping[str, Any]) -> Iterator[Row]:
    for comparison, found in metrics["comparisons"].items():
        pair, _, mode = comparison.partition(", ")
        what = {"table": "comparisons", "comparison": pair, "mode": mode}
        if found is None:
            yield _row(None, None, "not run", **what)
        for name, change in (found or {}).items():
            yield _row(name, change, **what)


def _corpus(metrics: Mapping[str, Any]) -> Iterator[Row]:
    for table, key in (("corpus", "model"), ("corpus_comparisons", "comparison")):
        for place, sides in metrics.get(table, {}).items():
            task, _, source = place.partition("/")
            for side, found in sides.items():
                what = {"table": table, "task": task, key: side}
                what |= {"source": source} if source else {}
                for name, figure in found.items():
                    yield _row(name, figure, **what)
