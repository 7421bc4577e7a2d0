"""Texts that others made, as inputs: sections of reports, filtered reports, conversations."""

import json
from pathlib import Path

import pytest
from chest_data import write_chest_data
from chest_files import write_csv

from medtune.config.chest_sources import ChestSourceConfig, ChestVerificationConfig
from medtune.config.films import FilmsConfig
from medtune.dataset.film_given import (
    Found,
    conversation_files,
    given_reports,
    given_talks,
    write_given,
)
from medtune.records.film import Film
from medtune.runtime.tables import read_rows
from medtune.sources.chest.index import source_films
from medtune.sources.chest.issues import Issues
from medtune.texts.items import ConversationItem, NamedBox, ReportItem
from medtune.texts.steps import get_step

REPORT = "The heart is enlarged. No effusion."


def film(study: str, path: str = "train/p/s/1.jpg") -> Film:
    return Film(
        **{"source": "m", "image_id": study, "study_id": study, "patient_id": "m/1"},
        **{"split": "train", "path": path, "report": {"findings": REPORT}},
    )


def reports(folder: Path, *studies: str) -> list[Found]:
    config = ChestSourceConfig(name="m", kind="mimic_cxr", root=".", filtered_reports=str(folder))
    items = [ReportItem(id=f"m/{one}", source="m", report=REPORT) for one in studies]
    return list(given_reports(config, [film(one) for one in studies], items))


def written(step: str, found: list[Found], tmp_path: Path):
    output, rejects = tmp_path / "0000.parquet", tmp_path / "0000.rejects.parquet"
    write_given(get_step(step), found, output, rejects)
    done = {row["id"]: json.loads(row["result"]) for row in read_rows(output)}
    return done, {row["id"]: json.loads(row["reasons"]) for row in read_rows(rejects)}


def test_filtered_reports_are_found_by_study_and_checked(tmp_path, capsys):
    texts = {
        "50414267.txt": "The heart is enlarged.\n",  # without MIMIC-CXR's s
        "s2.txt": "The heart is unchanged.",  # an earlier film
        "s3.txt": "There is a pneumothorax.",  # not in the report
        "s4.txt": "None",
        "s5.json": json.dumps({"report": "No effusion."}),
        "train_s6.txt": "No effusion.",  # CheXpert-Plus
        "s7.json": "{",
        "s8.txt": "The heart is not enlarged.",  # the report says it is
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    found = reports(tmp_path, "s50414267", *(f"s{n}" for n in range(2, 10)))
    done, refused = written("filter", found, tmp_path)
    assert done == {
        "m/s50414267": {"report": "The heart is enlarged."},
        "m/s4": {"report": None},
        "m/s5": {"report": "No effusion."},
        "m/s6": {"report": "No effusion."},
    }
    kinds = {name: [one.partition(":")[0] for one in reasons] for name, reasons in refused.items()}
    assert kinds == {"m/s2": ["prior"], "m/s3": ["invented"], "m/s7": ["form"], "m/s8": ["flipped"]}
    assert "4 taken, 4 refused" in capsys.readouterr().err.replace("\n", " ")


def talk(*pairs: tuple[str, str], key: tuple[str, str] = ("from", "value")) -> list[dict]:
    roles = ("human", "gpt")
    return [
        {key[0]: role, key[1]: text}
        for pair in pairs
        for role, text in zip(roles, pair, strict=True)
    ]


ROUNDS = [("<image>\nWhere is it?", "At [0.1, 0.21, 0.5, 0.6].")] + [("And else?", "Nothing.")] * 4
BOX = NamedBox(name="mass", box=(10, 10.4, 50, 30))


def test_conversations_get_the_boxes_of_the_film_and_are_checked(tmp_path):
    texts = {
        "train/grounding/1.json": talk(*ROUNDS),
        "train/standard/1.json": talk(*ROUNDS[:1]),  # of another step
        "2.json": {"conversations": talk(("Where?", "At [0.7, 0.2, 0.9, 0.6]."), *ROUNDS[1:])},
        "3.json": talk(*ROUNDS[:4]),
        "4.json": talk(*ROUNDS)[1:],
        "a/5.json": talk(*ROUNDS),
        "b/5.json": talk(*ROUNDS),
        "6.json": talk(("Is it new?", "It has not changed [0.1, 0.2, 0.5, 0.6]."), *ROUNDS[1:]),
        "7.json": "no conversation",
    }
    for name, value in texts.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(json.dumps(value))
    items = [
        ConversationItem(id=f"m/{n}", source="m", report=REPORT, regions=(BOX,))
        for n in range(1, 9)
    ]
    files = conversation_files(tmp_path, "conversation_grounded")
    found = given_talks(files, items, lambda _: {(0.1, 0.208, 0.5, 0.6): BOX.text})
    done, refused = written("conversation_grounded", list(found), tmp_path)
    assert list(done) == ["m/1"]
    assert done["m/1"]["turns"][:2] == [
        {"role": "user", "text": "Where is it?"},
        {"role": "assistant", "text": f"At {BOX.text}."},
    ]
    kinds = {name: {one.partition(":")[0] for one in reasons} for name, reasons in refused.items()}
    assert kinds["m/2"] >= {"box form"}  # a box that is none of the film's
    assert kinds["m/3"] == {"form"}  # four rounds
    assert kinds["m/4"] >= {"form"} or kinds["m/4"] >= {"turns"}
    assert kinds["m/5"] == {"form"}  # two files
    assert kinds["m/6"] == {"prior"}
    assert kinds["m/7"] == {"form"}


@pytest.mark.parametrize("name", ["mimic_cxr_sectioned.csv", "reports.csv"])
def test_sections_of_mimic_reports_come_from_a_table(tmp_path, name):
    data = write_chest_data(tmp_path, patients=6, seed=0)
    given = next(one for one in data.sources if one["kind"] == "mimic_cxr")
    studies = {
        "s50414267": {"findings": "Clear\nlungs.", "impression": "Normal."},
        "s99999999": {"findings": "Of another release.", "impression": ""},
    }
    rows = [{"study": study} | texts for study, texts in studies.items()]
    if name == "reports.csv":
        rows = [row | {"study": row["study"][1:], "": n} for n, row in enumerate(rows)]
    else:
        rows = [row | {"last_paragraph": "", "comparison": "None."} for row in rows]
    path = tmp_path / name
    write_csv(path, rows)
    config = ChestSourceConfig(**given | {"reports": str(path)})
    with Issues(tmp_path / "findings.parquet") as findings:
        films = list(source_films(config, ChestVerificationConfig(), findings))
    first = next(one for one in films if one.study_id == "s50414267")
    assert first.report == {"findings": "Clear lungs.", "impression": "Normal."}
    assert findings.counts["warning", "report-unmatched"] == 1
    assert findings.counts["warning", "report-missing"] == len({one.study_id for one in films}) - 1


def test_texts_of_sources_that_have_none_are_refused():
    source = {"name": "v", "kind": "vindr_cxr", "root": "."}
    for key in ("filtered_reports", "conversations"):
        with pytest.raises(ValueError, match="vindr_cxr"):
            FilmsConfig(sources=[source | {key: "x"}])
