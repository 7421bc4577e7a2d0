"""The steps: what is asked for an item, and what is wrong with an answer."""

import difflib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from medtune.llm.client import Completion
from medtune.metrics.labeler import read_labels, read_mentions
from medtune.records.special_tokens import special_in
from medtune.runtime.errors import ConfigError, DataError
from medtune.sources.chest.prior_phrases import (
    history_phrases,
    prior_phrases,
    source_phrases,
    view_phrases,
)
from medtune.tasks.chest.templates import has_words
from medtune.texts.items import (
    Answer,
    Conversation,
    ConversationItem,
    FilteredReport,
    Item,
    Rationale,
    RationaleItem,
    ReportItem,
    boxes_in,
    malformed_boxes,
)
from medtune.texts.prompt_files import FOLDER

StepName = Literal[
    "filter", "conversation", "conversation_grounded", "conversation_sentences", "reasoning"
]
# A filtered report may be longer than its source by a corrected word, not by an invented sentence.
GROWTH, SLACK = 1.2, 40
SHORTEST_REASONING = 20  # words
ALIKE, SHORTEST_MISSPELT = 0.85, 6  # two spellings of a word; letters
NOTHING = re.compile(r"\W*(none|null|nothing|empty|n/?a|not applicable)\W*", re.IGNORECASE)


@dataclass(frozen=True)
class Step:
    """A step.

    Attributes:
        name: Of the step and its prompt.
        item: What it is given.
        answer: What must come back.
        shown: Text of an item, as it is sent.
        faults: What is wrong with an answer, each as `kind: what`.
        refused: What is wrong with an item, or None.
        prompts: Folder of its prompt.
    """

    name: str
    item: type[Item]
    answer: type[Answer]
    shown: Callable[[Any], str]
    faults: Callable[[Any, Any], list[str]]
    refused: Callable[[Any], str | None] = lambda _: None
    prompts: Path = FOLDER

    def check(self, items: Sequence[Item]) -> None:
        """Check that the items are this step's.

        Raises:
            DataError: One is not, or an id is there twice.
        """
        seen = set()
        for one in items:
            wrong = None if isinstance(one, self.item) else f"is a {type(one).__name__}"
            wrong = wrong or self.refused(one) or ("is there twice" if one.id in seen else None)
            if wrong:
                raise DataError(one.id, f"{wrong}; step {self.name}", "give it a sound item")
            seen.add(one.id)


def get_step(name: StepName) -> Step:
    """Return a step by name.

    Raises:
        ConfigError: There is none.
    """
    if name == "filter":
        return Step(name, ReportItem, FilteredReport, _show_report, _report_faults, _empty)
    if name == "conversation":
        return Step(name, ConversationItem, Conversation, _show_known, _plain_faults, _no_boxes)
    if name == "conversation_grounded":
        return Step(name, ConversationItem, Conversation, _show_known, _grounded_faults, _boxes)
    if name == "conversation_sentences":
        # Of PadChest: English sentences with boxes. Its reports are Spanish, and not wanted here.
        refused = _sentences
        return Step(name, ConversationItem, Conversation, _show_known, _grounded_faults, refused)
    if name == "reasoning":
        return Step(name, RationaleItem, Rationale, _show_question, _trace_faults, _no_image)
    raise ConfigError("step", f"there is no {name!r}", "see StepName in medtune/texts/steps.py")


def judge(step: Step, item: Item, reply: Completion) -> tuple[Answer | None, list[str]]:
    """Return the answer that a reply holds, or None and what is wrong with it."""
    if reply.finish == "content_filter":
        return None, ["refusal: the endpoint's filter"]
    if reply.refusal:
        return None, [f"refusal: {reply.refusal}"]
    if reply.finish == "length":
        return None, ["length: the answer was cut off; answer more briefly"]
    try:
        answer = step.answer.model_validate(json.loads(_unfenced(reply.text), strict=False))
    except ValidationError as error:
        return None, [
            f"form: {'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()
        ]
    except ValueError:
        return None, ["json: the answer is not one JSON object and nothing else"]
    faults = step.faults(item, answer)
    return (None, faults) if faults else (answer, [])


def _unfenced(text: str) -> str:
    """Return JSON without the fence that models like to put around it."""
    text = text.strip()
    if text.startswith("```") and text.endswith("```"):
        text = text.removeprefix("```").removeprefix("json").removesuffix("```")
    return text


def _show_report(item: ReportItem) -> str:
    return f"Report:\n{item.report.strip()}"


def _show_known(item: ConversationItem) -> str:
    """Return what is known of an image, a line for each fact; what is not known is left out."""
    lines = [f"View: {item.view}"] * bool(item.view) + [f"Sex: {item.sex}"] * bool(item.sex)
    lines += [f"Report: {item.report.strip()}"] if item.report else []
    for presence in ("present", "absent", "uncertain"):
        names = sorted(name for name, found in item.labels.items() if found == presence)
        lines += [f"Labels {presence}: {', '.join(names)}"] if names else []
    return "\n".join([*lines, *(f"Box: {one.name}: {one.text}" for one in item.regions)])


def _show_question(item: RationaleItem) -> str:
    return f"Question: {item.question}\nTrue answer: {item.answer}"


def _empty(item: ReportItem) -> str | None:
    return None if item.report.strip() else "has an empty report"


def _no_boxes(item: ConversationItem) -> str | None:
    if item.regions:
        return "has boxes: that is step conversation_grounded"
    return None if item.report or item.labels else "has neither report nor labels"


def _boxes(item: ConversationItem) -> str | None:
    return None if item.regions else "has no boxes"


def _sentences(item: ConversationItem) -> str | None:
    return "has a report: only sentences are wanted" if item.report else _boxes(item)


def _no_image(item: RationaleItem) -> str | None:
    return None if item.image.is_file() else f"has no image at {item.image}"


def _named(kind: str, phrases: Sequence[str], advice: str = "") -> list[str]:
    return [f"{kind}: {', '.join(phrases)}{advice}"] if phrases else []


def _report_faults(item: ReportItem, answer: FilteredReport) -> list[str]:
    if answer.report is None:
        return []
    blank = NOTHING.fullmatch(answer.report) or not has_words(answer.report)
    faults = ["empty: give null where nothing is left to say, else a sentence"] if blank else []
    if len(answer.report) > GROWTH * len(item.report) + SLACK:
        faults.append("longer: it is longer than the report; add nothing")
    return [
        *faults,
        *_finding_faults(item.report, answer.report),
        *_named("prior", prior_phrases(answer.report)),
        *_named("view", view_phrases(answer.report)),
        *_named("history", history_phrases(answer.report)),
        *_named("special token", special_in([answer.report])),
    ]


def _finding_faults(source: str, filtered: str) -> list[str]:
    """Return the findings that a filtered report has, and its source has not, or the reverse.

    What is left out is no fault, and neither is a denial of what the source has both ways, such as
    a finding of an earlier film.
    """
    said: dict[str, set[str]] = {}
    for label, found in read_mentions(_spelt_as(source, filtered)):
        said.setdefault(label, set()).add(found.status)
    invented, flipped = [], []
    for label, found in sorted(read_labels(filtered).items()):
        if found.status == "present" and "present" not in said.get(label, ()):
            invented.append(label)
        if found.status == "absent" and said.get(label) == {"present"}:
            flipped.append(label)
    told = _named("invented", invented, "; say it in the report's own words, or not at all")
    return told + _named("flipped", flipped, "; the report says it is there")


def _spelt_as(source: str, filtered: str) -> str:
    """Return the source with its misspelt words as the filtered report, which corrects them."""
    words = sorted(set(re.findall(r"[a-z]+", filtered.lower())))

    def spelt(match: re.Match[str]) -> str:
        word = str(match.group())
        if len(word) < SHORTEST_MISSPELT or word in words:
            return word
        like = [one for one in words if one[0] == word[0]]  # "abnormal" is no slip for "normal"
        return str((difflib.get_close_matches(word, like, 1, ALIKE) or [word])[0])

    return re.sub(r"[a-z]+", spelt, source.lower())


def _box_faults(text: str, given: Sequence[str]) -> list[str]:
    invented = sorted(set(boxes_in(text)) - set(given))
    return _named("box", invented) + _named("box form", malformed_boxes(text))


def _plain_faults(item: ConversationItem, answer: Conversation) -> list[str]:
    """Return what is wrong with a conversation; boxes that are not the item's are."""
    turns = answer.turns
    order = [turn.role for turn in turns] != ["user", "assistant"] * (len(turns) // 2)
    faults = ["turns: user and assistant must alternate, user first"] if order else []
    text = "\n".join(turn.text for turn in turns)
    return [
        *faults,
        *_box_faults(text, [one.text for one in item.regions]),
        *_named("prior", prior_phrases(text)),
        *_named("source", source_phrases(text)),
        *_named("special token", special_in([text])),
    ]


def _grounded_faults(item: ConversationItem, answer: Conversation) -> list[str]:
    answers = [turn.text for turn in answer.turns if turn.role == "assistant"]
    shown = any(boxes_in(text) for text in answers)
    missing = [] if shown else ["no box: at least one answer must hold a box"]
    return [*missing, *_plain_faults(item, answer)]


def _trace_faults(item: RationaleItem, answer: Rationale) -> list[str]:
    """Return what is wrong with a trace; it must end in the truth, word for word."""
    faults = []
    if " ".join(answer.answer.split()) != " ".join(item.answer.split()):
        faults.append("answer: it must be the true answer, word for word")
    if len(answer.reasoning.split()) < SHORTEST_REASONING:
        faults.append(f"short: the reasoning needs at least {SHORTEST_REASONING} words")
    if "think>" in answer.reasoning:
        faults.append("tags: no tags in the reasoning")
    return [
        *faults,
        *_box_faults(answer.reasoning, boxes_in(item.answer)),
        *_named("prior", prior_phrases(answer.reasoning)),
        *_named("source", source_phrases(answer.reasoning)),
        *_named("special token", special_in([answer.reasoning])),
    ]
