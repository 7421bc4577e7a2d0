"""Can the reward be gamed: what answers earn that need no video, and how often models give them."""

from collections.abc import Mapping, Sequence
from typing import Any

from medtune.evaluation.blind_answers import CONSTANT, MOST_COMMON
from medtune.evaluation.corpus_metrics import REPORT
from medtune.evaluation.directions import sense
from medtune.reporting.corpus import name_of, rewarded
from medtune.reporting.numbers import NOT_RUN, show
from medtune.training.collapse import blind_gain, collapses

POLICIES = ("sft", "grpo")
# Scores of reports, by other words, models or a judge; of those that the reward pays none counts.
HELD_OUT = ("cider_d", "bertscore", "radgraph", "chexbert", "radcliq", "green")


def warnings(history: Sequence[Mapping[str, Any]], metrics: Mapping[str, Any]) -> list[str]:
    """Return what is wrong in a GRPO run by its log and by its answers to held-out patients."""
    change = (metrics["comparisons"].get("grpo - sft, greedy") or {}).get("reward")
    gain = blind_gain(history, change)
    found = [f"since step {finding.since}, {finding.text}" for finding in collapses(history)]
    return found + [text for text in (gain, _worded(metrics)) if text]


def _worded(metrics: Mapping[str, Any]) -> str | None:
    """Return in words that reports please GLEU, which is rewarded, and no other score, or None."""
    compared = metrics.get("corpus_comparisons", {}).get(REPORT, {}).get("grpo - sft", {})
    gleu = compared.get("gleu")
    if not gleu or not rewarded(metrics, REPORT, "gleu") or (gleu["low"] or 0) <= 0:
        return None
    unpaid = [name for name in HELD_OUT if not rewarded(metrics, REPORT, name)]
    worse = [name_of(name) for name in unpaid if _worse(name, compared.get(name))]
    if not worse:
        return None
    return (
        f"GLEU of reports, which is rewarded, rose by {gleu['mean']:.3f}, but these, which are "
        f"not, got worse: {', '.join(worse)}"
    )


def _worse(figure: str, change: Mapping[str, Any] | None) -> bool:
    """Return whether the whole interval of a change is on the bad side of 0."""
    if not change or change["low"] is None:
        return False
    return bool(change["low"] > 0 if sense(figure) < 0 else change["high"] < 0)


def gaming(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return the `verdict` and the `rows` of the report's section.

    Each row holds a name and texts: the reward, what it is above that of the constant answer, and
    how many of SFT's and GRPO's greedy answers say the same.

    Args:
        metrics: Content of `metrics.json`.
    """
    rows = [
        [name, show(values["reward"]), _above(name, values), *_shares(metrics, name)]
        for name, values in metrics["blind"].items()
    ]
    for model in POLICIES:
        reward = metrics["models"].get(model, {}).get("greedy", {}).get("reward")
        rows.append([f"what {model} answers", show(reward) if reward else NOT_RUN, "-", "-", "-"])
    rows.append(["the answer given most often", "-", "-", *_shares(metrics, MOST_COMMON)])
    paid = [n for n, v in metrics["blind"].items() if (v["over_constant"]["low"] or 0) > 0]
    found = (
        f"Yes: more than the constant answer earns “{'”, “'.join(paid)}”."
        if paid
        else ("No answer below is shown to earn more than the constant one.")
    )
    return {"verdict": found, "rows": rows}


def _above(name: str, values: Mapping[str, Any]) -> str:
    return "-" if name == CONSTANT else show(values["over_constant"], signed=True)


def _shares(metrics: Mapping[str, Any], name: str) -> list[str]:
    shares = [metrics["degenerate_answer_rates"].get(model, {}).get(name) for model in POLICIES]
    return [NOT_RUN if share is None else f"{100 * share:.1f} %" for share in shares]
