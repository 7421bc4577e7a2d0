"""Your own films all the way to samples, with texts that others made and no language model."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from medtune.cli.films import annotate_films, film_images, film_index, film_splits, film_texts
from medtune.config.experiment import load
from medtune.dataset.film_samples import FILTER, TALK
from medtune.dataset.film_shards import table
from medtune.dataset.film_texts import rejects
from medtune.orchestration.status import film_jobs
from medtune.records.sample import SPLITS, iterate, load_split
from medtune.runtime.tables import read_rows

TURNS = [{"from": "human", "value": "Is the heart large?"}, {"from": "gpt", "value": "Yes, it is."}]
SECTIONS = "The heart is enlarged. No pneumothorax."


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """The section `films` of a table of twelve films, two a patient: 8 train, 2 val, 2 test."""
    root = tmp_path_factory.mktemp("mine")
    lines, boxes = ["image,patient,split,findings,Cardiomegaly,No Finding,site"], []
    for number in range(12):
        name, patient = f"{number}.png", number // 2
        rng = np.random.default_rng(number)
        Image.fromarray(rng.integers(0, 255, (64, 64), dtype=np.uint8)).save(root / name)
        split = {4: "val", 5: "test"}.get(patient, "train")
        cells = f"{SECTIONS},1,," if number % 2 else "Clear lungs.,0,1,"
        lines.append(f"{name},P{patient},{split},{cells}s{patient}")
        boxes += [f"{name},Cardiomegaly,,10,10,40,40", f"{name},,A large heart.,10,10,40,40"] * (
            number % 2
        )
    (root / "films.csv").write_text("\n".join(lines))
    (root / "boxes.csv").write_text("\n".join(["image,class,phrase,x1,y1,x2,y2", *boxes]))
    (root / "reports").mkdir()
    (root / "talks").mkdir()
    for number in range(10):  # those of the test films are missing
        text = "The heart is enlarged." if number % 2 else "Clear lungs."
        (root / f"reports/{number}.txt").write_text(text if number else "There is a pneumothorax.")
    (root / "talks/1.json").write_text(json.dumps(TURNS * 5))
    (root / "talks/3.json").write_text(json.dumps(TURNS))  # one round
    source = {"name": "mine", "kind": "table", "root": str(root), "table": "films.csv"}
    source |= {"boxes": "boxes.csv", "groups": ["site"], "filtered_reports": str(root / "reports")}
    source |= {"conversations": str(root / "talks")}
    return {"sources": [source], "images": {"max_pixels": 4096, "multiple_of": 16}}


def run(films: dict, results: Path) -> Path:
    """Run every stage as the rules do; return the configuration."""
    config = results / "config.yaml"
    sections = {"experiment": "mine", "task": {"name": "chest_xray"}, "films": films}
    config.write_text(
        yaml.safe_dump(sections | {"model": {"family": "qwen3_vl", "builder": "tiny"}})
    )
    given, shard = str(config), "0000"
    film_index(given, results, results / "findings.parquet")
    film_images(given, results, shard, results / "cache", processes=1)
    film_splits(given, results)
    film_texts(given, results, shard, results / "texts")
    annotate_films(given, results, results / "datasets")
    return config


@pytest.fixture(scope="module")
def results(films, tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    run(films, folder)
    return folder


@pytest.fixture(scope="module")
def samples(results):
    return [one for split in SPLITS for one in iterate(load_split(results / "datasets", split))]


def test_a_table_gives_samples_of_every_task_that_it_knows_of(samples):
    films = (("train", 8), ("val", 2), ("test", 2))
    counts = Counter((one.task, one.split) for one in samples)
    assert counts == {
        **{("report_generation", "train"): 7, ("report_generation", "val"): 2},
        **{("abnormality_classification", split): n for split, n in films},
        **{("abnormality_grounding", split): n // 2 for split, n in films},
        **{("phrase_grounding", split): n // 2 for split, n in films},
        ("conversation", "train"): 1,
    }
    assert {one.meta["groups"]["site"] for one in samples} == {f"s{n}" for n in range(6)}
    normal = next(one for one in samples if one.case_id == "0")
    assert normal.target == "There is no cardiomegaly."


def test_texts_that_others_made_are_taken_or_refused_with_reasons(results, samples):
    reports = {one.case_id: one.target for one in samples if one.task == "report_generation"}
    assert set(reports.values()) == {"The heart is enlarged.", "Clear lungs."}
    (refused,) = read_rows(rejects(table(results, f"texts/{FILTER}", "0000")))
    assert (refused["id"], refused["dropped"]) == ("mine/0", True)
    assert "invented: Pneumothorax" in refused["reasons"]
    (refused,) = read_rows(rejects(table(results, f"texts/{TALK}", "0000")))
    assert refused["id"] == "mine/3"


def test_boxes_that_are_complete_let_films_be_searched(films, tmp_path):
    source = films["sources"][0] | {"boxes_complete": True, "conversations": None}
    config = run(films | {"sources": [source]}, tmp_path)
    found = iterate(load_split(tmp_path / "datasets", "train"))
    searched = [one for one in found if one.task == "abnormality_detection"]
    assert Counter(len(one.truth["findings"]) for one in searched) == {0: 4, 1: 4}
    assert "film_texts" in {job.rule for job in film_jobs(load(config), tmp_path)}
