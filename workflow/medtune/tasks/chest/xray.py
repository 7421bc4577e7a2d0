"""The task `chest_xray`: eight kinds of question about films, told apart by `Sample.task`."""

import heapq
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medtune.config.data import TaskConfig
from medtune.geometry.image import PixelBox
from medtune.geometry.volume import Box
from medtune.models.box_format import PIXEL_BOXES, round_span
from medtune.models.coordinate_format import CoordinateFormat
from medtune.records.sample import Sample
from medtune.rewards.base import Judged, Term, weighted
from medtune.rewards.terms import THINK, thought
from medtune.runtime.errors import ConfigError, DataError
from medtune.runtime.files import sha256_text
from medtune.tasks.base import Center, InvalidAnswerError, Rendered
from medtune.tasks.chest.abnormality_classification import AbnormalityClassification
from medtune.tasks.chest.abnormality_detection import AbnormalityDetection
from medtune.tasks.chest.boxes import (
    CENTER,
    area,
    error_hypotheses,
    geometry_of,
    overlap,
    random_box,
    scaled,
    side,
)
from medtune.tasks.chest.conversation import GROUNDED, PLAIN
from medtune.tasks.chest.grounding import ABNORMALITY, ANATOMICAL, PHRASE
from medtune.tasks.chest.part import ChestAnswer, Claim, Part
from medtune.tasks.chest.report_generation import ReportGeneration
from medtune.tasks.chest.rewards import PRESETS
from medtune.tasks.chest.templates import plain
from medtune.tasks.chest.texts import similarity
from medtune.tasks.lenient import after_reasoning, embedded, fenced

PARTS: dict[str, Part] = {
    part.name: part
    for part in (
        ReportGeneration(),
        AbnormalityClassification(),
        ANATOMICAL,
        ABNORMALITY,
        AbnormalityDetection(),
        PHRASE,
        PLAIN,
        GROUNDED,
    )
}
THINKING = "Reason in <think></think> first, then put the answer into <answer></answer>."
EXAMPLES = 5000  # samples of a task that decide what is typical
THOUGHT = "thought"  # entry of a truth: the reasoning that leads to it, if one was written
BLIND = ("nothing found", "everything found")
Claims = Callable[[Sample, Path], Claim]


@dataclass(frozen=True)
class ChestXray:
    """The task `chest_xray`; see `medtune.tasks.base.Task` for the methods."""

    config: TaskConfig
    name: str = "chest_xray"
    main: str = "score"
    read_leniently: tuple[str, ...] = ("score", *(f"{n}_{p.scores[0]}" for n, p in PARTS.items()))

    @property
    def answer_format(self) -> str:
        """What an answer is, by kind of question."""
        thinking = f" {THINKING}" if self.config.chain_of_thought else ""
        formats = (f"{name}: {part.answer_format}" for name, part in PARTS.items())
        return " ".join(formats) + thinking

    def example(self, sample: Sample) -> str:
        """Return the question of the sample's kind about something that is nobody's."""
        part = part_of(sample)
        return part.question("example", part.example)

    def prompt(self, sample: Sample, dialect: CoordinateFormat) -> str:
        """Return the question with what an answer must look like."""
        form, geometry, part = dialect.picture, geometry_of(sample), part_of(sample)
        said = [form.render(sample.prompt, geometry)]
        if part.writes_boxes and not sample.turns:
            said.append(form.convention(geometry))
        if self._reasons(part):
            said.append(THINKING)
        return " ".join(said)

    def render_history(self, sample: Sample, dialect: CoordinateFormat) -> Sample:
        """Return a sample whose earlier turns have their boxes as a model family writes them."""
        if not sample.turns:
            return sample
        form, geometry = dialect.picture, geometry_of(sample)
        turns = [
            turn.model_copy(
                update={
                    "prompt": form.render(turn.prompt, geometry),
                    "target": form.render(turn.target, geometry),
                }
            )
            for turn in sample.turns
        ]
        if part_of(sample).writes_boxes:
            first = f"{turns[0].prompt} {form.convention(geometry)}"
            turns[0] = turns[0].model_copy(update={"prompt": first})
        return sample.model_copy(update={"turns": tuple(turns)})

    def target(self, sample: Sample, dialect: CoordinateFormat) -> str:
        """Return the gold answer as a model family writes it."""
        part = part_of(sample)
        text = part.gold(sample, dialect.picture)
        if not self._reasons(part):
            return text
        reasoning = sample.truth.get(THOUGHT) or part.thought(sample)
        reasoning = dialect.picture.render(reasoning, geometry_of(sample))
        return f"<think>{reasoning}</think><answer>{text}</answer>"

    def sought(self, sample: Sample) -> tuple[str, list[dict[str, Any]]] | None:
        """Return the name or phrase and its boxes, each with its middle; None: another task."""
        if "boxes" not in sample.truth:
            return None
        truth, size = sample.truth, geometry_of(sample).size
        places = []
        for box in truth["boxes"]:
            (x1, x2), (y1, y2) = (round_span(box[i], box[i + 2], size[i]) for i in (0, 1))
            middle = [(x1 + x2) // 2, (y1 + y2) // 2]
            places.append({"bbox_2d": [x1, y1, x2, y2], "point_2d": middle})
        named = truth["phrase"] if "phrase" in truth else plain(truth["name"])
        return named, [one for n, one in enumerate(places) if one not in places[:n]]

    def _reasons(self, part: Part) -> bool:
        return self.config.chain_of_thought and part.reasons

    def parse(self, text: str, sample: Sample, dialect: CoordinateFormat) -> ChestAnswer:
        """Return the answer that a text states.

        Raises:
            InvalidAnswerError: It is empty, lacks the reasoning form where that is asked for, or is
                no answer to its kind of question.
        """
        body, part = text.strip(), part_of(sample)
        if not body:
            raise InvalidAnswerError("empty")
        if self._reasons(part):
            if thought(body) is None:
                raise InvalidAnswerError("not of the form <think>...</think><answer>...</answer>")
            match = THINK.fullmatch(body)
            assert match is not None
            body = match[2].strip()
        return part.parse(body, sample, dialect.picture)

    def judge(self, text: str, sample: Sample, dialect: CoordinateFormat) -> Judged:
        """Parse a text strictly and put it in front of the sample's truth."""
        try:
            return Judged(text, self.parse(text, sample, dialect), None, sample)
        except InvalidAnswerError as error:
            return Judged(text, None, str(error), sample)

    def judge_leniently(self, text: str, sample: Sample, dialect: CoordinateFormat) -> Judged:
        """Return the answer that a text states if its form is forgiven, else the strict one."""
        plain, body = self.direct(), after_reasoning(text)
        for candidate in (fenced(body), body, embedded(body)):
            judged = plain.judge(candidate, sample, dialect) if candidate else None
            if judged and judged.answer is not None:
                return Judged(text, judged.answer, None, sample)
        return self.judge(text, sample, dialect)

    def direct(self) -> "ChestXray":
        """Return the task without the reasoning form."""
        return replace(self, config=self.config.model_copy(update={"chain_of_thought": False}))

    def terms(self, preset: str, weights: dict[str, float], own: Sequence[Term] = ()) -> list[Term]:
        """Return the terms of a preset (see `medtune.tasks.chest.rewards`) and one's own.

        Raises:
            ConfigError: There is no such preset; `weights` names no term, or leaves no term.
        """
        if preset not in PRESETS:
            names = ", ".join(PRESETS)
            raise ConfigError("reward.preset", f"chest films have no {preset!r}", f"take: {names}")
        return weighted([*PRESETS[preset], *own], weights)

    def constant_baseline(self, samples: Iterable[Sample]) -> Callable[[Sample], Claim]:
        """Return the constant answer of each kind of question (see the parts)."""
        return _typical(kept(samples))

    def blind(self, typical: Mapping[str, Any], sample: Sample) -> dict[str, Claim]:
        """Return the claims that nothing and that everything is found."""
        return dict(zip(BLIND, part_of(sample).blind(dict(typical), sample), strict=True))

    def baselines(self, samples: Iterable[Sample], seed: int) -> dict[str, Claims]:
        """Return the baselines by name: what they claim of a sample.

        constant: the typical answer of its kind of question. random: the answer to another
        training sample; of a named thing, a box by chance. center: the constant answer, of a named
        thing a box of half the picture's sides in its middle. oracle: the truth, which dialect and
        rounding then limit.
        """
        known = kept(samples)
        constant = _typical(known)

        def random(sample: Sample, _: Path) -> Claim:
            """Return what chance, by seed and id, says of a sample."""
            key = f"{seed}/{sample.id}"
            if "boxes" in sample.truth:
                return _at(sample, random_box(key))
            others = known.get(sample.task)
            if not others:
                return constant(sample)
            other = others[int(sha256_text(key)[:13], 16) % len(others)]
            return part_of(sample).borrowed(other, sample)

        def center(sample: Sample, _: Path) -> Claim:
            return _at(sample, CENTER) if "boxes" in sample.truth else constant(sample)

        return {
            "constant": lambda sample, _: constant(sample),
            "random": random,
            "center": center,
            "oracle": lambda sample, _: sample.truth,
        }

    def measure(self, judged: Judged) -> dict[str, float | None]:
        """Return the metrics of one answer, by name of the task and of the metric.

        Those of other tasks are None. An invalid answer is a failure under every metric.

        Beside them: `valid`, 1 if the text parses; `score`, the first metric of its task that
        applies (see `Part.scores`), by which answers to one question can be ranked. Means of it
        depend on the mixture of tasks and are no result.
        """
        found: dict[str, float | None] = {
            f"{name}_{score}": None for name, part in PARTS.items() for score in part.scores
        }
        own = part_of(judged.sample).measure(judged.answer, judged.sample)
        return {
            self.main: next((value for value in own.values() if value is not None), None),
            "valid": float(judged.answer is not None),
            **found,
            **{f"{judged.sample.task}_{score}": value for score, value in own.items()},
        }

    def error_hypotheses(self, judged: Judged) -> dict[str, tuple[float, float]] | None:
        """Return the overlap of boxes before and after mistakes are undone (see `places`)."""
        return error_hypotheses(judged, true_boxes(judged.sample))

    def centers(self, judged: Judged) -> tuple[Center, Center] | None:
        """Return the centers of answered and true box, as fractions; None unless each is one."""
        truth, answer = true_boxes(judged.sample), judged.answer
        if answer is None or len(answer.boxes) != 1 or len(truth) != 1:
            return None
        width, height = geometry_of(judged.sample).size
        answered, true = (
            ((one[0] + one[2]) / 2 / width, (one[1] + one[3]) / 2 / height)
            for one in (answer.boxes[0], truth[0])
        )
        return answered, true

    def truth_shown(self, sample: Sample) -> Rendered:
        """Return the question, the true answer and its boxes."""
        gold = part_of(sample).gold(sample, PIXEL_BOXES)
        return f"{sample.prompt} {gold}", [_flat(box) for box in true_boxes(sample)]

    def answer_shown(self, answer: ChestAnswer) -> Rendered:
        """Return text, labels or named boxes of an answer, and its boxes."""
        edges = [", ".join(f"{edge:.4g}" for edge in box) for box in answer.boxes]
        names = answer.names or [""] * len(edges)
        said = [f"{name} [{edge}]".strip() for name, edge in zip(names, edges, strict=True)]
        words = answer.text or ", ".join(said or sorted(answer.present)) or "nothing"
        return words, [_flat(box) for box in answer.boxes]

    def strata(self, sample: Sample) -> dict[str, Any]:
        """Return the share of the picture that the true boxes take, and the patient's side."""
        geometry, boxes = geometry_of(sample), true_boxes(sample)
        return {"size": area(boxes, geometry), "side": side(boxes, geometry)}

    def majority_vote(self, answers: Sequence[ChestAnswer | None]) -> int:
        """Return which of several answers to one question stands for all.

        If most are invalid, an invalid one. Else the one that agrees most with the other valid
        ones: in boxes, words or labels; the first of equals.
        """
        valid = {index: answer for index, answer in enumerate(answers) if answer is not None}
        if 2 * len(valid) < len(answers):
            return next(index for index, answer in enumerate(answers) if answer is None)

        def agreement(index: int) -> float:
            return sum(alike(valid[index], other) for other in valid.values())

        return max(valid, key=agreement)


def part_of(sample: Sample) -> Part:
    """Return the task of a sample.

    Raises:
        DataError: It is none of the chest tasks.
    """
    if sample.task not in PARTS:
        names = ", ".join(PARTS)
        raise DataError(sample.id, f"is of the task {sample.task!r}", f"chest tasks are {names}")
    return PARTS[sample.task]


def true_boxes(sample: Sample) -> list[PixelBox]:
    """Return the boxes that an answer to a sample should hold."""
    findings = [finding["box"] for finding in sample.truth.get("findings", ())]
    return [tuple(box) for box in sample.truth.get("boxes", findings)]


def _flat(box: PixelBox) -> Box:
    """Return a box of an image as one of a video of one frame."""
    return box[0], box[1], 0.0, box[2], box[3], 1.0


def kept(samples: Iterable[Sample]) -> dict[str, list[Sample]]:
    """Return up to `EXAMPLES` samples of each task, chosen by their ids, whatever their order."""
    heaps: dict[str, list[tuple[int, str, Sample]]] = {}
    for sample in samples:
        heap = heaps.setdefault(sample.task, [])
        entry = (-int(sha256_text(f"kept/{sample.id}"), 16), sample.id, sample)
        if len(heap) < EXAMPLES:
            heapq.heappush(heap, entry)
        else:
            heapq.heappushpop(heap, entry)
    return {task: [entry[2] for entry in sorted(heap)] for task, heap in heaps.items()}


def _typical(known: Mapping[str, Sequence[Sample]]) -> Callable[[Sample], Claim]:
    claims = {task: PARTS[task].constant_baseline(known.get(task, ())) for task in PARTS}
    return lambda sample: claims[part_of(sample).name](sample)


def _at(sample: Sample, share: Sequence[float]) -> Claim:
    """Return the claim that what a sample asks for is at one place, given as fractions."""
    named = {key: sample.truth[key] for key in ("name", "phrase") if key in sample.truth}
    return named | {"boxes": [scaled(share, geometry_of(sample))]}


def alike(first: ChestAnswer, second: ChestAnswer) -> float:
    """Return how much two answers to a question agree, 0..1: in boxes, words or labels."""
    if first.text:
        return similarity(first.text, second.text)
    if first.boxes or second.boxes:
        return overlap(first.boxes, second.boxes)
    both = first.present | second.present
    return len(first.present & second.present) / len(both) if both else 1.0
