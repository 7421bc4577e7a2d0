"""Signs in the log of a GRPO run that the policy collapses, or that its reward means nothing.

They warn and stop nothing: each can be what a run is meant to do.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, NamedTuple

WINDOW = 5  # log entries of the start, and in a row that must show a sign
History = Sequence[Mapping[str, Any]]


class CollapseSign(NamedTuple):
    """A sign of collapse.

    Attributes:
        since: The first step of the log that shows it.
        step: The step at which it had lasted long enough to tell.
        text: What is wrong, and what to do.
    """

    since: int
    step: int
    text: str


@dataclass(frozen=True)
class Sign:
    """What is looked for in the log.

    Attributes:
        key: The logged number.
        shows: Whether a value shows it, given the mean of the first entries.
        text: What is wrong, with `value` and `start`, and what to do.
    """

    key: str
    shows: Callable[[float, float], bool]
    text: str


SIGNS = (
    Sign(
        "entropy",
        lambda value, start: value < 0.1 * start,
        "entropy per token fell from {start:.3g} to {value:.3g}: answers hardly vary any more; "
        "lower the learning rate or the updates per rollout",
    ),
    Sign(
        "entropy",
        lambda value, start: value > 3 * max(start, 0.1),
        "entropy per token rose from {start:.3g} to {value:.3g}: answers turn into noise; lower "
        "the learning rate, or set grpo.beta",
    ),
    Sign(
        "frac_reward_zero_std",
        lambda value, _: value >= 0.95,
        "all answers earn the same in {value:.0%} of groups: there is nothing to learn from; look "
        "at the answers in completions/, and try grpo.curriculum or grpo.dynamic_sampling_rounds",
    ),
    Sign(
        "answers/distinct",
        lambda value, _: value <= 0.05,
        "the answers to one prompt are all the same ({value:.0%} differ): raise "
        "grpo.temperature, or start from an earlier model",
    ),
    Sign(
        "completions/clipped_ratio",
        lambda value, _: value >= 0.9,
        "{value:.0%} of answers are cut off at their longest: raise grpo.max_completion_length if "
        "they make sense, and look at the reward if they do not",
    ),
    Sign(
        "completions/mean_length",
        lambda value, start: value < 0.25 * start,
        "answers shrank from {start:.0f} to {value:.0f} tokens: see whether the reward pays for "
        "short ones",
    ),
    Sign(
        "completions/mean_length",
        lambda value, start: value > 4 * start,
        "answers grew from {start:.0f} to {value:.0f} tokens: see whether the reward pays for "
        "long ones",
    ),
    Sign(
        "grad_norm",
        lambda value, start: value > 10 * start > 0,
        "the gradient grew from {start:.3g} to {value:.3g}: lower the learning rate",
    ),
)


def collapses(history: History) -> list[CollapseSign]:
    """Return what is wrong in the log of a GRPO run, each sign once, by the step it shows from.

    A sign must show in five entries in a row; where it is relative, to the mean of the first five.

    Args:
        history: Log entries, each with its `step`; those without a sign's number do not count.
    """
    found = (_first(sign, history) for sign in SIGNS)
    return sorted(finding for finding in found if finding)


def _first(sign: Sign, history: History) -> CollapseSign | None:
    rows = [(e["step"], float(e[sign.key])) for e in history if e.get(sign.key) is not None]
    if len(rows) < WINDOW:
        return None
    start = fmean(value for _, value in rows[:WINDOW])
    for last in range(WINDOW, len(rows) + 1):
        window = rows[last - WINDOW : last]
        if all(sign.shows(value, start) for _, value in window):
            step, value = window[-1]
            return CollapseSign(window[0][0], step, sign.text.format(value=value, start=start))
    return None


def blind_gain(history: History, held_out: Mapping[str, Any] | None) -> str | None:
    """Return in words that the reward rose in training and fell on held-out patients, or None.

    Args:
        history: Log entries of the GRPO run.
        held_out: Estimate of the change of the reward of greedy answers, or None.
    """
    rewards = [float(entry["reward"]) for entry in history if entry.get("reward") is not None]
    if len(rewards) < 2 or not held_out or held_out["high"] is None or held_out["high"] >= 0:
        return None
    part = max(1, len(rewards) // 4)
    before, after = fmean(rewards[:part]), fmean(rewards[-part:])
    if after <= before:
        return None
    return (
        f"the reward of rollouts rose from {before:.3f} to {after:.3f}, but that of greedy answers "
        f"to held-out patients fell by {-held_out['mean']:.3f}: what was learned does not hold "
        "elsewhere"
    )
