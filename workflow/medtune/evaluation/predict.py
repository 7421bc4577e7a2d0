"""Answers of one model to the test split: greedy, sampled, and with other cases' videos.

One job answers one shard. What a sampled answer is follows from seed, sample and draw, and so
depends on neither shard nor batch; what has been generated once is not generated again.
"""

import hashlib
import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from medtune.config.base import OtherFamily
from medtune.config.stages import PredictStage
from medtune.evaluation.cache import AnswerCache
from medtune.evaluation.engines import (
    TEMPERATURE,
    Engine,
    FilmEngine,
    TransformersEngine,
    VllmAnswers,
    choose_engine,
    engine_label,
)
from medtune.evaluation.predictions import parsed
from medtune.models.base_reference import base_path, model_sha256
from medtune.models.coordinate_format import IMAGE_COORDINATE_FORMATS
from medtune.models.evaluated_only import (
    EncodedImagePrompt,
    encode_film,
    load_film_processor,
    own_question,
)
from medtune.models.inputs import Encoded, encode_media, prompt_length
from medtune.models.loading import check_folder, load_processor
from medtune.models.vision import check_vision_record
from medtune.records.sample import Sample, Turn, iterate, load_split
from medtune.runtime.console import ProgressLine, log
from medtune.runtime.files import (
    MANIFEST,
    canonical_json,
    check_manifest,
    manifest_of,
    sha256_text,
)
from medtune.runtime.fingerprint import code_sha256
from medtune.runtime.tables import write_rows
from medtune.tasks import get_task
from medtune.training.sampling import answer_seeds

MODES = ("greedy", "sampled", "shuffled")
# Code that makes no answer: prompts are known by their text, and answers are parsed every time.
JUDGING = ("tasks", "rewards", "models.coordinate_format", "geometry", "evaluation.cache")


def partners(samples: Sequence[Sample]) -> list[Sample | None]:
    """Return for every sample one of another patient, whose video is shown instead.

    Samples are ordered by a hash of their id, and each takes the next one of another patient, of
    a video of the same size where there is one; so the assignment depends on nothing but the
    ids. It is None where all samples are of one patient.
    """
    everyone = sorted(samples, key=lambda s: hashlib.sha256(s.id.encode()).digest())
    rings: dict[tuple[int, int, int], list[Sample]] = {}
    for sample in everyone:
        rings.setdefault(_video_size(sample), []).append(sample)
    return [
        _next_other(sample, rings[_video_size(sample)]) or _next_other(sample, everyone)
        for sample in samples
    ]


def _video_size(sample: Sample) -> tuple[int, int, int]:
    media = sample.media[0]
    return media.frames, media.height, media.width


def _next_other(sample: Sample, ring: list[Sample]) -> Sample | None:
    """Return the first sample after this one, around a ring, that is another patient's."""
    start = next(i for i, one in enumerate(ring) if one.id == sample.id) + 1
    after = itertools.chain(itertools.islice(ring, start, None), itertools.islice(ring, start))
    return next((one for one in after if one.patient_id != sample.patient_id), None)


@dataclass(frozen=True)
class Question:
    """One prompt, and the answers to it that are wanted.

    Attributes:
        mode: One of `MODES`.
        sample: Asks the question.
        video: Whose video is shown.
        seeds: One for each answer; None: the most likely one.
    """

    mode: str
    sample: Sample
    video: Sample
    seeds: tuple[int | None, ...]


def questions(samples: Sequence[Sample], mode: str, stage: PredictStage) -> list[Question]:
    """Return the questions of a mode; those without a partner to be shuffled with drop out."""
    others = partners(samples) if mode == "shuffled" else samples
    asked = []
    for sample, other in zip(samples, others, strict=True):
        ids = [sample.id] * stage.evaluation.samples
        seeds = answer_seeds(stage.seed, 0, ids) if mode == "sampled" else [None]
        if other is not None:
            asked.append(Question(mode, sample, other, tuple(seeds)))
    if len(asked) < len(samples):
        log("shuffled: not run, all test cases are of one patient")
    return asked


class Predictor:
    """A model that answers samples; it is loaded when the first answer must be generated.

    Args:
        stage: The configuration.
        model: Model folder: one that a stage has written, whose manifest is checked, or any other.
        root: Folder of the data set that the samples' media are relative to.
        seen: Any sample; the model must be shown it as in its training, if that is recorded.

    Raises:
        ModelError: The folder holds no model of the family.
        VisionError: The model was trained on media that were shown to it in another way.
    """

    def __init__(self, stage: PredictStage, model: Path, root: Path, seen: Sample) -> None:
        self.stage, self.root = stage, root
        self.task, self.dialect = get_task(stage.task), IMAGE_COORDINATE_FORMATS[stage.model.family]
        said = check_manifest(model / MANIFEST) if (model / MANIFEST).is_file() else {}
        self.path = base_path(model)
        check_folder(self.path, stage.model.family)
        check_vision_record(self.path, seen, said.get("seen", {}))
        self.is_other = stage.model.family in get_args(OtherFamily)
        self.engine_name = "transformers" if self.is_other else choose_engine(stage.evaluation)
        self.label = engine_label(self.engine_name)
        self.processor: Any = None
        self.engine: Engine | None = None

    def prompt(self, question: Question) -> str:
        """Return the text of a question."""
        own = own_question(self.stage.model.family, question.sample)
        return own or self.task.prompt(question.sample, self.dialect)

    def turns(self, question: Question) -> tuple[Turn, ...]:
        """Return what was said before a question."""
        return self.task.render_history(question.sample, self.dialect).turns

    def key(self, question: Question, seed: int | None) -> str:
        """Return a hash of what, with the model, decides an answer."""
        limit, media = self.stage.evaluation.max_new_tokens, question.video.media[0]
        asked: dict[str, Any] = {
            "prompt": self.prompt(question),
            "turns": [turn.model_dump() for turn in self.turns(question)],
            "media": media.model_dump(exclude={"path"}),
            "decoding": {"limit": limit, "temperature": TEMPERATURE, "seed": seed},
        }
        if self.dialect.picture.square:
            asked["square"] = True
        return sha256_text(canonical_json(asked))

    def load(self, longest: Sequence[Question]) -> Engine:
        """Return the engine; of vLLM, `longest` decides how long a prompt it can take."""
        own, config = self.stage.model, self.stage.evaluation
        limit = config.max_new_tokens
        if self.engine is None and self.is_other:
            self.processor = load_film_processor(self.path, own)
            self.engine = FilmEngine(self.path, own, self.processor, limit)
        if self.engine is None:
            self.processor = load_processor(self.path)
            if self.engine_name == "transformers":
                self.engine = TransformersEngine(self.path, own, self.processor, limit)
            else:
                length = max(self._length(question) for question in longest)
                self.engine = VllmAnswers(self.path, own, self.processor, config, length)
        return self.engine

    def _length(self, question: Question) -> int:
        media, turns = question.video.media[0], self.turns(question)
        return prompt_length(self.processor, self.prompt(question), media, turns)

    def encode(self, question: Question) -> Encoded | EncodedImagePrompt:
        """Return a question with its video."""
        shown = (self.prompt(question), question.video.media[0], self.root, self.turns(question))
        if self.is_other:
            square = self.dialect.picture.square
            return encode_film(self.processor, self.stage.model, *shown, square)
        return encode_media(self.processor, *shown)

    def answer(
        self, wanted: Sequence[tuple[Question, int | None]], everything: Sequence[Question]
    ) -> list[dict[str, Any]]:
        """Return text, tokens, ended, and how many seconds it took to answer how many together.

        Args:
            wanted: Questions, each with a seed.
            everything: All questions that will be asked.
        """
        start = time.monotonic()
        engine = self.load(everything)
        prompts: dict[int, Encoded | EncodedImagePrompt] = {}
        for question, _ in wanted:
            if id(question) not in prompts:
                prompts[id(question)] = self.encode(question)
        asked = [prompts[id(question)] for question, _ in wanted]
        replies = engine.answer(asked, [seed for _, seed in wanted])
        cost = {"seconds": round(time.monotonic() - start, 3), "together": len(wanted)}
        return [one | cost for one in replies]

    def row(self, question: Question, draw: int, reply: Mapping[str, Any]) -> dict[str, Any]:
        """Return a row of the table of predictions; see `predict`."""
        judged = self.task.judge(reply["text"], question.sample, self.dialect)
        return {
            "id": question.sample.id,
            "family": self.stage.model.family,
            "mode": question.mode,
            "draw": draw,
            "video_of": question.video.id,
            **{name: reply[name] for name in ("text", "tokens", "ended")},
            "finish": "stop" if reply["ended"] else "length",
            **parsed(judged),
            "engine": self.label,
        }


def batches(asked: Sequence[Question], size: int) -> Iterator[Sequence[Question]]:
    """Yield questions of one mode, up to `size` of them."""
    for _, own in itertools.groupby(asked, key=lambda question: question.mode):
        group = list(own)
        yield from (group[start : start + size] for start in range(0, len(group), size))


def predict(
    stage: PredictStage,
    model: Path,
    dataset: Path,
    modes: Sequence[str],
    output: Path,
    cache: Path,
    shard: int = 0,
    shards: int = 1,
) -> None:
    """Write the answers of a model to a shard of the test split as a table.

    Columns: id, family, mode, draw (0 unless sampled), video_of (whose video was shown), text,
    tokens, ended, finish ("stop", or "length" where the answer did not end), answer (JSON in the
    media frame, or null), reason (why it is invalid, or null), engine.

    Beside it lies `<output>.timing.parquet`: id, mode, draw, seconds, together: an answer was one
    of so many that took so many seconds together. It differs between runs.

    Args:
        stage: The configuration.
        model: Model folder (its manifest is checked).
        dataset: Folder of the data set.
        modes: Which of `MODES` to run.
        output: Parquet file. Tables of further shards beside it, of an earlier division, go.
        cache: Folder of the answers of this model; see `AnswerCache`.
        shard: Which shard of the split.
        shards: How many there are; samples are dealt to them in turn.

    Raises:
        VisionError: See `Predictor`.
    """
    for parent in (dataset, model):
        check_manifest(parent / MANIFEST)
    samples = list(iterate(load_split(dataset, "test")))
    predictor = Predictor(stage, model, dataset, samples[0])
    origin = [model_sha256(model), predictor.label, code_sha256("predict", JUDGING)]
    kept = AnswerCache(cache, shard, sha256_text(canonical_json(origin)))
    asked = [one for mode in modes for one in questions(samples, mode, stage)[shard::shards]]
    rows, costs = [], []
    with ProgressLine(f"predict {output.parent.name}", len(asked)) as line:
        for batch in batches(asked, stage.evaluation.batch_size):
            _generate_missing(kept, predictor, batch, asked)
            for question in batch:
                for draw, seed in enumerate(question.seeds):
                    reply = kept.known[predictor.key(question, seed)]
                    rows.append(predictor.row(question, draw, reply))
                    who = {name: rows[-1][name] for name in ("id", "mode", "draw")}
                    costs.append(who | {name: reply[name] for name in ("seconds", "together")})
            line.advance(len(batch))
    _forget_further_shards(output, shard, shards)
    write_rows(output.with_suffix(".timing.parquet"), costs)
    write_rows(output, rows)
    kept.tidy()


def _generate_missing(
    kept: AnswerCache, predictor: Predictor, batch: Sequence[Question], asked: Sequence[Question]
) -> None:
    """Generate those answers to a batch of questions that are not kept yet, and keep them."""
    keys = {predictor.key(one, seed): (one, seed) for one in batch for seed in one.seeds}
    missing = {key: one for key, one in keys.items() if key not in kept.known}
    if missing:
        replies = predictor.answer(list(missing.values()), asked)
        kept.add(dict(zip(missing, replies, strict=True)))


def _forget_further_shards(output: Path, shard: int, shards: int) -> None:
    """Remove the tables of an earlier division into more shards, which would be read as well."""
    if output.stem != f"{shard:04d}":
        return
    for path in output.parent.glob("*.parquet"):
        if path.stem.isdigit() and int(path.stem) >= shards:
            for one in (path, manifest_of(path), path.with_suffix(".timing.parquet")):
                one.unlink(missing_ok=True)
