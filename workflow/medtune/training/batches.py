"""Samples as training batches: exact labels, and vision tensors beside them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medtune.models.batches import pad_left, stack_vision
from medtune.models.coordinate_format import CoordinateFormat
from medtune.models.inputs import (
    Encoded,
    answer_ids,
    check_texts,
    encode_sample,
    prompt_length,
)
from medtune.records.sample import Sample, from_row
from medtune.tasks.base import Task

IGNORED = -100
PADDING = "blank"  # the key of a row that fills up a batch


@dataclass(frozen=True)
class SftCollator:
    """Turns Arrow rows into a batch whose loss is on the tokens of answers alone.

    The answer is tokenized by itself and appended to the expanded prompt, as in generation, so
    the labels cannot slip against the placeholders.
    """

    processor: Any
    task: Task
    dialect: CoordinateFormat
    root: Path

    def answer(self, sample: Sample) -> list[int]:
        """Return the tokens of the gold answer.

        Raises:
            DataError: It holds a special token.
        """
        answer = self.task.target(sample, self.dialect)
        check_texts(self.processor, sample.id, [answer])
        return answer_ids(self.processor, answer)

    def learned(self, sample: Sample) -> int:
        """Return the tokens of all answers that are learned from."""
        turns = self.task.render_history(sample, self.dialect).turns
        earlier = sum(len(answer_ids(self.processor, turn.target)) for turn in turns)
        return earlier + len(self.answer(sample))

    def question(self, sample: Sample) -> Encoded:
        """Return the encoded question."""
        prompt, told = (
            self.task.prompt(sample, self.dialect),
            self.task.render_history(sample, self.dialect),
        )
        return encode_sample(self.processor, told, prompt, self.root)

    def length(self, sample: Sample) -> int:
        """Return the tokens that a sample will take, without reading its media."""
        prompt, told = (
            self.task.prompt(sample, self.dialect),
            self.task.render_history(sample, self.dialect),
        )
        asked = prompt_length(self.processor, prompt, told.media[0], told.turns)
        return asked + len(self.answer(sample))

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Return input ids, mask, labels and vision tensors, padded to the longest row.

        A row that holds `PADDING` gets no labels.
        """
        import torch

        samples = [from_row({k: v for k, v in row.items() if k != PADDING}) for row in rows]
        pairs = [(self.question(one), torch.tensor(self.answer(one))) for one in samples]
        pad = self.processor.tokenizer.pad_token_id
        ids = [torch.cat([one.input_ids, answer]) for one, answer in pairs]
        labels = [
            torch.cat([one.input_ids.where(one.assistant_mask, IGNORED), answer])
            for one, answer in pairs
        ]
        for row, label in zip(rows, labels, strict=True):
            if PADDING in row:
                label.fill_(IGNORED)
        types = [
            torch.cat([one.mm_token_type_ids, torch.zeros_like(answer)]) for one, answer in pairs
        ]
        return {
            "input_ids": pad_left(ids, pad),
            "attention_mask": pad_left([torch.ones_like(row) for row in ids], 0),
            "labels": pad_left(labels, IGNORED),
            "mm_token_type_ids": pad_left(types, 0),
            **stack_vision([one for one, _ in pairs]),
        }
