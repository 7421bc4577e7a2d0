"""Sampling whose randomness follows from (seed, step, prompt, which answer), never from call order.

Rollouts are then the same, to rounding, in any number of processes, made together or in parts, and
in a run that was interrupted.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from transformers import LogitsProcessor, LogitsProcessorList

from medtune.runtime.files import sha256_text


def answer_seeds(seed: int, step: int, prompts: Sequence[str]) -> list[int]:
    """Return a seed for each answer.

    Args:
        seed: The experiment's seed.
        step: Optimizer steps done before.
        prompts: Id of the prompt of each answer; the first answer to a prompt is number 0.
    """
    keys = (f"{seed}/{step}/{one}/{prompts[:n].count(one)}" for n, one in enumerate(prompts))
    return [int(sha256_text(key)[:15], 16) for key in keys]


class SeededSampling(LogitsProcessor):  # type: ignore[misc]
    """Leaves of each row's scores one token, drawn from their softmax.

    The largest of p / q, with q from an exponential distribution, is a draw from p (the Gumbel-max
    trick, arXiv:1411.0030); each answer has its own stream of q.

    Args:
        seeds: One per row; None: the most likely token.
        temperature: Divides the scores.
    """

    def __init__(self, seeds: Sequence[int | None], temperature: float) -> None:
        self.seeds, self.temperature = seeds, temperature
        self.streams: list[torch.Generator | None] = []

    def __call__(self, _: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return scores (rows, tokens) of which all but the drawn ones are -inf."""
        if not self.streams:
            self.streams = [
                None if seed is None else torch.Generator(scores.device).manual_seed(seed)
                for seed in self.seeds
            ]
        noise = torch.ones_like(scores)
        for row, stream in zip(noise, self.streams, strict=True):
            if stream is not None:
                row.exponential_(generator=stream)
        drawn = (scores / self.temperature - noise.log()).argmax(dim=-1, keepdim=True)
        return torch.full_like(scores, -torch.inf).scatter(1, drawn, 0.0)


@contextmanager
def seeded_sampling(model: Any, seeds: Sequence[int | None], temperature: float) -> Iterator[None]:
    """Let `model.generate` draw with these seeds (see above), one per row, inside the block."""
    draw, before = SeededSampling(seeds, temperature), vars(model).get("generate")
    model.generate = partial(model.generate, logits_processor=LogitsProcessorList([draw]))
    try:
        yield
    finally:
        del model.generate
        if before is not None:  # FSDP has put its own there
            model.generate = before
