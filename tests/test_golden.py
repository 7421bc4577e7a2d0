"""The golden record names what differs, and only that."""

import json

import datasets
import numpy as np
import pytest
from conftest import REPOSITORY
from safetensors.numpy import save_file


@pytest.fixture
def golden(monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    import golden

    return golden


def write(folder, name="iou", mean=0.5, box=(1, 2), prompt="Where?", key="layer", picture=b"a"):
    """Write what an experiment leaves, as small as can be."""
    for part in ("eval", "datasets", "media", "sft"):
        (folder / part).mkdir(parents=True)
    metrics = {"rewarded": ["iou"], "models": {"sft": {"greedy": {name: {"mean": mean}}}}}
    (folder / "eval/metrics.json").write_text(json.dumps(metrics))
    rows = [{"id": "a", "prompt": prompt, "truth": json.dumps({"box": box, "side": "left"})}]
    datasets.Dataset.from_list(rows).save_to_disk(str(folder / "datasets/train"))
    (folder / "media/a.png").write_bytes(picture)
    save_file({key: np.arange(3.0)}, folder / "sft/model.safetensors")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, []),
        ({"mean": 0.1 + 0.2}, ["metrics: models of iou", "metrics: models/sft/greedy"]),
        ({"box": (1, 3)}, ["rows: datasets/train: truth", "rows: datasets/train: truth.box"]),
        ({"prompt": "Which?"}, ["rows: datasets/train: prompt"]),
        ({"key": "other"}, ["models: sft: tensors"]),
        ({"picture": b"b"}, ["files: media/a.png"]),
    ],
    ids=lambda value: "".join(value) if isinstance(value, dict) else "",
)
def test_a_difference_is_named(golden, change, expected, tmp_path):
    write(tmp_path / "old", **({"mean": 0.3} if "mean" in change else {}))
    write(tmp_path / "new", **change)
    old, new = (golden.results_record(tmp_path / name) for name in ("old", "new"))
    assert sorted(name for name in old if old[name] != new[name]) == expected
    lines = [line for line in golden.differences(old, new) if line.startswith("  ")]
    assert [line.split()[0] for line in lines] == ["other"] * len(expected)


def test_a_metric_of_another_name_keeps_its_hash(golden, tmp_path):
    write(tmp_path / "old")
    write(tmp_path / "new", name="overlap")
    old, new = (golden.results_record(tmp_path / name) for name in ("old", "new"))
    assert old["metrics: models of iou"] == new["metrics: models of overlap"]
    lines = "\n".join(golden.differences(old, new))
    assert "missing models of iou" in lines
    assert "new     models of overlap" in lines
