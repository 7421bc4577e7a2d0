"""What the LLM steps send, and what they accept: prompts, word lists, forms, boxes."""

import json
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest
from llm_server import LlmServer, section
from PIL import Image

from medtune.llm.client import Completion
from medtune.metrics.labeler import SENTENCE
from medtune.records.film import Film
from medtune.runtime.errors import ConfigError, DataError
from medtune.runtime.files import sha256
from medtune.runtime.tables import read_rows
from medtune.sources.chest.prior_phrases import (
    history_phrases,
    prior_phrases,
    source_phrases,
    view_phrases,
)
from medtune.texts.items import (
    ConversationItem,
    NamedBox,
    RationaleItem,
    ReportItem,
    malformed_boxes,
    report_items,
)
from medtune.texts.messages import question
from medtune.texts.prompt_files import FOLDER, read_prompt
from medtune.texts.run import run_step
from medtune.texts.steps import get_step, judge

STEPS = [
    *("filter", "conversation", "conversation_grounded", "conversation_sentences", "reasoning")
]
BOX = NamedBox(name="opacity", box=(10.4, 20.5, 99.6, 90))
WRITTEN = "<box>10, 20, 100, 90</box>"


def reply(value, **more) -> Completion:
    text = value if isinstance(value, str) else json.dumps(value)
    return Completion(text=text, **({"finish": "stop"} | more))


def faults(step: str, item, value, **more) -> list[str]:
    """Kinds of what is wrong with an answer."""
    _, found = judge(get_step(step), item, reply(value, **more))
    return [fault.partition(":")[0] for fault in found]


@pytest.mark.parametrize(
    "text",
    [
        "The effusion is unchanged.",
        "No interval change.",
        "No significant change in the heart.",
        "As compared to the prior film, the lungs are clear.",
        "In comparison with ___, better aerated.",
        "Stable cardiomegaly.",
        "No new consolidation.",
        "A newly placed line.",
        "Again seen is a nodule.",
        "Re-demonstrated fracture.",
        "The heart remains enlarged.",
        "Persistent opacity at the base.",
        "Continued left effusion.",
        "Improved aeration, worsening oedema.",
        "The pneumothorax has resolved.",
        "Oedema is increasing.",
        "The effusion has slightly increased.",
        "It has increased in size.",
        "Opacity no longer seen.",
        "Still present at the left base.",
        "The tube has been removed.",
        "A drain was placed.",
        "Similar in appearance to before.",
        "The heart is now normal.",
        "On the current study, no effusion.",
        "Since the last film it grew.",
        "Follow-up is advised.",
        "Examination of 12/03/2019.",
        "Known since ___.",
        "UNCHANGED\nPREVIOUSLY",
        "Residual effusion.",
        "Non-resolving pneumonia.",
    ],
)
def test_words_of_time_are_found(text):
    assert prior_phrases(text)


@pytest.mark.parametrize(
    "text",
    [
        "Degenerative changes in the thoracic spine.",
        "Emphysematous changes, post-surgical changes, and pleural change.",
        "The right lung is dense compared to the left lung.",
        "Opacities are worse on the right.",
        "Right greater than left, right worse than left.",
        "A persistent left superior vena cava.",
        "The tube continues below the diaphragm.",
        "Limited resolution of the image; low-resolution detail.",
        "Residual barium in the colon.",
        "Evidence of prior granulomatous disease and previous sternotomy.",
        "Increased interstitial markings and increased density.",
        "The remaining lung is clear; the remainder of the chest is normal.",
        "Leans against the wall; a renewed look; a continuous diaphragm.",
        "Unstable fracture. The heart is enlarged.",
        "Since the heart is large, the lung is hard to see.",
        "Decreased lung volumes. Clear lungs.",
        "The box is 12, 13, 14, 15. A ratio of 0.5.",
        "Chronic obstructive disease; old healed fractures.",
    ],
)
def test_words_that_only_look_like_time_are_not(text):
    assert prior_phrases(text) == []


def test_views_history_and_source_are_found_and_their_likes_are_not():
    for text in ("PA and lateral views show", "AP portable chest radiograph", "A frontal film."):
        assert view_phrases(text), text
    for text in ("The lateral costophrenic angle", "frontal scalp", "The left lung is clear."):
        assert view_phrases(text) == [], text
    for text in ("History of cancer.", "Status post surgery", "A 64-year-old man", "s/p CABG"):
        assert history_phrases(text), text
    assert history_phrases("Unknown mass; an unindicated bypass.") == []
    for text in ("The report says so.", "according to the labels", "The ground truth is"):
        assert source_phrases(text), text
    assert source_phrases("Would you write a report? The heart is reported by its border.") == []


@pytest.mark.parametrize("name", STEPS)
def test_worked_examples_pass_the_step_s_own_checks(name):
    """And so hold none of the words that they forbid."""
    prompt, step = read_prompt(name), get_step(name)
    assert prompt.version == sha256(FOLDER / f"{name}.md")
    assert "## Example" not in prompt.text
    assert (FOLDER / f"{name}.md").read_text().count("## Example") == len(prompt.examples)
    assert bool(prompt.examples) == (name != "reasoning")  # it would need an image
    for given, answer in prompt.examples:
        item = step.item.model_validate(given | {"id": "a", "source": "b"})
        step.check([item])
        assert judge(step, item, reply(answer))[1] == []


def test_every_prompt_is_a_step_s():
    assert sorted(path.stem for path in FOLDER.iterdir()) == sorted(STEPS)


def test_a_report_is_filtered_once_and_null_is_no_word():
    item = ReportItem(
        id="a", source="s", report="No rib is broken. Stable cardiomegaly. A known mass."
    )
    assert faults("filter", item, {"report": "None of the ribs is broken."}) == []
    assert faults("filter", item, {"report": None}) == []
    for blank in (" ", "None.", "N/A", "Cardiomegaly."):
        assert faults("filter", item, {"report": blank}) == ["empty"]
    assert faults("filter", item, {"report": "Stable heart."}) == ["prior"]
    assert faults("filter", item, {"report": "AP view. Known mass."}) == ["view", "history"]
    assert faults("filter", item, {"report": "The heart is large. " * 9}) == ["longer"]
    assert faults("filter", item, "None") == ["json"]
    assert faults("filter", item, "null") == ["form"]
    assert faults("filter", item, {"report": "A.", "more": 1}) == ["form"]
    assert faults("filter", item, '```json\n{"report": null}\n```') == []
    assert faults("filter", item, {"report": None}, finish="length") == ["length"]
    assert faults("filter", item, "", refusal="I may not") == ["refusal"]
    assert faults("filter", item, "", finish="content_filter") == ["refusal"]


SOURCE = """1. Compared to ___, the moderate left effusion has increased; no right effusion.
2. The endotracheal tube has been removed. Bibasilar opacites, likely atelectasis, pneumonia
cannot be excluded. Unchanged cardiomegaly. No pneumothorax. Earlier oedema has resolved."""


@pytest.mark.parametrize(
    ("said", "kinds"),
    [
        ("Moderate left effusion; no right effusion.", []),
        ("Moderate left effusion. Cardiomegaly. No pneumothorax.", []),
        ("Bibasilar opacities, likely atelectasis.", []),  # a corrected word
        ("The heart is enlarged. Possible pneumonia.", []),
        ("No right effusion.", []),  # what is left out is no fault
        ("No pulmonary oedema.", []),
        ("No effusion on either side.", []),  # the source has both
        ("No cardiomegaly.", ["flipped: Cardiomegaly"]),
        ("The heart size is normal.", ["flipped: Cardiomegaly"]),
        ("Bibasilar atelectasis.", ["invented: Atelectasis"]),  # only suspected
        ("There is a pneumothorax.", ["invented: Pneumothorax"]),  # denied
        ("Mild pulmonary oedema.", ["invented: Edema"]),  # it was
        ("An endotracheal tube lies well.", ["invented: Support Devices"]),
        ("Rib fracture, lung nodule.", ["invented: Fracture, Lung Lesion"]),
        ("No cardiomegaly. Nodule.", ["invented: Lung Lesion", "flipped: Cardiomegaly"]),
    ],
)
def test_a_filtered_report_finds_what_its_source_finds(said, kinds):
    item = ReportItem(id="a", source="s", report=SOURCE)
    found = judge(get_step("filter"), item, reply({"report": said}))[1]
    assert [fault.partition(";")[0] for fault in found] == kinds


def test_a_finding_that_turns_round_is_asked_for_again_within_the_bound(tmp_path):
    item = ReportItem(id="s/1", source="s", report=SOURCE)
    wrong, right = "The heart is normal.", "Cardiomegaly. No pneumothorax."
    for texts, done in (([wrong, right], 1), ([wrong] * 3, 0)):
        server, left = LlmServer(), list(texts)

        def answer(handler, _, left=left) -> None:
            message = {"content": json.dumps({"report": left.pop(0)})}
            handler.send(200, json.dumps({"choices": [{"message": message}]}).encode())

        server.reply = answer
        with server:
            summary, rows = run(tmp_path / str(done), section(server.url), "filter", [item])
        assert (left, summary.done, len(rows)) == ([], done, done)
        assert summary.reasons == {"flipped": 3 - 2 * done}
        asked = server.bodies[1]["messages"][-1]["content"]
        assert "- flipped: Cardiomegaly" in asked


def test_a_report_that_loses_sentences_invents_and_flips_nothing():
    item, sentences = ReportItem(id="a", source="s", report=SOURCE), SENTENCE.split(SOURCE)
    for size in range(1, len(sentences) + 1):
        for kept in combinations(sentences, size):
            found = faults("filter", item, {"report": " ".join(kept)})
            assert not {"invented", "flipped"} & set(found)


def test_a_study_is_filtered_once_from_its_source_s_own_text():
    film = Film(
        source="mimic", image_id="i1", study_id="s1", patient_id="p", split="train", path="x.jpg"
    )
    films = [
        film.model_copy(update={"report": {"findings": " ", "impression": "Clear.\nNo fluid."}}),
        film.model_copy(update={"image_id": "i2", "report": {"findings": "Other."}}),
        film.model_copy(update={"study_id": "s2"}),
        film.model_copy(
            update={"study_id": "s3", "report": {"findings": "F.", "impression": "I."}}
        ),
    ]
    assert [(one.id, one.report) for one in report_items(films)] == [
        ("mimic/s1", "Clear.\nNo fluid."),
        ("mimic/s3", "F."),
    ]


def turns(*texts: str) -> dict:
    roles = ("user", "assistant")
    return {"turns": [{"role": roles[n % 2], "text": text} for n, text in enumerate(texts)]}


def test_the_form_of_a_conversation():
    item = ConversationItem(id="a", source="s", report="Opacity.", regions=(BOX,))
    said = ["Where is it?", f"Here: {WRITTEN}.", *["And?", "Nothing."] * 4]
    assert faults("conversation_grounded", item, turns(*said)) == []
    assert faults("conversation_grounded", item, turns(*said[:8])) == ["form"]  # four rounds
    assert faults("conversation_grounded", item, turns(*said, *said, "And?", "No.")) == ["form"]
    assert faults("conversation_grounded", item, turns(*said, "And?")) == ["turns"]
    swapped = turns(*said)
    swapped["turns"] = swapped["turns"][1:] + swapped["turns"][:1]
    assert faults("conversation_grounded", item, swapped) == ["turns"]
    assert faults("conversation_grounded", item, turns(*["A.", "B."] * 5)) == ["no box"]
    for extra, kind in (
        ("<box>10, 20, 100, 91</box>", "box"),
        ("<box>10,20,100,90</box>", "box form"),
        ("[10, 20, 100, 90]", "box form"),
        ("(0.1, 0.2, 0.3, 0.4)", "box form"),
        ("<box>", "box form"),
        ("It is unchanged.", "prior"),
        ("The report says so.", "source"),
    ):
        assert faults("conversation_grounded", item, turns(*said[:-1], extra)) == [kind], extra
    plain = item.model_copy(update={"regions": ()})
    assert faults("conversation", plain, turns(*said)) == ["box"]
    assert faults("conversation", plain, turns(*["A.", "B."] * 5)) == []


def test_boxes_are_written_in_whole_pixels():
    assert BOX.text == WRITTEN
    assert malformed_boxes(f"At {WRITTEN}, 3 of 4 (1, 2, 3).") == []


@pytest.fixture
def trace(tmp_path) -> RationaleItem:
    path = tmp_path / "film.png"
    Image.new("L", (8, 8), 77).save(path)
    asked = "Where is the opacity?"
    return RationaleItem(id="a", source="s", image=path, question=asked, answer=f"At {WRITTEN}.")


def test_a_trace_ends_in_the_truth(trace):
    seen = "I look at both lungs first. " * 5
    assert faults("reasoning", trace, {"reasoning": seen, "answer": f"At\n{WRITTEN}."}) == []
    for answer in ("At <box>1, 2, 3, 4</box>.", "Elsewhere.", f"At {WRITTEN}"):
        assert faults("reasoning", trace, {"reasoning": seen, "answer": answer}) == ["answer"]
    for words, kind in (
        ("Short.", "short"),
        (f"{seen} </think>", "tags"),
        (f"{seen} As given, it is there.", "source"),
        (f"{seen} It is stable.", "prior"),
        (f"{seen} <box>1, 2, 3, 4</box>", "box"),
    ):
        value = {"reasoning": words, "answer": trace.answer}
        assert faults("reasoning", trace, value) == [kind], words


@pytest.mark.parametrize(
    ("step", "change", "found"),
    [
        ("filter", {"report": " "}, "empty report"),
        ("conversation", {"regions": (BOX,)}, "has boxes"),
        ("conversation", {"report": None}, "neither report nor labels"),
        ("conversation_grounded", {}, "has no boxes"),
        ("conversation_sentences", {"regions": (BOX,)}, "only sentences"),
    ],
)
def test_an_item_that_is_not_the_step_s_is_an_error(step, change, found):
    kind = ReportItem if step == "filter" else ConversationItem
    item = kind(id="s/1", source="s", report="R.").model_copy(update=change)
    with pytest.raises(DataError, match=found) as error:
        get_step(step).check([item])
    assert "s/1" in str(error.value)


def test_an_id_that_is_there_twice_and_an_unknown_step_are_errors():
    item = ReportItem(id="s/1", source="s", report="R.")
    with pytest.raises(DataError, match="twice"):
        get_step("filter").check([item, item])
    with pytest.raises(DataError, match="is a ReportItem"):
        get_step("reasoning").check([item])
    with pytest.raises(ConfigError, match="no 'summary'"):
        get_step("summary")


def test_what_is_not_known_is_not_said():
    step, prompt = get_step("conversation_sentences"), read_prompt("conversation_sentences")
    item = ConversationItem(id="p/1", source="padchest", regions=(BOX,))
    asked = question(step, prompt, item)[-1]["content"]
    assert asked == f"Box: opacity: {WRITTEN}"


def run(work: Path, config, step, asked):
    output = work / "out.parquet"
    summary = run_step(config, step, asked, work / "cache", output, work / "rejects.parquet")
    return summary, read_rows(output)


def test_an_image_is_sent_whole_or_by_its_path_and_asked_about_once(trace, tmp_path):
    with LlmServer() as server:
        first, rows = run(tmp_path, section(server.url), "reasoning", [trace])
        moved = trace.image.with_name("moved.png")
        trace.image.rename(moved)
        same = trace.model_copy(update={"image": moved})
        again, _ = run(tmp_path, section(server.url, images="file"), "reasoning", [same])
        Image.new("L", (8, 8), 78).save(moved)
        other, _ = run(tmp_path, section(server.url, images="file"), "reasoning", [same])
    assert (first.asked, again.asked, other.asked) == (1, 0, 1)
    assert json.loads(rows[0]["result"])["answer"] == trace.answer
    urls = [body["messages"][-1]["content"][0]["image_url"]["url"] for body in server.bodies]
    assert urls[0].startswith("data:image/png;base64,")
    assert urls[1] == moved.as_uri()


def test_another_prompt_is_another_question(tmp_path):
    item = ReportItem(id="s/1", source="s", report="Heart large.")
    with LlmServer() as server:
        _, rows = run(tmp_path, section(server.url), "filter", [item])
        assert rows[0]["prompt"] == sha256(FOLDER / "filter.md")
        changed = tmp_path / "prompts"
        changed.mkdir()
        (changed / "filter.md").write_text((FOLDER / "filter.md").read_text() + "\n")
        reworded = replace(get_step("filter"), prompts=changed)
        summary, other = run(tmp_path, section(server.url), reworded, [item])
        assert run(tmp_path, section(server.url, temperature=0.1), "filter", [item])[0].asked == 1
        assert run(tmp_path, section(server.url), "filter", [item])[0].asked == 0
    assert summary.asked == 1
    assert other[0]["prompt"] != rows[0]["prompt"]


def test_no_items_make_empty_tables(tmp_path):
    with LlmServer() as server:
        summary, rows = run(tmp_path, section(server.url), "filter", [])
    assert (summary.done, rows, server.bodies) == (0, [], [])


@pytest.mark.parametrize(
    ("endpoint", "found"),
    [
        ({"base_url": None}, "either base_url or serve"),
        ({"serve": {"path": "m"}}, "either base_url or serve"),
        ({"base_url": "localhost:8000/v1"}, "http://"),
        ({"base_url": "http://localhost@example.org/v1"}, "no user"),
        ({"kind": "azure"}, "azure needs"),
    ],
)
def test_an_endpoint_that_cannot_be_is_refused(endpoint, found):
    url = endpoint.pop("base_url", "http://localhost/v1")
    with pytest.raises(ValueError, match=found):
        section(url, endpoint)
