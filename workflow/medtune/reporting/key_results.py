"""The three answers that say whether it worked, for the report's first screen and the terminal."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel

from medtune.config.evaluation import BASELINES
from medtune.evaluation.blind_answers import CONSTANT
from medtune.reporting.numbers import NOT_RUN, p_text, show
from medtune.reporting.report_labels import ReportLabels, words_for
from medtune.reporting.verdicts import COLORS, SIGNS, of_stages, over_constant
from medtune.runtime.console import log
from medtune.runtime.files import read_json


class Figure(BaseModel):
    """One headline answer.

    Attributes:
        title: What it is about, true whatever the outcome.
        value: The figure as text, or "not run".
        verdict: `better`, `worse`, `format only` or `undecided`.
        sentence: The answer in words.
        detail: Further figures that it rests on.
    """

    title: str
    value: str
    verdict: str
    sentence: str
    detail: str

    @property
    def sign(self) -> str:
        """The verdict as one character."""
        return SIGNS[self.verdict]

    @property
    def color(self) -> str:
        """The verdict as a class of the page."""
        return COLORS.get(self.verdict, "open")


def _get(metrics: dict[str, Any], model: str, mode: str, name: str) -> Any:
    return metrics["models"].get(model, {}).get(mode, {}).get(name)


def _told(metrics: dict[str, Any], model: str, mode: str, name: str) -> str:
    """Return a figure as text: "not run" where the model gave no such answers."""
    was_run = mode in metrics["models"].get(model, {})
    return show(_get(metrics, model, mode, name)) if was_run else NOT_RUN


def _percent(metrics: dict[str, Any], model: str, name: str) -> str:
    """Return a share of greedy answers in percent, without its interval."""
    share = _get(metrics, model, "greedy", name)
    return f"{100 * share['mean']:.1f} %" if share else _told(metrics, model, "greedy", name)


def _change(metrics: dict[str, Any], pair: str, name: str) -> tuple[str, str]:
    """Return a change and its p-value as texts: "not run" where a side was not run."""
    changes = metrics["comparisons"].get(pair)
    if changes is None:
        return NOT_RUN, NOT_RUN
    return show(changes.get(name), signed=True), p_text(changes.get(name))


def _best_baseline(metrics: dict[str, Any], words: ReportLabels) -> str:
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


def _sft(metrics: dict[str, Any], words: ReportLabels) -> Figure:
    finding, from_base = over_constant(metrics, words), of_stages(metrics, "sft", "base", words)
    return Figure(
        title=f"SFT: mean {words.name}",
        value=_told(metrics, "sft", "greedy", words.main),
        verdict=finding.verdict,
        sentence=finding.sentence,
        detail=f"{words.constant} has {_told(metrics, CONSTANT, 'greedy', words.main)}; best "
        f"without a model: {_best_baseline(metrics, words)}. Against the base model: "
        f"{from_base.verdict}. {from_base.sentence}",
    )


def _grpo(metrics: dict[str, Any], words: ReportLabels) -> Figure:
    finding = of_stages(metrics, "grpo", "sft", words)
    reward, p = _change(metrics, "grpo - sft, sampled", "reward")
    before, after = (_percent(metrics, model, "valid") for model in ("sft", "grpo"))
    return Figure(
        title=f"GRPO over SFT: change of {words.name}, invalid answers as misses",
        value=_change(metrics, "grpo - sft, greedy", words.main)[0],
        verdict=finding.verdict,
        sentence=finding.sentence,
        detail=f"valid answers {before} before and {after} after; reward of sampled answers "
        f"{reward}, p after Holm {p}",
    )


def _vision(metrics: dict[str, Any], words: ReportLabels) -> Figure:
    """The media are used if a patient's own help, and another's only mislead."""
    own, other = (_get(metrics, "grpo", mode, words.main) for mode in ("greedy", "shuffled"))
    sft = _get(metrics, "sft", "shuffled", words.main)
    constant = _get(metrics, CONSTANT, "greedy", words.main)
    verdict, sentence = "undecided", f"Whether the {words.media} is used: not run"
    if all((own, other, sft, constant)):
        sentence = f"Too few patients say whether the {words.media} is used"
    if all(e and e["low"] is not None for e in (own, other, sft, constant)):
        falls = max(other["mean"], sft["mean"]) <= constant["high"]
        sentence = f"It is not shown that the {words.media} is used"
        if other["low"] > own["high"]:
            verdict = "worse"
            sentence = f"The right {words.media} makes answers worse than another patient's"
        elif falls and own["low"] > other["high"]:
            verdict = "better"
            sentence = (
                f"The {words.media} is used: with another patient's, answers are not above "
                f"{words.constant}"
            )
    return Figure(
        title=f"With another patient's {words.media}: mean {words.name}",
        value=_told(metrics, "grpo", "shuffled", words.main),
        verdict=verdict,
        sentence=sentence,
        detail=f"with its own {_told(metrics, 'grpo', 'greedy', words.main)}; after SFT, with "
        f"another patient's, {_told(metrics, 'sft', 'shuffled', words.main)}",
    )


def headline(metrics: dict[str, Any]) -> list[Figure]:
    """Return the three main answers of an evaluation (the content of `metrics.json`)."""
    words = words_for(metrics)
    return [_sft(metrics, words), _grpo(metrics, words), _vision(metrics, words)]


def print_headline(results: Path) -> None:
    """Print where the report of an experiment is and its three main answers."""
    figures = headline(read_json(results / "eval" / "metrics.json"))
    log("")
    for figure in figures:
        log(f" {figure.sign} {figure.verdict}: {figure.sentence}")
        log(f"     {figure.title} {figure.value}; {figure.detail}")
    log(f"\nreport: {results / 'report' / 'report.html'}")
