"""What a reward term is, and how terms become one reward: the same in training and evaluation."""

import asyncio
import inspect
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from medtune.records.sample import Sample
from medtune.runtime.errors import ConfigError, MedtuneError
from medtune.runtime.files import write_json


@dataclass(frozen=True)
class Judged:
    """One answer in front of its truth.

    Attributes:
        text: What the model wrote.
        answer: The parsed answer, or None if the text is invalid.
        reason: Why it is invalid, or None.
        sample: The question, with truth and geometry.
        listed: The answer of an invalid text that would be valid but for a list around it; else
            None. Published rewards alone accept it.
    """

    text: str
    answer: Any
    reason: str | None
    sample: Sample
    listed: Any = None


def always(_: Sample) -> bool:
    """Whether a term concerns a sample, for terms that concern all."""
    return True


@dataclass(frozen=True)
class Term:
    """A part of the reward, counted with `weight`.

    Attributes:
        name: Its name.
        weight: What 1 is worth.
        score: Returns a value in 0..1 for one answer; may be async.
        batched: `score` takes a list of answers and returns as many values.
        file: Where it is defined, if a user defined it.
        concerns: Whether it says anything about answers to a sample. Where it does not, it is not
            asked and its value is None: for all answers to the sample alike, so that no answer
            can be worth more by escaping a term.
    """

    name: str
    weight: float
    score: Callable[[Any], Any]
    batched: bool = False
    file: Path | None = None
    concerns: Callable[[Sample], bool] = always


class RewardError(MedtuneError):
    """A term raised, or returned no value in 0..1: it must not be trained on.

    Args:
        term: The term.
        found: What it did.
        about: The answers it was called with.
    """

    def __init__(self, term: Term, found: str, about: Sequence[Judged]) -> None:
        self.term, self.about = term, about
        where = f"reward term {term.name}" + (f" of {term.file}" if term.file else "")
        super().__init__(where, found, "correct the term")

    def save(self, path: Path) -> None:
        """Write the answers and the traceback to a JSON file, which the message then names."""
        answers = [
            {"id": one.sample.id, "prompt": one.sample.prompt, "text": one.text}
            | {"truth": one.sample.truth}
            for one in self.about
        ]
        lines = traceback.format_exception(self.__cause__) if self.__cause__ else []
        record = {"term": self.term.name, "found": self.found, "answers": answers}
        write_json(path, record | {"traceback": "".join(lines)})
        self.remedy = f"correct the term; the answer and the traceback are in {path}"
        self.args = (f"{self.where}: {self.found}\n  -> {self.remedy}",)


@contextmanager
def saved_failures(output: Path) -> Iterator[None]:
    """Save what a term fails on as `<output>.failed_reward.json`, then let the error stop the run.

    Args:
        output: What the run would write.
    """
    path = output.with_name(f"{output.name}.failed_reward.json")
    path.unlink(missing_ok=True)  # of an earlier run
    try:
        yield
    except RewardError as error:
        error.save(path)
        raise


def weighted(terms: Sequence[Term], weights: Mapping[str, float]) -> list[Term]:
    """Return terms with their weights replaced by name.

    Raises:
        ConfigError: `weights` names no term, or leaves no term.
    """
    unknown = sorted(set(weights) - {term.name for term in terms})
    if unknown:
        names = ", ".join(term.name for term in terms)
        raise ConfigError("reward.weights", f"unknown term {unknown}", f"valid: {names}")
    chosen = [replace(term, weight=weights.get(term.name, term.weight)) for term in terms]
    if not any(term.weight for term in chosen):
        raise ConfigError("reward.weights", "all weights are 0", "keep one term at least")
    return chosen


def score_all(
    terms: Sequence[Term], judged: Sequence[Judged]
) -> list[tuple[float, dict[str, float | None]]]:
    """Return (reward, value of each term) of every answer.

    The reward is the weighted sum of the terms that concern the sample, divided by the sum of
    their weights; the value of the others is None. Async terms are awaited all at once, after the
    others.

    Raises:
        RewardError: A term raised, returned a value outside 0..1 or not one value per answer.
        ConfigError: No term with a weight concerns a sample.
    """
    waited = [term for term in terms if inspect.iscoroutinefunction(term.score)]
    returned = {
        t.name: [_call(t, share) for share in _shares(t, judged)] for t in terms if t not in waited
    }
    if waited:
        returned |= _awaited(waited, judged)
    columns = {term.name: _column(term, judged, returned[term.name]) for term in terms}
    return [
        _result(terms, one, {name: column[index] for name, column in columns.items()})
        for index, one in enumerate(judged)
    ]


def _column(term: Term, judged: Sequence[Judged], returned: list[Any]) -> list[float | None]:
    """Return the value of a term for every answer, from what its calls returned."""
    shares = zip(_shares(term, judged), returned, strict=True)
    values = iter([value for share, one in shares for value in _values(term, share, one)])
    return [next(values) if term.concerns(one.sample) else None for one in judged]


def _result(
    terms: Sequence[Term], judged: Judged, values: dict[str, float | None]
) -> tuple[float, dict[str, float | None]]:
    """Return the reward of one answer, and its values."""
    counted = [(t.weight, v) for t in terms if (v := values[t.name]) is not None]
    total = sum(weight for weight, _ in counted)
    if not total:
        raise ConfigError(
            "reward.weights",
            f"no term with a weight concerns {judged.sample.id} ({judged.sample.task})",
            "give a term of that task a weight, or leave the task out",
        )
    return sum(weight * value for weight, value in counted) / total, values


def _shares(term: Term, judged: Sequence[Judged]) -> list[list[Judged]]:
    """Return the answers of every call of a term."""
    asked = [one for one in judged if term.concerns(one.sample)]
    return [asked] if term.batched and asked else [[one] for one in asked]


def _call(term: Term, share: list[Judged]) -> Any:
    """Return what a term returns: a value, or a list of them if it is batched."""
    try:
        return term.score(share if term.batched else share[0])
    except Exception as error:  # a term is anyone's code: whatever it raises stops the run
        raise _raised(term, error, share) from error


async def _call_async(term: Term, share: list[Judged]) -> Any:
    try:
        return await term.score(share if term.batched else share[0])
    except Exception as error:  # a term is anyone's code, see `_call`
        raise _raised(term, error, share) from error


def _raised(term: Term, error: Exception, share: list[Judged]) -> RewardError:
    who = share[0].sample.id if len(share) == 1 else f"{len(share)} answers"
    return RewardError(term, f"raised {type(error).__name__}: {error}, for {who}", share)


@cache
def _runner() -> asyncio.Runner:
    """Return one event loop for all calls: clients of remote judges belong to a loop."""
    return asyncio.Runner()


def _awaited(terms: Sequence[Term], judged: Sequence[Judged]) -> dict[str, list[Any]]:
    """Return by name what async terms return, or raise the first error once all have ended."""
    calls = [(term, share) for term in terms for share in _shares(term, judged)]

    async def together() -> list[Any]:
        waiting = (_call_async(term, share) for term, share in calls)
        return await asyncio.gather(*waiting, return_exceptions=True)

    returned: dict[str, list[Any]] = {term.name: [] for term in terms}
    for (term, _), result in zip(calls, _runner().run(together()), strict=True):
        if isinstance(result, BaseException):
            raise result
        returned[term.name].append(result)
    return returned


def _values(term: Term, share: list[Judged], result: Any) -> list[float]:
    """Return the values of one call, checked."""
    values = [result]
    if term.batched:
        try:
            values = list(result)
        except TypeError:
            raise RewardError(
                term, f"returned {result!r}, expected a list of {len(share)} values", share
            ) from None
    if len(values) != len(share):
        found = f"returned {len(values)} values for {len(share)} answers"
        raise RewardError(term, found, share)
    for value, one in zip(values, share, strict=True):
        if not _is_share(value):
            found = f"is {value!r} for {one.sample.id}, expected a number in 0..1"
            raise RewardError(term, found, [one])
    return [float(value) for value in values]


def _is_share(value: Any) -> bool:
    """Return whether a value is a number in 0..1; numbers of numpy and torch are."""
    try:
        return not isinstance(value, str) and 0 <= float(value) <= 1
    except (TypeError, ValueError, RuntimeError):  # RuntimeError: torch's
        return False
