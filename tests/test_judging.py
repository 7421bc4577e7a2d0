"""The judge: what it is asked, what becomes of its verdicts, and where texts go."""

import json
from pathlib import Path

import pytest
from chest_films import film, samples
from evaluated import STAGE, evaluate, rows_of
from llm_server import REASKED, LlmServer, section, text_of
from test_scores_judge import GREEN, NONE, rounds

from medtune.config.data import TaskConfig
from medtune.config.evaluation import JudgingConfig
from medtune.config.stages import JudgeStage
from medtune.evaluation.judging import judge_answers, tables_of
from medtune.models.coordinate_format import COORDINATE_FORMATS
from medtune.records.sample import iterate, load_split, write_dataset
from medtune.runtime.errors import ConfigError
from medtune.runtime.files import write_manifest
from medtune.runtime.tables import read_rows, write_rows
from medtune.tasks import get_task

TASK = get_task(TaskConfig(name="chest_xray"))
FAMILY = "qwen3_vl"
CHEST = STAGE.model_copy(update={"task": TaskConfig(name="chest_xray")})


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("judged") / "datasets"
    splits = ["train", "val", "test", "test", "test"]
    made = [one for n, split in enumerate(splits) for one in samples(film(n), split)]
    folder.mkdir()
    write_dataset(made, folder)
    files = [path for path in folder.rglob("*") if path.is_file()]
    write_manifest(folder, files, {}, stage="annotate")
    return folder


def gold(sample):
    return TASK.target(sample, COORDINATE_FORMATS[FAMILY])


def said(sample):
    """Answers of a model: of the three reports one is invalid, and one the judge cannot judge."""
    if sample.task == "report_generation":
        number = sample.id.split("/")[1][-1]
        return {"2": "Unspeakable nodule here.", "3": "-"}.get(number, gold(sample))
    return gold(sample)


class Judge(LlmServer):
    """Knows reports and conversations; never comes to a verdict on what is unspeakable."""

    def reply(self, handler, body: dict) -> None:
        users = [text_of(one) for one in body["messages"] if one["role"] == "user"]
        asked = next(one for one in reversed(users) if not one.startswith(REASKED))
        answer = GREEN if '"candidate"' in asked else rounds(4)
        content = "I cannot say." if "Unspeakable" in asked else json.dumps(answer)
        message = {"role": "assistant", "content": content}
        reply = {"choices": [{"message": message, "finish_reason": "stop"}]}
        handler.send(200, json.dumps(reply).encode())


def stage(url: str | None, **endpoint) -> JudgeStage:
    judge = url and section(url, endpoint, reasks=1, temperature=0)
    return JudgeStage(task=TaskConfig(name="chest_xray"), evaluation=JudgingConfig(judge=judge))


def predictions(dataset: Path, folder: Path, write=said) -> Path:
    asked = list(iterate(load_split(dataset, "test")))
    write_rows(folder / "sft" / "0000.parquet", rows_of(asked, write, FAMILY))
    return folder / "sft"


def run(work: Path, dataset: Path, settings: JudgeStage, write=said) -> Path:
    answers, output = predictions(dataset, work / "p", write), work / "judged/sft"
    judge_answers(settings, dataset, answers, work / "cache", output, work / "log")
    return output


def scored(dataset: Path, folder: Path, judged: list[Path]) -> dict:
    asked = list(iterate(load_split(dataset, "test")))
    models = {"sft": rows_of(asked, said, FAMILY), "base": rows_of(asked, gold, FAMILY)}
    return evaluate(dataset, folder, models, CHEST, judged=judged)["corpus"]


def test_verdicts_become_figures(dataset, tmp_path):
    with Judge() as server:
        output = run(tmp_path, dataset, stage(server.url))
        asked = len(server.bodies)
        first = {path.name: path.read_bytes() for path in output.glob("*[a-z].parquet")}
        run(tmp_path, dataset, stage(server.url))
        assert len(server.bodies) == asked  # nothing is asked twice
    # Two valid reports, of which one is asked for again; six replies.
    assert asked == 1 + 2 + 6
    tables = tables_of(output)
    assert len(read_rows(tables["green"][0])) == 1
    refused = read_rows(tables["green"][1])
    assert [(row["dropped"], row["text"]) for row in refused] == [(True, "I cannot say.")] * 2
    assert all("JSON" in row["reasons"] for row in refused)
    again = {name: (output / name).read_bytes() for name in first}
    assert {n: v for n, v in again.items() if "timing" not in n} == {
        n: v for n, v in first.items() if "timing" not in n
    }
    found = scored(dataset, tmp_path, [output])
    green = found["report_generation"]["sft"]["green"]
    assert green["mean"] == pytest.approx((3 / 5 + 0) / 2)  # the invalid one is worth 0
    assert (green["n"], green["failed"]) == (2, 1)
    talk = found["grounded_conversation"]["sft"]["conversation"]
    assert (talk["mean"], talk["n"], talk["failed"]) == (0.4, 3, 0)
    for name in ("constant", "base"):
        reason = found["report_generation"][name]["green"]["not_run"]
        assert reason.startswith("the judge was not asked")


def test_the_judge_is_told_what_is_known_and_no_more(dataset, tmp_path):
    with Judge() as server:
        run(tmp_path, dataset, stage(server.url))
    asked = [text_of(body["messages"][-1]) for body in server.bodies]
    talks = [json.loads(text) for text in asked if '"rounds"' in text]
    assert {len(one["rounds"]) for one in talks} == {1}
    assert all(one["earlier"] for one in talks)
    assert all(set(one) == {"known", "earlier", "rounds"} for one in talks)
    assert not any(name in text for text in asked for name in ("made/", "image2", "study2"))
    form = server.bodies[0]["response_format"]["json_schema"]
    assert form["strict"]
    assert server.bodies[0]["temperature"] == 0


def test_without_a_judge_nothing_is_0(dataset, tmp_path):
    with pytest.raises(ConfigError, match=r"evaluation\.judge.*is null"):
        run(tmp_path, dataset, stage(None))
    found = scored(dataset, tmp_path, [])
    expected = {"not_run": "`evaluation.judge` is null: there is no judge"}
    assert found["report_generation"]["sft"]["green"] == expected
    assert found["conversation"]["sft"]["conversation"] == expected


def test_texts_of_test_patients_stay_here(dataset, tmp_path, monkeypatch):
    """A judge elsewhere gets nothing of a source that is not switched on by name."""
    with Judge() as server:

        async def elsewhere(_):
            return None

        monkeypatch.setattr("medtune.llm.client.local_address", elsewhere)
        for permitted in ([], ["other"]):
            with pytest.raises(ConfigError, match="'made' would leave this machine"):
                run(tmp_path, dataset, stage(server.url, allow_remote=permitted))
        assert server.bodies == []
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        run(tmp_path, dataset, stage(server.url, allow_remote=["made"]))
        assert server.bodies


def test_a_verdict_that_is_asked_for_twice_may_stand(dataset, tmp_path):
    with Judge() as server:
        first = server.reply

        def once(handler, body):
            again = any(text_of(m).startswith(REASKED) for m in body["messages"][1:])
            if again or '"candidate"' not in text_of(body["messages"][1]):
                first(handler, body)
                return
            wrong = GREEN | {"significant": NONE | {"typo": []}}
            message = {"role": "assistant", "content": json.dumps(wrong)}
            content = {"choices": [{"message": message, "finish_reason": "stop"}]}
            handler.send(200, json.dumps(content).encode())

        server.reply = once
        tables = tables_of(run(tmp_path, dataset, stage(server.url), gold))
    assert [row["attempts"] for row in read_rows(tables["green"][0])] == [2, 2, 2]
    assert not any(row["dropped"] for row in read_rows(tables["green"][1]))
