"""Are there abnormalities, and where: all of them by name, or none."""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from medtune.metrics.boxes import measure_boxes
from medtune.metrics.labeler import is_normal_report, read_labels
from medtune.models.box_format import BoxFormat
from medtune.records.sample import Sample
from medtune.tasks.base import InvalidAnswerError
from medtune.tasks.chest.abnormality_classification import DEVICES
from medtune.tasks.chest.boxes import (
    WHOLE,
    Placed,
    check_once,
    geometry_of,
    median_box,
    place,
    read_boxes,
    scaled,
    shares,
    strip_boxes,
)
from medtune.tasks.chest.part import ChestAnswer, Claim
from medtune.tasks.chest.templates import asked, capital, choose_template, listed, plain

REQUESTS = (
    "Are there abnormalities? If so, where?",
    "Find every abnormality, name it and mark it with a box.",
    "What is abnormal, and at which place?",
    "List all abnormal findings with their positions.",
    "Search the film for abnormalities and locate each.",
    "Name and box whatever is not normal.",
    "Which abnormalities can be seen, and where are they?",
    "Mark all abnormal areas and say what they are.",
)
NOTHING = (
    "No abnormality is seen.",
    "There is nothing abnormal on this film.",
    "I find no abnormality.",
    "The film is normal.",
    "Nothing abnormal can be marked.",
    "This film shows no abnormal finding.",
)
PREFIXES = (
    "The film shows these abnormalities: {}.",
    "I find: {}.",
    "Abnormal findings: {}.",
    "What is abnormal: {}.",
    "These places are abnormal: {}.",
    "There are abnormalities: {}.",
)
# What may stand between two boxes of one finding, and around a finding's name.
BETWEEN = re.compile(r"\s*(,|and|,\s*and)?\s*")
BEFORE_NAME = re.compile(
    r"^(\s|,|-|\*|\band\b|\b(an?|the|also|there is|there are)\b)+", re.IGNORECASE
)
AFTER_NAME = re.compile(
    r"(\s|,|:|-|\b(is|are|seen|found|located|lies?|at|in|within|the|coordinates|position)\b)+$",
    re.IGNORECASE,
)
LONGEST = 80  # characters of a name


class AbnormalityDetection:
    """The task `abnormality_detection`."""

    name = "abnormality_detection"
    answer_format = "Each abnormality by name with its boxes, or a sentence that there is none."
    writes_boxes = True
    reasons = True
    scores = ("soft_f1", "f1_50", "mean_iou", "normal_correct")

    @property
    def example(self) -> Claim:
        """A truth that is nobody's."""
        return {"findings": []}

    def question(self, sample_id: str, truth: Claim) -> str:
        """Return the question; its wording derives from the id, and the truth does not matter."""
        del truth
        return asked(REQUESTS, sample_id)

    def gold(self, sample: Sample, form: BoxFormat) -> str:
        """Return a sentence that lists the findings, those of one name together."""
        groups = self._groups(sample.truth["findings"])
        if not groups:
            return choose_template(NOTHING, sample.id, "answer")
        geometry = geometry_of(sample)
        parts = [
            f"{name} at {listed(dict.fromkeys(form.write(box, geometry) for box in boxes))}"
            for name, boxes in groups.items()
        ]
        return choose_template(PREFIXES, sample.id, "answer").format("; ".join(parts))

    @staticmethod
    def _groups(findings: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
        groups = defaultdict(list)
        for finding in findings:
            groups[plain(finding["name"])].append(finding["box"])
        return {name: groups[name] for name in sorted(groups)}

    def thought(self, sample: Sample) -> str:
        """Return in words what lies where."""
        geometry, groups = geometry_of(sample), self._groups(sample.truth["findings"])
        if not groups:
            return "I look at lungs, pleura, heart, mediastinum and bones, and find all normal."
        said = [
            f"{capital(name)} lies {listed(dict.fromkeys(place(box, geometry) for box in boxes))}."
            for name, boxes in groups.items()
        ]
        return " ".join(["I look at lungs, pleura, heart, mediastinum and bones.", *said])

    def parse(self, text: str, sample: Sample, form: BoxFormat) -> ChestAnswer:
        """Return names and boxes of a text.

        Either JSON, a list of objects with "label" and a box, or clauses that end with boxes: what
        stands before the first box of a clause, back to a colon, semicolon, full stop or line
        break, is the name. A text without boxes must say that nothing is abnormal.

        Raises:
            InvalidAnswerError: None of this, or see `read_boxes` and `strip_boxes`.
        """
        found = read_boxes(text, geometry_of(sample), form)
        left = strip_boxes(text, found)
        if not found:
            said = read_labels(left).items()
            seen = any(one.status != "absent" for name, one in said if name != DEVICES)
            if seen or not is_normal_report(left):
                raise InvalidAnswerError("neither a box nor a statement that nothing is abnormal")
            return ChestAnswer()
        names = _labels(text, len(found)) if "{" in text else _clauses(text, found)
        boxes = tuple(box for _, _, box in found)
        check_once(list(zip(names, boxes, strict=True)))  # two findings may share a box
        return ChestAnswer(boxes=boxes, names=tuple(names))

    def measure(self, answer: ChestAnswer | None, sample: Sample) -> dict[str, float | None]:
        """Return the agreement of boxes of the same name (see `medtune.metrics.boxes`)."""
        findings = sample.truth["findings"]
        boxes, names = (answer.boxes, answer.names) if answer else (None, ())
        true_names = [plain(finding["name"]) for finding in findings]
        truth = [finding["box"] for finding in findings]
        found = measure_boxes(boxes, truth, list(names), true_names)
        return {name: found[name] for name in self.scores}

    def constant_baseline(self, samples: Sequence[Sample]) -> Callable[[Sample], Claim]:
        """Return the most common set of names, each at the median of its boxes."""
        sets: Counter[tuple[str, ...]] = Counter()
        rows: dict[str, list[list[float]]] = defaultdict(list)
        for one in samples:
            geometry = geometry_of(one)
            groups = self._groups(one.truth["findings"])
            sets[tuple(groups)] += 1
            for name, boxes in groups.items():
                rows[name] += [shares(box, geometry) for box in boxes]
        names = max(sorted(sets), key=sets.__getitem__, default=())
        known = {name: median_box(rows[name]) for name in names}

        def claim(sample: Sample) -> Claim:
            geometry = geometry_of(sample)
            boxes = {name: scaled(box, geometry) for name, box in known.items()}
            return {"findings": [{"name": name, "box": box} for name, box in boxes.items()]}

        return claim

    def borrowed(self, other: Sample, sample: Sample) -> Claim:
        """Return another sample's findings at the same places of this picture."""
        here, there = geometry_of(sample), geometry_of(other)
        return {
            "findings": [
                {"name": finding["name"], "box": scaled(shares(finding["box"], there), here)}
                for finding in other.truth["findings"]
            ]
        }

    def blind(self, typical: Claim, sample: Sample) -> tuple[Claim, Claim]:
        """Return no finding, and that the whole picture is one."""
        names = [finding["name"] for finding in typical["findings"]] or ["opacity"]
        box = scaled(WHOLE, geometry_of(sample))
        return {"findings": []}, {"findings": [{"name": names[0], "box": box}]}


def _clauses(text: str, found: Placed) -> list[str]:
    """Return the name before each box.

    Raises:
        InvalidAnswerError: A box has no name.
    """
    names: list[str] = []
    end = 0
    for start, stop, _ in found:
        before = text[end:start]
        if names and BETWEEN.fullmatch(before):
            names.append(names[-1])
        else:
            clause = re.split(r"[;:.\n](?=\s|$)", AFTER_NAME.sub("", before[-3 * LONGEST :]))[-1]
            name = AFTER_NAME.sub("", BEFORE_NAME.sub("", clause)).strip()
            if not 0 < len(name) <= LONGEST or not any(c.isalpha() for c in name):
                raise InvalidAnswerError("a box has no name before it")
            names.append(name)
        end = stop
    return names


def _labels(text: str, count: int) -> list[str]:
    """Return the labels of a JSON list of boxes, in their order.

    Raises:
        InvalidAnswerError: It is no list of that many objects with a label.
    """
    body = re.sub(r"^\s*```(json)?|```\s*$", "", text.strip())
    try:
        entries = json.loads(body)
    except (ValueError, RecursionError):
        raise InvalidAnswerError("braces, but no JSON") from None
    entries = entries if isinstance(entries, list) else [entries]
    labels = [str(entry.get("label", "")).strip() for entry in entries if isinstance(entry, dict)]
    if len(labels) != count or not all(labels):
        raise InvalidAnswerError("not a list of objects with one label and one box each")
    return labels
