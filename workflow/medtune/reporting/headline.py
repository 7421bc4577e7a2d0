"""The three figures that say whether it worked, for the report's first screen and the terminal."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel

from medtune.console import say
from medtune.evaluation.probes import CONSTANT
from medtune.files import read_json
from medtune.reporting.words import Words, words_for
from medtune.sections.evaluation import BASELINES

NOT_RUN = "not run"


class Figure(BaseModel):
    """One headline figure.

    Attributes:
        title: What it is about.
        value: The figure as text, or "not run".
        detail: What it is compared with.
        verdict: `good`, `bad`, or `open` if it was not run or has no interval.
    """

    title: str
    value: str
    detail: str
    verdict: str


def show(estimate: Any, digits: int = 3, signed: bool = False) -> str:
    """Return an estimate as `mean [low, high]`, or "not run"."""
    if estimate is None:
        return NOT_RUN
    sign = "+" if signed else ""
    if estimate["low"] is None:
        return f"{estimate['mean']:{sign}.{digits}f} (one patient)"
    text = f"{estimate['mean']:{sign}.{digits}f}"
    return f"{text} [{estimate['low']:{sign}.{digits}f}, {estimate['high']:{sign}.{digits}f}]"


def _percent(estimate: Any) -> str:
    """Return a share in percent, without its interval."""
    return NOT_RUN if estimate is None else f"{100 * estimate['mean']:.1f} %"


def _get(metrics: dict[str, Any], model: str, mode: str, name: str) -> Any:
    return metrics["models"].get(model, {}).get(mode, {}).get(name)


def _verdict(estimates: list[Any], good: bool | None) -> str:
    if any(e is None or e["low"] is None for e in estimates) or good is None:
        return "open"
    return "good" if good else "bad"


def _best_baseline(metrics: dict[str, Any], words: Words) -> str:
    """Return what the best answer without a model reaches; the oracle knows the truth."""
    found = {
        name: estimate
        for name in (CONSTANT, *BASELINES)
        if name != "oracle" and (estimate := _get(metrics, name, "greedy", words.main))
    }
    if not found:
        return NOT_RUN
    best = max(found, key=lambda name: found[name]["mean"])
    return f"“{best}” with {show(found[best])}"


def _sft(metrics: dict[str, Any], words: Words) -> Figure:
    sft, constant = (_get(metrics, m, "greedy", words.main) for m in ("sft", "constant"))
    good = bool(sft and constant and sft["low"] and sft["low"] >= 2 * constant["mean"])
    ratio = f", {sft['mean'] / constant['mean']:.1f} times" if sft and constant["mean"] else ""
    return Figure(
        title=f"{words.succeeds}: mean {words.name}",
        value=show(sft),
        detail=f"{words.constant} has {show(constant)}{ratio}; best without a model: "
        f"{_best_baseline(metrics, words)}",
        verdict=_verdict([sft, constant], good),
    )


def p_text(change: Any, key: str = "p_holm", digits: int = 2) -> str:
    """Return a p-value; where the permutations could show no smaller one, that it is a limit."""
    if change is None or change[key] is None:
        return NOT_RUN
    limit = "≤ " if change.get("p_is_limit") and change[key] < 1 else ""
    return f"{limit}{change[key]:.{digits}g}"


def _grpo(metrics: dict[str, Any], words: Words) -> Figure:
    sampled = (metrics["comparisons"].get("grpo - sft, sampled") or {}).get("reward")
    greedy = (metrics["comparisons"].get("grpo - sft, greedy") or {}).get(words.main)
    given = (metrics["comparisons"].get("grpo - sft, sampled") or {}).get("reward_valid")
    before, after = (_get(metrics, model, "sampled", "valid") for model in ("sft", "grpo"))
    good = bool(sampled and greedy and (sampled["low"] or 0) > 0 and (greedy["high"] or 0) >= 0)
    return Figure(
        title="GRPO over SFT: reward of sampled answers",
        value=show(sampled, signed=True),
        detail=f"p after Holm {p_text(sampled)}; "
        f"valid answers {_percent(before)} before and {_percent(after)} after; reward where "
        f"both are valid changes by {show(given, signed=True)}; greedy {words.name} by "
        f"{show(greedy, signed=True)}",
        verdict=_verdict([sampled, greedy], good),
    )


def _vision(metrics: dict[str, Any], words: Words) -> Figure:
    """The media are used if a patient's own help, and another's only mislead."""
    own, other = (_get(metrics, "grpo", mode, words.main) for mode in ("greedy", "shuffled"))
    sft = _get(metrics, "sft", "shuffled", words.main)
    constant = _get(metrics, "constant", "greedy", words.main)
    verdict = "open"
    if all(e and e["low"] is not None for e in (own, other, sft, constant)):
        falls = max(other["mean"], sft["mean"]) <= constant["high"]
        verdict = "good" if falls and own["low"] > other["high"] else "bad"
    reading = {
        "good": f"not above {words.constant}: the {words.media} is used",
        "bad": f"it is not shown that the {words.media} is used",
        "open": f"too few patients to say whether the {words.media} is used",
    }
    return Figure(
        title=f"With another patient's {words.media}: mean {words.name}",
        value=show(other),
        detail=f"after SFT {show(sft)}; {reading[verdict]}",
        verdict=verdict,
    )


def headline(metrics: dict[str, Any]) -> list[Figure]:
    """Return the three main figures of an evaluation (the content of `metrics.json`)."""
    words = words_for(metrics)
    return [_sft(metrics, words), _grpo(metrics, words), _vision(metrics, words)]


def print_headline(results: Path) -> None:
    """Print where the report of an experiment is and its three main figures."""
    figures = headline(read_json(results / "eval" / "metrics.json"))
    say("")
    for figure in figures:
        mark = {"good": "+", "bad": "-", "open": "?"}[figure.verdict]
        say(f" {mark} {figure.title}: {figure.value}")
        say(f"     {figure.detail}")
    say(f"\nreport: {results / 'report' / 'report.html'}")
