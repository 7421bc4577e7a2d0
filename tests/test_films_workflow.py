"""Chest films in miniature, as users run them: seven sources to a report, on CPU."""

import json
import re

import pytest
import yaml
from chest_data import write_chest_data
from datasets import load_dataset
from llm_server import LlmServer
from PIL import Image
from small_experiment import TINY, planned, snakemake

from medtune.cli.main import app
from medtune.config.data import TaskConfig
from medtune.models.coordinate_format import COORDINATE_FORMATS
from medtune.records.sample import iterate, load_split
from medtune.runtime.files import read_json
from medtune.runtime.tables import read_rows
from medtune.tasks import get_task
from medtune.tasks.chest.published_mix import PUBLISHED
from medtune.tasks.chest.xray import PARTS

RESULTS = "results/chest"


def film_config(data, url: str) -> dict:
    """The miniature experiment; its language model is the server at `url`."""
    llm = {"model": "m", "endpoint": {"base_url": url, "request_timeout": 10}}
    return {
        "experiment": "chest",
        "task": {"name": "chest_xray", "chain_of_thought": True},
        "films": {
            "sources": data.sources,
            "splits": {"inherit_split_from": ["chest_imagenome"]},
            "images": {"max_pixels": 9216, "multiple_of": 16},
            "texts": {"llm": llm, "reasoning": 0.5},
        },
        "model": {"family": "qwen3_vl", "builder": "tiny", "tiny": TINY},
        "sft": {"epochs": 1, "logging_steps": 1, "eval_steps": 100, "batch_size": 8}
        | {"eval_generation_samples": 4, "dataset_weights": {"vindr_cxr/abnormality_detection": 2}},
        "grpo": {"steps": 1, "logging_steps": 1, "batch_size": 8, "num_generations": 4}
        | {"log_completions_steps": 1, "max_completion_length": 16},
        "evaluation": {"samples": 2, "resamples": 100, "permutations": 100, "batch_size": 16}
        | {"max_new_tokens": 16},
        "report": {"cases": 3, "title": "Chest films, in miniature"},
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The finished experiment and what the endpoint was asked."""
    folder = tmp_path_factory.mktemp("films")
    data = write_chest_data(folder / "data", patients=8, seed=0)
    with LlmServer() as server:
        (folder / "config.yaml").write_text(yaml.safe_dump(film_config(data, server.url)))
        run = snakemake(folder)
        assert run.returncode == 0, (run.stdout + run.stderr)[-4000:]
        yield folder, server


def test_show_draws_what_the_workflow_has_written(finished, tmp_path):
    folder, _ = finished
    rows = read_rows(folder / RESULTS / "eval/predictions/center/0000.parquet")
    for task in sorted({row["id"].split("/")[2] for row in rows}):
        name = next(row["id"] for row in rows if row["id"].split("/")[2] == task)
        picture = tmp_path / "film.png"
        command = ["show", str(folder / RESULTS), name, "--output", str(picture)]
        app(command, standalone_mode=False)
        with Image.open(picture) as image:
            assert image.width > 100, task


@pytest.fixture(scope="module")
def samples(finished):
    dataset = finished[0] / RESULTS / "datasets"
    splits = ("train", "val", "test")
    return [s for split in splits for s in iterate(load_split(dataset, split))]


def test_every_task_is_learned_and_tested(finished, samples):
    learned = {(s.source, s.task) for s in samples if s.split == "train"}
    assert learned == {(one.source, one.task) for one in PUBLISHED}
    assert {s.task for s in samples if s.split == "test"} == set(PARTS)
    assert len({s.id for s in samples}) == len(samples)
    assert "oracle" in read_json(finished[0] / RESULTS / "eval/metrics.json")["models"]
    assert (finished[0] / RESULTS / "report/report.html").is_file()


def test_no_patient_and_no_image_is_in_two_splits(samples):
    for of in (lambda s: s.patient_id, lambda s: s.media[0].sha256):
        assert all(len({s.split for s in samples if of(s) == x}) == 1 for x in map(of, samples))


def test_reports_are_the_filtered_ones_and_reasoning_is_learned(finished, samples):
    reports = [s for s in samples if s.task == "report_generation"]
    kept = {
        json.loads(row["result"])["report"]
        for path in (finished[0] / RESULTS / "texts/filter").glob("[0-9]???.parquet")
        for row in read_rows(path)
    }
    assert reports
    assert {s.truth["report"] for s in reports} <= kept
    thought = [s for s in samples if "thought" in s.truth]
    assert {s.split for s in thought} == {"train"}


def test_what_the_model_wrote_is_not_asked_for_twice(finished):
    folder, server = finished
    asked = sum(server.asked.values())
    tables = sorted((folder / RESULTS / "texts").glob("*/0000.parquet"))
    assert len(tables) == 3
    before = {path: path.read_bytes() for path in tables}
    for path in tables:
        path.unlink()
    run = snakemake(folder, *(str(path.relative_to(folder)) for path in tables))
    assert run.returncode == 0, run.stderr
    assert sum(server.asked.values()) == asked
    assert {path: path.read_bytes() for path in tables} == before


def test_figures_tell_what_is_rewarded_and_each_source(finished, samples):
    metrics = read_json(finished[0] / RESULTS / "eval/metrics.json")
    terms = ["format", "gleu", "labels", "grounding", "classification"]  # the guard pays nothing
    assert metrics["rewarded"] == terms
    asked = {(s.task, s.source) for s in samples if s.split == "test"}
    of_sources = {tuple(key.split("/")) for key in metrics["corpus"] if "/" in key}
    assert of_sources
    assert of_sources <= asked
    task, source = min(of_sources)
    page = (finished[0] / RESULTS / "report/report.html").read_text()
    assert f"<td>{task.replace('_', ' ')}, {source}</td>" in page
    assert "<td>GLEU ↑ (rewarded)</td>" in page


@pytest.mark.parametrize(
    ("rules", "outputs"),
    [
        (["film_images"], ["media/0000.parquet"]),
        pytest.param(["film_splits"], ["index/splits.parquet"], marks=pytest.mark.long),
        pytest.param(["views"], ["datasets/views.manifest.json"], marks=pytest.mark.long),
        # The folder is written anew as a whole, and its views with it.
        (["annotate", "views"], ["datasets/manifest.json", "datasets/views.manifest.json"]),
    ],
)
def test_rules_run_alone_and_give_the_same_bytes(finished, rules, outputs):
    paths = [finished[0] / RESULTS / output for output in outputs]
    before = [path.read_bytes() for path in paths]
    for path in paths:
        path.unlink()
    run = snakemake(finished[0], f"{RESULTS}/{outputs[-1]}", "--allowed-rules", *rules)
    assert run.returncode == 0, run.stderr
    assert [path.read_bytes() for path in paths] == before


def test_another_reader_reads_the_llava_file(finished, tmp_path):
    """As LLaMA-Factory and LLaVA do: plain JSON, paths beside it, the placeholder once."""
    folder = finished[0] / RESULTS / "datasets"
    for split in ("train", "val", "test"):
        path = folder / f"llava_{split}.json"
        records = json.loads(path.read_text())
        table = load_dataset("json", data_files=str(path), split="train", cache_dir=str(tmp_path))
        assert len(table) == len(records) > 0
        assert table[0]["image"] == records[0]["image"]
        assert table[-1]["conversations"] == records[-1]["conversations"]
        for one in records:
            turns = one["conversations"]
            roles = [turn["from"] for turn in turns]
            assert roles == ["human", "gpt"] * (len(turns) // 2)
            assert turns[0]["value"].startswith("<image>\n")
            assert "".join(turn["value"] for turn in turns).count("<image>") == 1
            with Image.open(folder / one["image"]) as image:
                width, height = image.size
                assert (image.mode, width % 16, height % 16) == ("L", 0, 0)
            for box in re.findall(r"\[([\d., ]+)\]", turns[-1]["value"]):  # in thousandths
                x1, y1, x2, y2 = map(int, box.split(", "))
                assert 0 <= x1 < x2 <= 1000
                assert 0 <= y1 < y2 <= 1000


def test_gold_answers_of_the_llava_file_are_valid_in_the_format_of_the_family(finished):
    folder = finished[0] / RESULTS / "datasets"
    task, count = get_task(TaskConfig(name="chest_xray", chain_of_thought=True)), 0
    records = {one["id"]: one for one in json.loads((folder / "llava_test.json").read_text())}
    for sample in iterate(load_split(folder, "test")):
        text = records[sample.id]["conversations"][-1]["value"]
        assert task.judge(text, sample, COORDINATE_FORMATS["qwen3_vl"]).reason is None, text
        count += sample.task.endswith("grounding")
    assert count


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, set()),
        ({"films": {"fusion": {"min_readers": 2}}}, {"annotate", "film_reasoning", "film_texts"}),
        ({"films": {"images": {"format": "jpeg"}}}, {"film_images"}),
        ({"views": {"format": "llava_onevision"}}, {"views"}),
        ({"grpo": {"beta": 0.1}}, {"grpo", "predict", "score", "report"}),
    ],
    ids=["nothing", "fusion", "images", "views", "GRPO"],
)
def test_what_runs_again(finished, changes, expected, tmp_path):
    over = tmp_path / "over.yaml"
    over.write_text(yaml.safe_dump(changes))
    run = snakemake(finished[0], "-n", over=over)
    assert run.returncode == 0, run.stderr
    found = planned(run)
    assert expected <= found
    assert not (found & {"film_index"})
    if not expected or "grpo" in expected or expected == {"views"}:
        assert found == expected


def test_lineage_leads_back_to_the_sources(finished, monkeypatch):
    from medtune.orchestration.lineage import Lineage

    monkeypatch.chdir(finished[0])
    from pathlib import Path

    told = Lineage(Path(RESULTS) / "eval/metrics.json", files=False)
    text = str([*told.tree.children])
    assert text
