"""Further columns of a user's table: no modalities, but groups of the evaluation."""

from pathlib import Path

import numpy as np
import pytest
from test_missing_files import RULES, row, table

from medtune.config.data import MediaConfig, SourceConfig, TargetConfig
from medtune.evaluation.subgroups import FEWEST_PATIENTS, group_labels
from medtune.evaluation.summary import CaseTable
from medtune.media.convert import convert_case
from medtune.records.sample import Sample
from medtune.reporting.overview import group_table
from medtune.runtime.errors import ConfigError, DataError
from medtune.sources import check_source, find_cases
from medtune.sources.check import check_case

MEDIA = MediaConfig(modalities=["t1c"], layout="single", multiple_of=2)


def test_declared_columns_travel_as_they_are_written(tmp_path: Path):
    values = row(Age="054", site="", Scanner="3 T, x")
    config = table(tmp_path, values, groups=["age", "site", "scanner"])
    check_source(config, ["t1c"], "WT")
    with pytest.raises(ConfigError, match="has no modality \\['age'\\]"):
        check_source(config, ["age"], "WT")
    (case,) = find_cases([config])
    assert check_case(case, config, RULES, ["t1c"]).findings == []
    meta = convert_case(case, TargetConfig(), MEDIA, tmp_path / "media").meta
    assert meta["groups"] == {"age": "054", "site": "", "scanner": "3 T, x"}


def test_a_declared_column_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(DataError, match=r"(?s)expected scanner.*rename `scaner` to `scanner`"):
        find_cases([table(tmp_path, row(scaner="x"), groups=["scanner"])])


@pytest.mark.parametrize("groups", [["side"], ["mask"], ["age", "age"]])
def test_names_that_mean_something_else_are_refused(groups):
    known = {"name": "a", "kind": "table", "root": "x", "table": "t", "labels": {1: "WT"}}
    with pytest.raises(ValueError, match="size, side and source are groups already"):
        SourceConfig(**known, groups=groups)


def samples(**columns: list[str]) -> list[Sample]:
    count = len(next(iter(columns.values())))
    return [
        Sample.model_construct(
            id=f"{index:03d}",
            meta={"groups": {name: texts[index] for name, texts in columns.items()}},
        )
        for index in range(count)
    ]


def labels(texts: list[str]) -> list[str]:
    return [groups["group_a"] for groups in group_labels(samples(a=texts)).values()]


def test_numbers_of_many_values_are_parted_into_thirds():
    texts = [str(value) for value in range(40, 52)]
    expected = ["1/3: 40 to 43"] * 4 + ["2/3: 44 to 47"] * 4 + ["3/3: 48 to 51"] * 4
    assert labels(texts) == expected
    assert labels([*texts, "", "nan", "N/A"]) == [*expected, *["not given"] * 3]
    assert labels([text.replace("40", "40,5") for text in texts])[0] == "1/3: 40.5 to 43"
    assert labels(["0"] * 9 + texts)[0] == "1/3: 0 to 0"


def test_few_numbers_and_texts_are_groups_as_written():
    assert labels(["1.5", "3", "1.5", ""]) == ["1.5", "3", "1.5", "not given"]
    assert labels(["Bonn", " Ulm ", "12"]) == ["Bonn", "Ulm", "12"]
    assert labels(["inf", *"123456789"])[:2] == ["inf", "1"]


def test_samples_without_a_column_are_not_given():
    both = [*samples(a=["x"]), Sample.model_construct(id="other", meta={})]
    assert group_labels(both)["other"] == {"group_a": "not given"}
    assert group_labels(both[1:]) == {"other": {}}


def test_groups_of_too_few_patients_are_counted_and_shown_as_such():
    count = FEWEST_PATIENTS
    rows = [
        {
            "model": "grpo",
            "mode": "greedy",
            "id": f"{index}",
            "patient_id": f"p{index}",
            "source": "s",
            "size": "small",
            "side": "left",
            "group_site": "Bonn" if index < count else "Ulm",
            "iou": 0.5,
        }
        for index in range(count + 2)
    ]
    found = CaseTable(rows)
    assert found.metrics == ["iou"]
    assert set(found.groups) == {"source", "size", "side", "site"}
    assert found.small == {"site": {"Ulm": 2}}
    estimate = {"mean": 0.5, "low": 0.4, "high": 0.6, "n": 5, "patients": 5}
    groups = {"site": {"Bonn": {"grpo": {"greedy": {"iou": estimate}}}}}
    shown = group_table(groups, "iou", found.small).rows
    assert [line[1:5] for line in shown] == [
        ["site", "Bonn", "grpo", "0.500 [0.400, 0.600]"],
        ["site", "Ulm", "grpo", "too few patients"],
    ]
    assert np.isfinite(found.values).all()
