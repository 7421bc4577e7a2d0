"""Answers whose form is forgiven: what is read, what is not, and that rewards stay strict."""

import json

import numpy as np
import pytest
from chest_films import film, normal, samples
from evaluated import STAGE, gold, rows_of

from medtune.config.data import TaskConfig
from medtune.evaluation.failures import failures
from medtune.evaluation.reading import marked
from medtune.evaluation.score import Scorer
from medtune.models.coordinate_format import COORDINATE_FORMATS
from medtune.records.sample import iterate, load_split
from medtune.tasks import get_task
from medtune.tasks.lenient import after_reasoning

DIALECT = COORDINATE_FORMATS["qwen2_5_vl"]


@pytest.fixture(scope="module")
def held_out(dataset):
    return list(iterate(load_split(dataset, "test")))


@pytest.fixture(scope="module")
def sick(held_out):
    return next(one for one in held_out if one.truth["bbox_3d"])


def lean(change):
    """A writer of the gold answer with something changed in the object."""
    return lambda text: json.dumps(change(json.loads(text)))


READABLE = {
    "fence": lambda g: f"```json\n{g}\n```",
    "fence without a language": lambda g: f"```\n{g}\n```",
    "fence in capitals, prose around": lambda g: f"Here:\n```JSON\n{g}\n```\nThat is all.",
    "fence that is not closed": lambda g: f"```json\n{g}",
    "prose before": lambda g: "The tumor is here: " + g,
    "prose after": lambda g: g + "\nThis is the whole tumor.",
    "list of one": lean(lambda a: [a]),
    "list of one in a fence": lambda g: f"```json\n[{g}]\n```",
    "in an object": lean(lambda a: {"answer": a}),
    "index as 5.0": lean(lambda a: a | {"peak_slice": float(a["peak_slice"])}),
    "numbers as text": lean(lambda a: a | {k: str(a[k]) for k in ("peak_slice", "tumor_ratio")}),
    "a further key": lean(lambda a: a | {"label": "tumor"}),
    "trailing comma": lambda g: g[:-1] + ",}",
    "Python's quotes": lambda g: str(json.loads(g)),
    "twice": lambda g: f"{g}\n{g}",
    "thinking": lambda g: f"<think>Frame 3? {{}}</think>\n{g}",
    "thinking that began in the prompt": lambda g: f"I look.</think>\n\n{g}",
    "answer tags": lambda g: f"<think>I look.</think><answer>{g}</answer>",
    "a draft in the thinking": lambda g: f"<think>{g.replace('[', '[0')}</think>{g}",
}
UNREADABLE = {
    "nothing": lambda g: "",
    "prose": lambda g: "There is a tumor on the left.",
    "box outside": lean(lambda a: a | {"bbox_3d": [*a["bbox_3d"][:3], 10**4, *a["bbox_3d"][4:]]}),
    "index between frames": lean(lambda a: a | {"peak_slice": a["peak_slice"] + 0.5}),
    "a key is missing": lean(lambda a: {k: a[k] for k in ("bbox_3d", "peak_slice")}),
    "NaN": lean(lambda a: a | {"tumor_ratio": "NaN"}),
    "cut off": lambda g: g[:-3],
    "two different answers": lambda g: g + lean(lambda a: a | {"tumor_ratio": 0.5})(g),
    "thinking that does not end": lambda g: f"<think>Perhaps {g}",
}


@pytest.mark.parametrize("name", READABLE)
def test_a_right_answer_in_another_form_is_read_and_not_rewarded(sick, name):
    text = READABLE[name](gold("qwen2_5_vl")(sick))
    row = Scorer(STAGE, [sick]).score("base", rows_of([sick], lambda _: text))[0]
    assert (row["valid"], row["iou"], row["reward"]) == (0, 0, 0)
    assert (row["readable"], row["iou_lenient"]) == (1, pytest.approx(0.9, abs=0.1))


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_an_answer_states_is_not_forgiven(sick, name):
    text = UNREADABLE[name](gold("qwen2_5_vl")(sick))
    row = Scorer(STAGE, [sick]).score("base", rows_of([sick], lambda _: text))[0]
    assert (row["valid"], row["readable"], row["iou_lenient"], row["reward"]) == (0, 0, 0, 0)


def test_of_valid_answers_both_figures_are_one(held_out):
    rows = Scorer(STAGE, held_out).score("sft", rows_of(held_out, gold("qwen2_5_vl")))
    assert [row["iou"] for row in rows] == [row["iou_lenient"] for row in rows]
    assert {row["readable"] for row in rows} == {None}
    assert failures(rows)["readable"] is None


@pytest.mark.parametrize("reasoning", [False, True])
def test_thinking_and_direct_models_stand_in_one_table(held_out, reasoning):
    task = TaskConfig(chain_of_thought=reasoning)
    evaluation = STAGE.evaluation.model_copy(update={"strip_reasoning": ["thinker", "direct"]})
    stage = STAGE.model_copy(update={"task": task, "evaluation": evaluation})
    scorer, write = Scorer(stage, held_out), gold("qwen2_5_vl")
    tables = {
        "thinker": rows_of(held_out, lambda s: f"<think>The left?</think>\n\n{write(s)}"),
        "direct": rows_of(held_out, write),
        "strict": rows_of(held_out, lambda s: get_task(task).target(s, DIALECT)),
    }
    scored = {
        model: scorer.score(model, rows)
        for model, rows in marked(tables, evaluation.strip_reasoning).items()
    }
    for rows in scored.values():
        assert all(row["valid"] for row in rows)
        assert [row["iou"] for row in rows] == [row["iou"] for row in scored["strict"]]
    # The reward is of what was written: with reasoning asked for, of the strict form alone.
    earned = {model: np.mean([row["reward"] for row in rows]) for model, rows in scored.items()}
    assert earned["thinker"] == 0
    assert bool(earned["direct"] == 0) is reasoning
    assert earned["strict"] > 0.5


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("a", "a"),
        ("<think>x</think> a", "a"),
        ("x</think>y</THINK>a", "a"),
        ("<think>x", ""),
        ("<think>x</think>", ""),
        ("<think>x</think><answer>a</answer> b", "a"),
        ("<answer>a", "a"),
        (
            "<box><x1><y2></box> and <|box|>(1,2)<|/box|>",
            "<box><x1><y2></box> and <|box|>(1,2)<|/box|>",
        ),
    ],
)
def test_what_stands_after_the_last_closing_tag(text, left):
    assert after_reasoning(text) == left


FILM_TEXTS = {
    "thinking": lambda g: f"<think>Heart? Pleural effusion?</think>\n{g}",
    "thinking that began in the prompt": lambda g: f"I look at the heart.</think>\n\n{g}",
    "fence": lambda g: f"```\n{g}\n```",
    "answer tags": lambda g: f"<answer>{g}</answer>",
}


@pytest.mark.parametrize("form", FILM_TEXTS)
@pytest.mark.parametrize("reasoning", [False, True])
def test_answers_about_films_are_read_by_what_stands_after_the_thinking(form, reasoning):
    task = get_task(TaskConfig(name="chest_xray", chain_of_thought=reasoning))
    seen = set()
    for one in [*samples(film()), *samples(normal())]:
        truth = task.direct().target(one, DIALECT)
        right = task.measure(task.direct().judge(truth, one, DIALECT))
        read = task.judge_leniently(FILM_TEXTS[form](truth), one, DIALECT)
        assert task.measure(read) == right, one.task
        seen.add(one.task)
    assert len(seen) >= 5


def test_json_inside_prose_names_the_findings():
    task = get_task(TaskConfig(name="chest_xray"))
    one = next(s for s in samples(film()) if s.task == "abnormality_detection")
    entries = [
        {"bbox_2d": [round(v) for v in finding["box"]], "label": finding["name"]}
        for finding in one.truth["findings"]
    ]
    text = f"I found these:\n```json\n{json.dumps(entries)}\n```\nPlease ask a radiologist."
    assert task.judge(text, one, DIALECT).answer is None
    assert task.measure(task.judge_leniently(text, one, DIALECT))["score"] > 0.9


def test_what_is_stripped_must_be_a_model():
    from pydantic import ValidationError

    from medtune.config.evaluation import EvaluationConfig

    assert EvaluationConfig(strip_reasoning=["base"]).strip_reasoning == ["base"]
    with pytest.raises(ValidationError, match=r"'constant'. are no models: name some of"):
        EvaluationConfig(strip_reasoning=["constant"])
