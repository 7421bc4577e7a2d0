"""What a comparison of two stages says, as one word, one sign and one sentence."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from medtune.reporting.numbers import show
from medtune.reporting.report_labels import ReportLabels

# A sign and a word stand beside each color, which alone would tell some readers nothing.
SIGNS = {"better": "▲", "worse": "▼", "format only": "≈", "undecided": "?"}
COLORS = {"better": "good", "worse": "bad"}  # classes of the page; else `open`
STAGES = {"base": "the base model", "sft": "SFT", "grpo": "GRPO", "constant": "the constant answer"}


class Finding(NamedTuple):
    """A verdict (a key of `SIGNS`) and the sentence that says it."""

    verdict: str
    sentence: str


def direction(change: Mapping[str, Any] | None) -> int | None:
    """Return 1 or -1 where the whole interval of a change lies on one side of 0, else 0.

    None: there is no change to speak of, or no interval.
    """
    if not change or change["low"] is None:
        return None
    return int(change["low"] > 0) - int(change["high"] < 0)


def of_stages(metrics: Mapping[str, Any], new: str, old: str, words: ReportLabels) -> Finding:
    """Return what a stage of training changed in greedy answers: their form, and what they say.

    What they say is compared over cases that both stages answer validly; where there are none, as
    if an untrained model fences its JSON, with the form of all answers forgiven. `better` and
    `worse` need an interval on one side of 0; where only more answers are valid, it is `format
    only`. A stage whose main metric falls with invalid answers counted as misses is `worse`
    whatever the rest.
    """
    found = metrics["comparisons"].get(f"{new} - {old}, greedy")
    who = f"{STAGES[new]} against {STAGES[old]}"
    if found is None:
        return Finding("undecided", f"{who}: not run")
    form, content, whole = (found.get(k) for k in ("valid", f"{words.main}_valid", words.main))
    if direction(whole) is None:
        why = "applies to no case" if not whole else "one patient decides nothing"
        return Finding("undecided", f"{who}: {words.name} {why}")
    name = words.name
    if direction(content) is None:
        content, name = found.get(f"{words.main}_lenient"), f"{words.name}, leniently read,"
    said = f"{STAGES[new]} {_form(form)}; {_content(content, words, name)}"
    return Finding(_verdict(direction(form), direction(content), direction(whole)), said)


def _verdict(form: int | None, content: int | None, whole: int | None) -> str:
    if whole == -1:
        return "worse"
    if form == 1 and content in (0, -1):
        return "format only"
    if content is None:
        return "undecided"
    return {1: "better", 0: "undecided", -1: "worse"}[content]


def _form(form: Mapping[str, Any] | None) -> str:
    """Return how many more answers are valid, in percent of all answers."""
    way = direction(form)
    if not form or way is None:
        return "may have changed how many answers are valid"
    if way:
        return (
            f"made {abs(100 * form['mean']):.0f} % {'more' if way > 0 else 'fewer'} answers valid"
        )
    if form["mean"] == 0 == form["low"] == form["high"]:
        return "made neither more nor fewer answers valid"
    return f"is not shown to change how many answers are valid ({100 * form['mean']:+.0f} %)"


def _content(content: Mapping[str, Any] | None, words: ReportLabels, name: str) -> str:
    way = direction(content)
    if not content or way is None:
        return f"its {words.answers} cannot be compared: too few cases are answered validly by both"
    told = {1: "got better", 0: "did not get better", -1: "got worse"}[way]
    return f"{words.answers} {told} ({name} {show(content, signed=True)})"


def over_constant(metrics: Mapping[str, Any], words: ReportLabels) -> Finding:
    """Return whether SFT answers better than the answer that is always the same."""
    found = (metrics["comparisons"].get("sft - constant, greedy") or {}).get(words.main)
    way = direction(found)
    if not found or way is None:
        why = "one patient decides nothing" if found else "not run"
        return Finding("undecided", f"SFT against {words.constant}: {why}")
    verdict = {1: "better", 0: "undecided", -1: "worse"}[way]
    told = {1: "is better than", 0: "is not shown to be better than", -1: "is worse than"}[way]
    return Finding(
        verdict, f"SFT {told} {words.constant} ({words.name} {show(found, signed=True)})"
    )
