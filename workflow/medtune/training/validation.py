"""Evaluation while it trains: answers to held-out samples, early stopping and the best weights."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from datasets import Dataset
from transformers import TrainerCallback

from medtune.config.stages import GrpoStage, SftStage
from medtune.config.training import GrpoConfig, SftConfig
from medtune.models.generate import generate
from medtune.records.sample import Sample, iterate, load_split
from medtune.rewards.base import Judged, Term, score_all
from medtune.runtime.console import log
from medtune.runtime.files import sha256_text
from medtune.tasks import get_terms
from medtune.tasks.base import Task
from medtune.training.batches import SftCollator
from medtune.training.checkpoints import Resumable
from medtune.training.distributed import all_gather_object


def chosen(ids: Sequence[str], count: int, seed: int) -> list[int]:
    """Return the positions of up to `count` samples, whose choice depends on seed and ids alone."""
    order = sorted(range(len(ids)), key=lambda index: sha256_text(f"{seed}/{ids[index]}"))
    return sorted(order[:count])


@dataclass(frozen=True)
class ValidationGenerations:
    """A few held-out samples, and what answers to them are worth.

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

    def batches(self) -> Iterator[Sequence[Sample]]:
        """Yield the samples that are answered together."""
        for start in range(0, len(self.samples), self.batch_size):
            yield self.samples[start : start + self.batch_size]

    def figures(self, model: Any) -> dict[str, float]:
        """Return what the model's greedy answers are worth; see `worth`."""
        texts, limit, processor = [], self.longest(), self.collator.processor
        for batch in self.batches():
            questions = [self.collator.question(sample) for sample in batch]
            rows = generate(model, processor, questions, limit)
            texts += [row["text"] for row in rows]
        return self.worth(texts)

    def worth(self, texts: Sequence[str]) -> dict[str, float]:
        """Return the means of the reward, its terms and the task's metrics where they apply.

        They are those of the first process, in all of them: what follows is decided alike.

        Args:
            texts: An answer to each sample.
        """
        task, dialect = self.collator.task, self.collator.dialect
        pairs = zip(texts, self.samples, strict=True)
        judged = [task.judge(text, one, dialect) for text, one in pairs]
        rewards = score_all(self.terms, judged)
        metrics = {"eval_reward": fmean(total for total, _ in rewards)}
        parts = [values for _, values in rewards]
        metrics |= {f"eval_terms/{name}": value for name, value in _means(parts).items()}
        return all_gather_object(metrics | measured(task, judged))[0]


def held_out(
    collator: SftCollator, val: Dataset, stage: SftStage | GrpoStage, batch_size: int
) -> ValidationGenerations | None:
    """Return the validation samples that are answered at every evaluation, or None.

    Args:
        collator: Asks them.
        val: The validation split.
        stage: Says how many, and how they are rewarded.
        batch_size: Prompts answered together.
    """
    section = stage.sft if isinstance(stage, SftStage) else stage.grpo
    if not section.eval_generation_samples or len(val) == 0:
        return None
    rows = chosen(val["id"], section.eval_generation_samples, stage.seed)
    terms = get_terms(collator.task, stage.reward, stage.reward_sha256)
    return ValidationGenerations(collator, list(iterate(val.select(rows))), terms, batch_size)


def validation_split(dataset: Path) -> Dataset:
    """Return the validation split of a data set; say so if it is empty."""
    val = load_split(dataset, "val", allow_empty=True)
    if len(val) == 0:
        log("validation: not run, its split is empty; the result is the last step")
    return val


def measured(task: Task, judged: Sequence[Judged]) -> dict[str, float]:
    """Return the means of the task's metrics, for the log: no decision follows from them.

    Their code is therefore no part of a training's: another metric does not train anew.
    """
    means = _means([task.measure(one) for one in judged])
    return {f"eval_{name}": value for name, value in means.items()}


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

    The best has the highest reward of greedy answers, if there are any; of equals, the highest of
    sampled ones (GRPO) or the lowest loss (SFT): while no answer is valid yet, all rewards are 0.
    None if there was no evaluation.
    """
    found = [entry for entry in history if entry.keys() & {"eval_loss", "eval_reward"}]
    measures = (("eval_reward", 1), ("eval_sampled_reward", 1), ("eval_loss", -1))
    worth = [[sign * entry.get(key, 0.0) for key, sign in measures] for entry in found]
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


class EarlyStopping(TrainerCallback):  # type: ignore[misc]
    """Keeps the best evaluated weights and stops when they have been best for too long.

    It remembers nothing: what it needs stands in the log, which a checkpoint holds.

    Args:
        trainer: Evaluates, and saves the weights.
        section: Says when, and what becomes of it.
    """

    def __init__(self, trainer: Resumable, section: SftConfig | GrpoConfig) -> None:
        self.trainer, self.every = trainer, section.eval_steps
        self.keep, self.patience = section.keep_best, section.patience

    def on_train_begin(self, _: Any, state: Any, control: Any, **__: Any) -> None:
        """Do not go on after a checkpoint of the step at which training had stopped."""
        self._stop_if_late(state, control)

    def on_step_end(self, _: Any, state: Any, control: Any, **__: Any) -> None:
        """Evaluate, if it is time; the last step too."""
        if state.global_step % self.every == 0 or state.global_step >= state.max_steps:
            control.should_evaluate = True

    def on_evaluate(self, _: Any, state: Any, control: Any, **__: Any) -> None:
        """Keep the weights if they are the best so far."""
        best = best_evaluation(state.log_history)
        if self.keep and best and best[0] == state.global_step:
            self.trainer.keep_best()
        self._stop_if_late(state, control)

    def _stop_if_late(self, state: Any, control: Any) -> None:
        if reason := stopped_early(state.log_history, self.patience):
            log(reason)
            control.should_training_stop = True
