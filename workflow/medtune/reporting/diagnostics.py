"""Curves of a training, each with what to look for, and why one may be missing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medtune.evaluation.directions import with_arrow
from medtune.reporting.plots import curves, term_names

History = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Curve:
    """A plot over optimizer steps.

    Attributes:
        title: What it shows.
        keys: Key in the log -> name in the legend.
        axis: Title of the y axis.
        reading: What a sound run looks like.
        absent: Why there may be nothing to show.
    """

    title: str
    keys: Mapping[str, str]
    axis: str
    reading: str
    absent: str = "not logged"


GRADIENT = Curve("Gradient norm", {"grad_norm": "before clipping"}, "norm", "Peaks are brief.")
SFT = (
    Curve(
        "Loss",
        {"loss": "training", "eval_loss": "validation"},
        "nats per token ↓",
        "Both fall. Validation that rises again has learned patients by heart.",
    ),
    GRADIENT,
)
GRPO = (
    Curve(
        "Reward",
        {"reward": "mean", "reward_std": "standard deviation"},
        "reward of rollouts ↑",
        "The mean rises and holds.",
    ),
    Curve(
        "Groups without signal",
        {"frac_reward_zero_std": "all answers earn the same"},
        "share of groups",
        "Below one half: from such groups nothing is learned.",
    ),
    Curve(
        "KL to the model GRPO starts from",
        {"kl": "KL"},
        "nats per token",
        "Grows slowly. A jump means that the policy runs away.",
        "not measured: grpo.beta is 0",
    ),
    Curve(
        "Entropy",
        {"entropy": "entropy"},
        "nats per token",
        "Falls slowly. At 0, answers hardly vary any more.",
    ),
    Curve(
        "Clipped tokens",
        {
            "clip_ratio/region_mean": "all",
            "clip_ratio/low_mean": "too unlikely",
            "clip_ratio/high_mean": "too likely",
        },
        "share of tokens",
        "Some per cent at most. With one update per batch of rollouts it is 0.",
    ),
    Curve(
        "Length of answers",
        {
            "completions/mean_length": "mean",
            "completions/min_length": "shortest",
            "completions/max_length": "longest",
        },
        "tokens",
        "Steady, and below the limit.",
    ),
    Curve(
        "Answers that differ, and that are cut off",
        {"answers/distinct": "differ in a group", "completions/clipped_ratio": "cut off"},
        "share of answers",
        "Many differ, few are cut off.",
    ),
    GRADIENT,
    Curve(
        "Rollout against learner",
        {
            "sampling/sampling_logp_difference/mean": "mean",
            "sampling/sampling_logp_difference/max": "largest",
        },
        "gap of log-probabilities",
        "The mean stays below 0.1: else another model is trained than the one that answers.",
        "not measured: the learner samples its own answers",
    ),
    Curve(
        "Prompts drawn anew",
        {"resampling/prompts": "prompts", "resampling/left_without_difference": "left as they are"},
        "prompts",
        "Few: else most prompts are too easy or too hard.",
        "not run: grpo.dynamic_sampling_rounds is 0",
    ),
)


def _of_terms(history: History) -> tuple[Curve, ...]:
    terms = term_names(history)
    return (
        Curve(
            "Reward by term",
            {f"terms/{t}/mean": t for t in terms},
            "mean of each term ↑",
            "All rise. One that rises alone may be gamed.",
        ),
        Curve(
            "Deviation of each term within a group",
            {f"terms/{t}/group_std": t for t in terms},
            "standard deviation",
            "This is what is learned from; a term at 0 teaches nothing.",
        ),
    )


def _held_out(main: str, absent: str) -> tuple[Curve, ...]:
    return (
        Curve(
            "Reward on validation patients",
            {"eval_reward": "greedy", "eval_sampled_reward": "sampled"},
            "mean reward ↑",
            "Rises with training. If it falls, what is learned does not hold elsewhere: the best "
            "step is kept (`keep_best`).",
            absent,
        ),
        Curve(
            "Main metric on validation patients",
            {f"eval_{main}": main},
            with_arrow(f"mean {main} of greedy answers", main),
            "Gets better with the reward. If it does not, the reward pays for something else.",
            absent,
        ),
    )


def diagnostics(
    sft: History, grpo: History, main: str
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the figures {stage, id, title, reading, absent} and the charts by id.

    `absent` says why there is no chart; it is None where there is one.

    Args:
        sft: Log of SFT.
        grpo: Log of GRPO.
        main: The task's main metric.
    """
    figures, charts = [], {}
    absent = "not run: {}.eval_generation_samples is 0, or nobody validates"
    validated = {name: _held_out(main, absent.format(name)) for name in ("sft", "grpo")}
    stages = (
        ("SFT", sft, (SFT[0], *validated["sft"], *SFT[1:])),
        ("GRPO", grpo, (GRPO[0], *validated["grpo"], *_of_terms(grpo), *GRPO[1:])),
    )
    for stage, history, wanted in stages:
        for number, curve in enumerate(wanted):
            name = f"{stage.lower()}_{number}"
            logged = any(entry.get(key) is not None for entry in history for key in curve.keys)
            if logged:
                charts[name] = curves(history, curve.keys, curve.axis)
            figures.append(
                {
                    "stage": stage,
                    "id": name,
                    "title": curve.title,
                    "reading": curve.reading,
                    "absent": None if logged else curve.absent,
                }
            )
    return figures, charts
