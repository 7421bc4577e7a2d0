"""How often samples come in training: the repetition of the published system, as weights.

RadVLM (Deperrois et al., arXiv:2502.03333) lists some of its sets several times and cuts one down,
which makes 1,115,021 pairs of an epoch. Here nothing is copied: the weights go into
`dataset_weights`, by which samples are drawn from the training split when it is loaded.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class MixEntry:
    """One set of pairs.

    Attributes:
        source: Kind of source.
        task: The task.
        pairs: Its pairs in the published training data, before repetition.
        weight: How often each comes in an epoch.
        tested: Its pairs in the published evaluation; 0: none. Labels are tested on CheXpert.
    """

    source: str
    task: str
    pairs: int
    weight: float = 1.0
    tested: int = 0


ANATOMICAL_PAIRS = 80_000  # drawn from the films that have scene graphs
PUBLISHED: Sequence[MixEntry] = (
    MixEntry("mimic_cxr", "report_generation", 230_980, tested=3_314),
    MixEntry("chexpert_plus", "report_generation", 186_463),
    MixEntry("mimic_cxr", "abnormality_classification", 237_912),
    MixEntry("chexpert", "abnormality_classification", 191_027, tested=518),
    MixEntry(
        "chest_imagenome",
        "anatomical_grounding",
        162_794,
        ANATOMICAL_PAIRS / 162_794,
        tested=2_000,
    ),
    MixEntry("vindr_cxr", "abnormality_grounding", 16_089, 3, tested=2_108),
    MixEntry("vindr_cxr", "abnormality_detection", 15_000, 2),
    MixEntry("ms_cxr", "phrase_grounding", 971, 3, tested=189),
    MixEntry("padchest_gr", "phrase_grounding", 4_478, 2),
    MixEntry("mimic_cxr", "conversation", 86_155, tested=500),
    MixEntry("ms_cxr", "grounded_conversation", 862, 4, tested=155),
    MixEntry("padchest_gr", "grounded_conversation", 2_225, 4),
)


def default_weights(kinds: Mapping[str, str]) -> dict[str, float]:
    """Return the published `dataset_weights`, by `<source>/<task>`; those of 1 are left out.

    Args:
        kinds: Kind of source by the name of each source of the configuration.
    """
    return {
        f"{name}/{share.task}": share.weight
        for name, kind in kinds.items()
        for share in PUBLISHED
        if share.source == kind and share.weight != 1
    }
