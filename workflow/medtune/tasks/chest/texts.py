"""Texts of the chest tasks against each other."""

from collections.abc import Sequence
from statistics import fmean

from medtune.metrics.labeler import read_labels
from medtune.metrics.labels import set_f1
from medtune.metrics.text import bleu, gleu, rouge
from medtune.sources.chest.labels import LABELS

CANDIDATES, OTHERS = 200, 50  # texts that may be the most typical one, and that decide it


def report_scores(text: str, reference: str) -> dict[str, float | None]:
    """Return the scores of a report (see `medtune.metrics`); labels are read by the same rules.

    label_f1: over the 13 labels, where the reference does not doubt them; what it does not mention
        is absent.
    """
    said, true = (
        {name: one.status for name, one in read_labels(part).items()} for part in (text, reference)
    )
    answered = [name for name, status in said.items() if status == "present"]
    present = [name for name, status in true.items() if status == "present"]
    absent = [name for name in LABELS if true.get(name, "absent") == "absent"]
    bleus, rouges = bleu(text, reference), rouge(text, reference)
    return {
        "gleu": gleu(text, reference),
        "bleu_4": bleus[3] if bleus else None,
        "rouge_l": rouges["rouge_l"] if rouges else None,
        "label_f1": set_f1(answered, present, absent),
    }


def similarity(text: str, reference: str) -> float:
    """Return GLEU; 0 where the reference has no words."""
    return gleu(text, reference) or 0.0


def most_typical(texts: Sequence[str]) -> str:
    """Return the text with the highest mean GLEU to others; without any, that all is normal.

    Of the first `CANDIDATES`, against the first `OTHERS` but itself.
    """
    kept, others = texts[:CANDIDATES], texts[:OTHERS]
    if len(kept) < 2:
        return kept[0] if kept else "No abnormality is seen."

    def mean(index: int) -> float:
        scores = (similarity(kept[index], one) for n, one in enumerate(others) if n != index)
        return fmean(scores)

    return kept[max(range(len(kept)), key=mean)]
