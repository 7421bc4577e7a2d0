"""What a step is given for each item, and what the model must answer.

Items hold what is sent and nothing that names a patient; `id` is not sent. Boxes are in pixels of
the stored image.
"""

import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from medtune.models.box_format import round_span
from medtune.records.film import Film, LabelState, PixelBox

SECTIONS = ("findings", "impression", "last_paragraph")
_BOX = re.compile(r"<box>\d+, \d+, \d+, \d+</box>")
# Anything that looks like a box and is none: tags, and lists of four numbers.
_NEARLY = re.compile(r"</?box>?|[\[(]\s*-?\d[\d.]*(\s*,\s*-?\d[\d.]*){3}\s*[\])]", re.IGNORECASE)


class NamedBox(BaseModel):
    """A box `[x1, y1, x2, y2]` and what is in it."""

    model_config = ConfigDict(frozen=True)

    name: str
    box: PixelBox

    @property
    def text(self) -> str:
        """Return the box as texts write it: `<box>x1, y1, x2, y2</box>` in whole pixels."""
        left, top, right, bottom = self.box
        x1, x2 = round_span(left, right, math.ceil(right))
        y1, y2 = round_span(top, bottom, math.ceil(bottom))
        return f"<box>{x1}, {y1}, {x2}, {y2}</box>"


class Item(BaseModel):
    """What is asked about.

    Attributes:
        id: Names it in tables; it is not sent.
        source: Whose data it holds.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    source: str


class ReportItem(Item):
    """A report to filter; `id` is `<source>/<study>`.

    Attributes:
        report: As the source has it, unfiltered.
    """

    report: str


class ConversationItem(Item):
    """What is known of an image, to make a conversation of.

    Attributes:
        report: The filtered report; None where there is none.
        labels: What is known of the labels.
        regions: Boxes that may be spoken of.
        view: As the source writes it.
        sex: Of the patient.
    """

    report: str | None = None
    labels: dict[str, LabelState] = {}
    regions: tuple[NamedBox, ...] = ()
    view: str | None = None
    sex: Literal["female", "male"] | None = None


class RationaleItem(Item):
    """A question about an image with its answer, to which the reasoning is wanted.

    Attributes:
        image: The stored image.
        question: As it is put to the model that will learn.
        answer: The truth, as text; its boxes are in pixels of the stored image.
    """

    image: Path
    question: str
    answer: str


class Answer(BaseModel):
    """What must come back."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class FilteredReport(Answer):
    """A report without what the image does not show; None: nothing is left to say."""

    report: str | None


class Message(Answer):
    """One turn of a conversation."""

    role: Literal["user", "assistant"]
    text: str = Field(min_length=1)


class Conversation(Answer):
    """A conversation of 5 to 10 rounds."""

    turns: list[Message] = Field(min_length=10, max_length=20)


class Rationale(Answer):
    """What is seen, step by step, and the answer it leads to."""

    reasoning: str = Field(min_length=1)
    answer: str = Field(min_length=1)


def report_items(films: Iterable[Film]) -> list[ReportItem]:
    """Return the reports of films, one for each study: its first section that says anything.

    They are read from the source's own films, so that a second run never filters filtered text.
    """
    items: dict[str, ReportItem] = {}
    for film in films:
        key = f"{film.source}/{film.study_id}"
        said = [film.report[name] for name in SECTIONS if film.report.get(name, "").strip()]
        if said and key not in items:
            items[key] = ReportItem(id=key, source=film.source, report=said[0])
    return list(items.values())


def boxes_in(text: str) -> list[str]:
    """Return the boxes of a text, as they are written."""
    return _BOX.findall(text)


def malformed_boxes(text: str) -> list[str]:
    """Return what looks like a box in a text and is none."""
    return [match.group() for match in _NEARLY.finditer(_BOX.sub("", text))]
