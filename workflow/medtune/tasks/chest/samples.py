"""A film to its samples: which questions it can answer, and their truths."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from medtune.geometry.image import ImageGeometry
from medtune.models.box_format import STORED, WRITTEN
from medtune.records.film import Film
from medtune.records.sample import Media, Sample, Turn
from medtune.runtime.files import sha256_text
from medtune.sources.chest.labels import LABELS
from medtune.tasks.chest.abnormality_classification import DEVICES, LISTED
from medtune.tasks.chest.xray import PARTS, THOUGHT

# Why a film gives no sample of a task.
UNSAID = "labels that do not say whether anything is abnormal"
UNLABELED = "no label is known"
NO_REPORT = "no report"
NO_BOX = "no box of this kind"
NO_TALK = "no conversation was written"
LOOSE = "conversation with a box that is none of the film's"
NO_SIZE = "its boxes cannot be placed: no size of the image"
UNDECIDED = "a finding that fewer readers drew than `fusion.min_readers`"
OPEN = "no box, and nobody says that nothing is abnormal"
LOST = "every box is outside the picture"
# What is left out of a film that gives samples.
OUTSIDE = "outside the picture"
BEYOND = "part of the body beyond `anatomy_questions_per_image`"
UNCERTAIN = "uncertain: neither asked for nor scored"
TASKS = frozenset(PARTS)
KINDS = {  # task -> kind of its boxes
    "anatomical_grounding": "anatomy",
    "abnormality_grounding": "abnormality",
    "phrase_grounding": "phrase",
}


class LeftOut(NamedTuple):
    """What was left out, as it is counted.

    Attributes:
        source: Name of the source.
        task: The task that it is no sample of; empty: of none.
        unit: What is counted: film, box, label.
        reason: Why.
    """

    source: str
    task: str
    unit: str
    reason: str


@dataclass(frozen=True)
class Extras:
    """What a film has beside its source's tables, and how its samples are chosen.

    Attributes:
        tasks: The tasks the source is good for. Detection needs a source whose readers drew every
            abnormality; elsewhere a film without boxes is not normal.
        report: The report after filtering, or None: no report is learned.
        no_report: Why there is none.
        undecided: Abnormalities that too few readers drew: whether they are there is open.
        talk: Rounds of a conversation.
        grounded_talk: Rounds of one with boxes, which are written `<box>x1, y1, x2, y2</box>` in
            whole pixels of the stored image; it ends with the last that has any.
        thoughts: Reasoning that leads to the truth, by sample id.
        anatomy_questions_per_image: Parts of the body that a training or validation film asks for.
        test_anatomy_questions_per_image: The same of a test film; None: all.
        seed: Decides which.
        dropped: Is counted up with what was left out. Of every task that the source is good for, a
            film gives samples, or is counted once.
    """

    tasks: frozenset[str] = TASKS
    report: str | None = None
    no_report: str = NO_REPORT
    undecided: frozenset[str] = frozenset()
    talk: Sequence[Turn] = ()
    grounded_talk: Sequence[Turn] = ()
    thoughts: Mapping[str, str] = field(default_factory=dict)
    anatomy_questions_per_image: int = 1
    test_anatomy_questions_per_image: int | None = None
    seed: int = 0
    dropped: Counter[LeftOut] = field(default_factory=Counter)


def make_samples(
    film: Film, geometry: ImageGeometry, media: Media, split: str, extras: Extras
) -> Iterator[Sample]:
    """Yield the samples of a film, in the order of their tasks.

    A test film asks for every part of the body it has a box of, always in the same order: the
    evaluation list is fixed. Elsewhere seed and image choose
    `extras.anatomy_questions_per_image` of them.

    Args:
        film: The film.
        geometry: From its original to the stored image.
        media: The stored image.
        split: Its split.
        extras: See there.
    """
    boxes, given = _boxes(film, geometry, extras), set()
    for task, number, truth, turns in _truths(film, boxes, split, extras):
        # Without its size a film has no boxes, and what has no box is not normal.
        if task in extras.tasks and (film.size or not PARTS[task].writes_boxes):
            given.add(task)
            tail = "" if number is None else f"/{number}"
            identity = f"{film.source}/{film.image_id}/{task}{tail}"
            yield _sample(film, geometry, media, split, identity, task, truth, turns, extras)
    for task in extras.tasks - given:
        extras.dropped[LeftOut(film.source, task, "film", _why(task, film, extras))] += 1


def _why(task: str, film: Film, extras: Extras) -> str:
    """Return why a film gives no sample of a task."""
    if PARTS[task].writes_boxes and not film.size:
        return NO_SIZE
    if task in KINDS:
        drawn = any(region.kind == KINDS[task] for region in film.regions)
        undecided = extras.undecided and task == "abnormality_grounding"
        return LOST if drawn else UNDECIDED if undecided else NO_BOX
    if task == "abnormality_detection":
        drawn = any(region.kind == "abnormality" for region in film.regions)
        return UNDECIDED if extras.undecided else LOST if drawn else OPEN
    if task == "report_generation":
        return extras.no_report
    if task == "abnormality_classification":
        return UNSAID if film.labels else UNLABELED
    return LOOSE if extras.grounded_talk and task == "grounded_conversation" else NO_TALK


Boxes = dict[str, dict[str, list[list[float]]]]
Found = Iterator[tuple[str, int | None, dict[str, Any], Sequence[Turn]]]


def _truths(film: Film, boxes: Boxes, split: str, extras: Extras) -> Found:
    """Yield task, number, truth and rounds of everything a film can be asked."""
    if extras.report:
        truth: dict[str, Any] = {"report": extras.report, "labels": dict(film.labels)}
        yield "report_generation", None, truth, ()
    labels = _labels(film)
    if labels is not None:
        uncertain = sum(value == "uncertain" for value in film.labels.values())
        _count(extras, film, "abnormality_classification", "label", UNCERTAIN, uncertain)
        yield "abnormality_classification", None, labels, ()
    anatomy = list(enumerate(sorted(boxes["anatomy"])))
    # What a test film is asked does not depend on the seed: the evaluation list is fixed.
    seed, most = (
        ("", extras.test_anatomy_questions_per_image)
        if split == "test"
        else (extras.seed, extras.anatomy_questions_per_image)
    )
    if most is not None:
        anatomy.sort(key=lambda one: sha256_text(f"{seed}/{film.image_id}/{one[1]}"))
        _count(extras, film, "anatomical_grounding", "box", BEYOND, len(anatomy[most:]))
        anatomy = sorted(anatomy[:most])
    for number, name in anatomy:
        truth = {"name": name, "boxes": boxes["anatomy"][name]}
        yield "anatomical_grounding", number, truth, ()
    for number, name in enumerate(sorted(boxes["abnormality"])):
        truth = {"name": name, "boxes": boxes["abnormality"][name]}
        yield "abnormality_grounding", number, truth, ()
    regions = _regions(boxes, "abnormality")
    lost = any(region.kind == "abnormality" for region in film.regions) and not regions
    # One that is undecided is no negative: no list of the others is complete.
    if not extras.undecided and (regions or (film.no_finding is True and not lost)):
        yield "abnormality_detection", None, {"findings": regions}, ()
    for number, phrase in enumerate(sorted(boxes["phrase"])):
        truth = {"phrase": phrase, "boxes": boxes["phrase"][phrase]}
        yield "phrase_grounding", number, truth, ()
    regions = [*_regions(boxes, "phrase"), *regions]
    about = {"report": extras.report, "labels": dict(film.labels), "regions": regions}
    if extras.talk:
        yield "conversation", None, about, extras.talk
    if extras.grounded_talk and _bound(extras.grounded_talk, regions):
        yield "grounded_conversation", None, about, _to_the_last_box(extras.grounded_talk)


def _count(extras: Extras, film: Film, task: str, unit: str, reason: str, number: int) -> None:
    if number and task in extras.tasks:
        extras.dropped[LeftOut(film.source, task, unit, reason)] += number


def _boxes(film: Film, geometry: ImageGeometry, extras: Extras) -> Boxes:
    """Return the boxes of a film by kind and name, in the frame and inside the picture."""
    found: Boxes = {kind: defaultdict(list) for kind in ("anatomy", "abnormality", "phrase")}
    width, height = geometry.size
    for region in film.regions:
        x1, y1, x2, y2 = geometry.to_frame(region.box)
        box = [max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height))]
        if box[0] < box[2] and box[1] < box[3]:
            found[region.kind][region.name].append([round(value, 3) for value in box])
        else:
            extras.dropped[LeftOut(film.source, "", "box", OUTSIDE)] += 1
    return found


def _regions(boxes: Boxes, kind: str) -> list[dict[str, Any]]:
    return [{"name": name, "box": box} for name in sorted(boxes[kind]) for box in boxes[kind][name]]


def _labels(film: Film) -> dict[str, Any] | None:
    """Return the known labels, or None if they leave open whether anything is abnormal.

    Without a present label the film must be said to be normal, which denies all but devices, or
    every label but devices be absent: what nobody mentions is unknown, not absent. A source that
    knows some of the labels only is asked for those by name, and leaves nothing open.
    """
    present = [name for name in LABELS if film.labels.get(name) == "present"]
    absent = [name for name in LABELS if film.labels.get(name) == "absent"]
    if film.listed and (present or absent):
        return {"present": present, "absent": absent, LISTED: True}
    if film.no_finding is True and not present:
        absent = [name for name in LABELS if name in absent or name != DEVICES]
    if present or set(absent) >= set(LABELS) - {DEVICES}:
        return {"present": present, "absent": absent}
    return None


def _to_the_last_box(talk: Sequence[Turn]) -> Sequence[Turn]:
    """Return a conversation without what follows its last box: the last answer is scored."""
    rounds = [number for number, turn in enumerate(talk, 1) if WRITTEN.search(turn.target or "")]
    return talk[: rounds[-1]] if rounds else talk


def _bound(talk: Sequence[Turn], regions: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether every box of a conversation is one of the film's, within a pixel."""
    known = [region["box"] for region in regions]
    return all(
        any(
            max(abs(int(v) - edge) for v, edge in zip(said, box, strict=True)) <= 1 for box in known
        )
        for turn in talk
        for text in (turn.prompt, turn.target)
        for said in WRITTEN.findall(text)
    )


def _sample(
    film: Film,
    geometry: ImageGeometry,
    media: Media,
    split: str,
    identity: str,
    task: str,
    truth: dict[str, Any],
    turns: Sequence[Turn],
    extras: Extras,
) -> Sample:
    if identity in extras.thoughts:
        truth = truth | {THOUGHT: extras.thoughts[identity]}
    sample = Sample(
        id=identity,
        source=film.source,
        case_id=film.image_id,
        patient_id=film.patient_id,
        split=split,
        task=task,
        media=[media],
        turns=tuple(turns[:-1]),
        prompt=turns[-1].prompt if turns else PARTS[task].question(identity, truth),
        target=turns[-1].target if turns else None,
        truth=truth,
        geometry=geometry.model_dump(mode="json"),
        meta={"view": film.view, "sex": film.sex, "study_id": film.study_id}
        | ({"groups": film.groups} if film.groups else {}),
    )
    return sample.model_copy(update={"target": PARTS[task].gold(sample, STORED)})
