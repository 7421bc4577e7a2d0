"""Evaluation during SFT: answers to validation samples, early stopping and the best weights."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from transformers import TrainerCallback

from medtune.console import say
from medtune.evaluation.generate import generate
from medtune.files import sha256_text
from medtune.rewards.base import Judged, Term, score_all
from medtune.schema import Sample
from medtune.training.batches import SftCollator
from medtune.training.checkpoints import Resumable


def chosen(ids: Sequence[str], count: int, seed: int) -> list[int]:
    """Return the positions of up to `count` samples, whose choice depends on seed and ids alone."""
    order = sorted(range(len(ids)), key=lambda index: sha256_text(f"{seed}/{ids[index]}"))
    return sorted(order[:count])


@dataclass(frozen=True)
class Answers:
    """Greedy answers to a few samples, and what they are worth.

    Every process answers all of them: they are few, and sharded weights need all processes.

    Attributes:
        collator: Asks, and knows the gold answers.
        samples: The samples.
        terms: Terms of the reward.
        batch_size: Prompts generated together.
    """

    collator: SftCollator
    samples: Sequence[Sample]
    terms: list[Term]
    batch_size: int

    def longest(self) -> int:
        """Return the tokens an answer may take: twice those of the longest gold answer."""
        return 2 * max(len(self.collator.answer(sample)) for sample in self.samples)

    def judge(self, model: Any) -> list[Judged]:
        """Return the model's answers in front of their truth."""
        judged, limit, asked = [], self.longest(), self.collator
        for start in range(0, len(self.samples), self.batch_size):
            batch = self.samples[start : start + self.batch_size]
            rows = generate(model, asked.processor, [asked.question(s) for s in batch], limit)
            pairs = zip(rows, batch, strict=True)
            judged += [asked.task.judge(row["text"], s, asked.dialect) for row, s in pairs]
        return judged

    def figures(self, model: Any) -> dict[str, float]:
        """Return the means of the reward, its terms and the task's metrics where they apply."""
        judged = self.judge(model)
        rewards = score_all(self.terms, judged)
        metrics = {"eval_reward": fmean(total for total, _ in rewards)}
        parts = [values for _, values in rewards]
        metrics |= {f"eval_terms/{name}": value for name, value in _means(parts).items()}
        measured = [self.collator.task.measure(one) for one in judged]
        return metrics | {f"eval_{name}": value for name, value in _means(measured).items()}


def _means(rows: Sequence[Mapping[str, float | None]]) -> dict[str, float]:
    """Return the mean of every column over the rows in which it is not None, if there are any."""
    found = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        values = [value for row in rows if (value := row.get(name)) is not None]
        if values:
            found[name] = fmean(values)
    return found


def best_evaluation(history: Sequence[Mapping[str, Any]]) -> tuple[int, int] | None:
    """Return the step of the best evaluation in a log, and how many came after it.

    The best has the highest reward, if answers were judged, and of equals the lowest loss: while
    no answer is valid yet, all rewards are 0. None if there was no evaluation.
    """
    found = [entry for entry in history if "eval_loss" in entry]
    worth = [(entry.get("eval_reward", 0.0), -entry["eval_loss"]) for entry in found]
    if not found:
        return None
    best = worth.index(max(worth))
    return found[best]["step"], len(found) - 1 - best


def stopped_early(history: Sequence[Mapping[str, Any]], patience: int | None) -> str | None:
    """Return why a run with this log stops before its last step, or None.

    Args:
        history: The log.
        patience: Evaluations without a better one after which training stops, or None.
    """
    best = best_evaluation(history)
    if patience is None or best is None or best[1] < patience:
        return None
    return f"stopping early: no evaluation was better than that of step {best[0]}"


class Selection(TrainerCallback):  # type: ignore[misc]
    """Keeps the best evaluated weights and stops when they have been best for too long.

    It remembers nothing: what it needs stands in the log, which a checkpoint holds.

    Args:
        trainer: Saves the weights.
        keep: Whether weights are kept.
        patience: Evaluations without a better one after which training stops, or None.
    """

    def __init__(self, trainer: Resumable, keep: bool, patience: int | None) -> None:
        self.trainer, self.keep, self.patience = trainer, keep, patience

    def on_train_begin(self, _: Any, state: Any, control: Any, **__: Any) -> None:
        """Do not go on after a checkpoint of the step at which training had stopped."""
        self._stop_if_late(state, control)

    def on_step_end(self, _: Any, state: Any, control: Any, **__: Any) -> None:
        """Evaluate the last step too."""
        if state.global_step >= state.max_steps:
            control.should_evaluate = True

    def on_evaluate(self, _: Any, state: Any, control: Any, **__: Any) -> None:
        """Keep the weights if they are the best so far."""
        best = best_evaluation(state.log_history)
        if self.keep and best and best[0] == state.global_step:
            self.trainer.keep_best()
        self._stop_if_late(state, control)

    def _stop_if_late(self, state: Any, control: Any) -> None:
        if reason := stopped_early(state.log_history, self.patience):
            say(reason)
            control.should_training_stop = True
