"""Answers of one model to the test split: greedy, sampled, and with other cases' videos."""

import hashlib
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medtune.console import ProgressLine, say
from medtune.files import MANIFEST, check_manifest
from medtune.models.base import base_path
from medtune.models.dialect import DIALECTS
from medtune.models.inputs import Encoded, banned_tokens, encode_media
from medtune.models.loading import load_model, load_processor
from medtune.schema import Sample, iterate, load_split
from medtune.stages import PredictStage
from medtune.tables import write_rows
from medtune.tasks import get_task
from medtune.training.batches import prompt_batch

MODES = ("greedy", "sampled", "shuffled")
SAMPLING = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}


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


def _pairs(samples: Sequence[Sample], mode: str) -> list[tuple[Sample, Sample]]:
    """Return (question, whose video is shown) of a mode; questions without a partner drop out."""
    if mode != "shuffled":
        return [(sample, sample) for sample in samples]
    found = zip(samples, partners(samples), strict=True)
    pairs = [(sample, other) for sample, other in found if other is not None]
    if len(pairs) < len(samples):
        say("shuffled: not run, all test cases are of one patient")
    return pairs


def generate(
    model: Any,
    processor: Any,
    encoded: Sequence[Encoded],
    max_new_tokens: int,
    sampled: bool = False,
    copies: int = 1,
) -> list[dict[str, Any]]:
    """Return text, token count and whether the answer ended, `copies` per prompt in order.

    Answers are greedy unless `sampled`, and never hold a placeholder of an image or video.
    """
    import torch

    tokenizer = processor.tokenizer
    batch = prompt_batch(encoded, tokenizer.pad_token_id)
    with torch.no_grad():
        tokens = model.generate(
            **{name: value.to(model.device) for name, value in batch.items()},
            max_new_tokens=max_new_tokens,
            **(SAMPLING if sampled else {"do_sample": False}),
            num_return_sequences=copies,
            suppress_tokens=list(banned_tokens(processor)),
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )[:, batch["input_ids"].shape[1] :]
    rows = []
    for row in tokens.tolist():
        ended = tokenizer.eos_token_id in row
        count = row.index(tokenizer.eos_token_id) + 1 if ended else len(row)
        text = tokenizer.decode(row[:count], skip_special_tokens=True)
        rows.append({"text": text, "tokens": count, "ended": ended})
    return rows


class Predictor:
    """A model that answers samples in batches."""

    def __init__(self, stage: PredictStage, model: Path, dataset: Path) -> None:
        import torch

        self.stage, self.dataset = stage, dataset
        self.task, self.dialect = get_task(stage.task), DIALECTS[stage.model.family]
        path = base_path(model)
        self.processor = load_processor(path)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        # In float32 throughout: weights that are rounded to bfloat16, also by autocast for one
        # product, lose most of a small change that training made. Flash attention has no float32.
        exact = stage.model
        if exact.attention == "flash_attention_2":
            exact = exact.model_copy(update={"attention": "sdpa"})
        self.model = load_model(path, exact).to(device)

    def encode(self, sample: Sample, video: Sample) -> Encoded:
        """Return the question of one sample with the video of another (or its own)."""
        prompt = self.task.prompt(sample, self.dialect)
        return encode_media(self.processor, prompt, video.media[0], self.dataset, sample.turns)

    def answer(self, encoded: Sequence[Encoded], sample: bool, copies: int) -> list[dict[str, Any]]:
        """Return `copies` answers per prompt in order; see `generate`."""
        limit = self.stage.evaluation.max_new_tokens
        return generate(self.model, self.processor, encoded, limit, sample, copies)


def predict(
    stage: PredictStage, model: Path, dataset: Path, modes: Sequence[str], output: Path
) -> None:
    """Write the answers of a model to the test split as a table.

    Columns: id, family, mode, draw (0 unless sampled), video_of (whose video was shown), text,
    tokens, ended.

    Args:
        stage: The configuration.
        model: Model folder (its manifest is checked).
        dataset: Folder of the data set.
        modes: Which of `MODES` to run.
        output: Parquet file.
    """
    import torch

    for parent in (dataset, model):
        check_manifest(parent / MANIFEST)
    samples = list(iterate(load_split(dataset, "test")))
    predictor, size = Predictor(stage, model, dataset), stage.evaluation.batch_size
    rows: list[dict[str, Any]] = []
    with ProgressLine(f"predict {output.stem}", len(modes) * len(samples)) as line:
        for mode in modes:
            torch.manual_seed(stage.seed)
            pairs = _pairs(samples, mode)
            copies = stage.evaluation.samples if mode == "sampled" else 1
            for start in range(0, len(pairs), size):
                chosen, shown = zip(*pairs[start : start + size], strict=True)
                encoded = [predictor.encode(*pair) for pair in zip(chosen, shown, strict=True)]
                answers = predictor.answer(encoded, mode == "sampled", copies)
                for index, answer in enumerate(answers):
                    one = index // copies
                    rows.append(
                        {
                            "id": chosen[one].id,
                            "family": stage.model.family,
                            "mode": mode,
                            "draw": index % copies,
                            "video_of": shown[one].id,
                            **answer,
                        }
                    )
                line.advance(len(chosen))
    write_rows(output, rows)
