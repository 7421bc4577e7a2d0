"""Where is it: a part of the body, an abnormality, or what a sentence of a report describes."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from medtune.metrics.boxes import measure_boxes
from medtune.models.box_format import BoxFormat
from medtune.records.sample import Sample
from medtune.tasks.base import InvalidAnswerError
from medtune.tasks.chest.boxes import (
    WHOLE,
    check_once,
    geometry_of,
    median_box,
    pixel,
    place,
    read_boxes,
    scaled,
    shares,
    strip_boxes,
)
from medtune.tasks.chest.part import ChestAnswer, Claim
from medtune.tasks.chest.templates import asked, capital, choose_template, listed, plain


@dataclass(frozen=True)
class Grounding:
    """One of the three tasks that ask for the boxes of something named.

    Attributes:
        key: Which entry of a truth names it: name or phrase.
        requests: Wordings of the question, with `{name}`.
        answers: Wordings of the answer, with `{boxes}` and, where it is no phrase, `{name}`.
    """

    name: str
    key: str
    example: Claim
    requests: tuple[str, ...]
    answers: tuple[str, ...]
    answer_format: str
    writes_boxes: bool = True
    reasons: bool = True
    scores: tuple[str, ...] = ("soft_f1", "f1_50", "mean_iou")

    def _named(self, truth: Claim) -> str:
        name: str = truth[self.key]
        return plain(name) if self.key == "name" else name

    def question(self, sample_id: str, truth: Claim) -> str:
        """Return the question; its wording derives from the id."""
        return asked(self.requests, sample_id, name=self._named(truth))

    def gold(self, sample: Sample, form: BoxFormat) -> str:
        """Return a sentence with all boxes of the truth."""
        geometry = geometry_of(sample)
        written = listed(dict.fromkeys(form.write(box, geometry) for box in sample.truth["boxes"]))
        answer = choose_template(self.answers, sample.id, "answer")
        return capital(answer.format(name=self._named(sample.truth), boxes=written))

    def thought(self, sample: Sample) -> str:
        """Return in words where the boxes lie."""
        geometry = geometry_of(sample)
        places = listed(dict.fromkeys(place(box, geometry) for box in sample.truth["boxes"]))
        # A phrase of a report may speak of earlier films, which the model must not learn to do.
        named = self._named(sample.truth) if self.key == "name" else "what the sentence describes"
        return f"I look for this: {named}. It lies {places}."

    def parse(self, text: str, sample: Sample, form: BoxFormat) -> ChestAnswer:
        """Return the boxes of a text.

        Raises:
            InvalidAnswerError: It has none, or see `read_boxes` and `strip_boxes`.
        """
        found = read_boxes(text, geometry_of(sample), form)
        strip_boxes(text, found)
        if not found:
            raise InvalidAnswerError("no box")
        boxes = tuple(box for _, _, box in found)
        check_once(boxes)
        return ChestAnswer(boxes=boxes)

    def measure(self, answer: ChestAnswer | None, sample: Sample) -> dict[str, float | None]:
        """Return the agreement of boxes (see `medtune.metrics.boxes`)."""
        found = measure_boxes(answer.boxes if answer else None, sample.truth["boxes"])
        return {name: found[name] for name in self.scores}

    def constant_baseline(self, samples: Sequence[Sample]) -> Callable[[Sample], Claim]:
        """Return the median box of the same name, or of all names where it is new."""
        rows = defaultdict(list)
        for one in samples:
            geometry = geometry_of(one)
            for box in one.truth["boxes"]:
                rows[self._named(one.truth).casefold()].append(shares(box, geometry))
        known = {name: median_box(boxes) for name, boxes in rows.items()}
        other = median_box([box for boxes in rows.values() for box in boxes])

        def claim(sample: Sample) -> Claim:
            box = known.get(self._named(sample.truth).casefold(), other)
            return self._claim(sample, box)

        return claim

    def _claim(self, sample: Sample, box: Sequence[float]) -> Claim:
        named = {self.key: sample.truth[self.key]}
        return named | {"boxes": [scaled(box, geometry_of(sample))]}

    def borrowed(self, other: Sample, sample: Sample) -> Claim:
        """Return the place of another sample's first box."""
        return self._claim(sample, shares(other.truth["boxes"][0], geometry_of(other)))

    def blind(self, typical: Claim, sample: Sample) -> tuple[Claim, Claim]:
        """Return the middle pixel, and the whole picture."""
        return typical | {"boxes": [pixel(geometry_of(sample))]}, self._claim(sample, WHOLE)


WHERE = (
    "Where is the {name}?",
    "Locate the {name}.",
    "Mark the {name} with a box.",
    "Find the {name} and give its position.",
    "Which part of the image shows the {name}?",
    "Give the position of the {name}.",
    "Point out the {name}.",
    "Tell me where the {name} can be seen.",
)
THERE = (
    "the {name} is at {boxes}.",
    "the {name} lies within {boxes}.",
    "here is the {name}: {boxes}.",
    "the position of the {name} is {boxes}.",
    "{boxes} shows the {name}.",
    "the {name} can be seen at {boxes}.",
    "{name}: {boxes}.",
    "the {name} is found at {boxes}.",
)
ANATOMICAL = Grounding(
    name="anatomical_grounding",
    key="name",
    example={"name": "right lung"},
    requests=WHERE,
    answers=THERE,
    answer_format="A sentence with the box of the part of the body that was asked for.",
)
ABNORMALITY = Grounding(
    name="abnormality_grounding",
    key="name",
    example={"name": "nodule"},
    requests=(
        "There are signs of this abnormality: {name}. Where?",
        "A reader has noted {name}. Locate it.",
        "Mark every place that shows {name}.",
        "Where do you see {name}?",
        "Give the position of each finding of this kind: {name}.",
        "Point out the {name}.",
        "Find all signs of {name} and box them.",
        "Which parts of the image show {name}?",
    ),
    answers=(
        "signs of {name} are at {boxes}.",
        "{name} can be seen at {boxes}.",
        "the film shows {name} at {boxes}.",
        "I find {name} at {boxes}.",
        "{name}: {boxes}.",
        "look at {boxes} for {name}.",
        "there is {name} at {boxes}.",
        "the position of {name} is {boxes}.",
    ),
    answer_format="A sentence with one box or more: each place that shows the abnormality.",
)
PHRASE = Grounding(
    name="phrase_grounding",
    key="phrase",
    example={"phrase": "There is a small opacity in the left lung."},
    requests=(
        'A report says: "{name}" Where is that?',
        'Locate what this sentence describes: "{name}"',
        'Which part of the image does this refer to: "{name}"',
        'Mark the finding: "{name}"',
        'Find the place that these words are about: "{name}"',
        'Where can this be seen: "{name}"',
        'Show what is meant by "{name}"',
        'Give the position of this finding: "{name}"',
    ),
    answers=(
        "this is seen at {boxes}.",
        "the sentence describes {boxes}.",
        "look at {boxes}.",
        "the finding lies within {boxes}.",
        "here: {boxes}.",
        "it refers to {boxes}.",
        "the place is {boxes}.",
        "{boxes} shows it.",
    ),
    answer_format="A sentence with one box or more: what the given phrase describes.",
)
