"""RadCliQ-v1: a line through four scores of a report, fitted to errors that radiologists counted.

Yu et al., "Evaluating progress in automatic chest X-ray radiology report generation", Patterns 4,
2023. Lower is better. What goes in decides what the number means:

    canonical      RadGraph F1 by the original RadGraph, BERTScore with inverse document
                   frequencies of the references: what the line was fitted on
    as published   by a GRPO system (arXiv:2512.10691): radgraph-xl, no frequencies, lower case

The two are not to be compared. Both use BERTScore of layer 5 of distilroberta, rescaled, and the
cosine of CheXbert's [CLS] vectors. The weight of the fourth score, BLEU, is 0 to the digits that
are known, and it is left out.
"""

from typing import NamedTuple

PERFECT, NOTHING = -1.441, 2.450  # of features that are all 1, and all 0


class Features(NamedTuple):
    """What RadCliQ is made from.

    Attributes:
        radgraph: Mean of the F1 of entities and the F1 of relations, 0..1.
        bertscore: F1 of BERTScore, rescaled: 1 is perfect, 0 is chance.
        chexbert: Cosine of the vectors of both texts, -1..1.
    """

    radgraph: float
    bertscore: float
    chexbert: float


MEANS = Features(0.53792312, 0.61757256, 0.76479421)
SCALES = Features(0.30282584, 0.22430938, 0.25394391)
WEIGHTS = Features(-0.377083683, -0.3703001, -0.252616218)


def radcliq(features: Features) -> float:
    """Return RadCliQ-v1; lower is better."""
    standard = zip(WEIGHTS, features, MEANS, SCALES, strict=True)
    return sum(weight * (value - mean) / scale for weight, value, mean, scale in standard)
