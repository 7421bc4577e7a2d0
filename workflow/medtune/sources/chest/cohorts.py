"""Sets that were made of the same films: whether it is known which patients they share."""

from collections.abc import Mapping, Sequence

from medtune.config.chest_sources import ChestSourceConfig
from medtune.records.film import Film
from medtune.runtime.errors import DataError

# All made of films of NIH ChestX-ray14.
NIH_KINDS = ("nih_cxr14", "rsna_pneumonia", "siim_pneumothorax")
COHORT = "nih"


def is_unlinked(film: Film, kinds: Mapping[str, str]) -> bool:
    """Return whether a film is one of ChestX-ray14, and nobody says of which of its patients."""
    return kinds[film.source] in NIH_KINDS and not film.patient_id.startswith(f"{COHORT}/")


def check_cohorts(configs: Sequence[ChestSourceConfig], unlinked: Mapping[str, int]) -> None:
    """Check that no film can be in two sources under two patients, and so in two splits.

    Args:
        configs: The sources.
        unlinked: Source -> films of which `is_unlinked` is true.

    Raises:
        DataError: A source has such films, and another one is made of films of ChestX-ray14 too.
    """
    related = [one.name for one in configs if one.kind in NIH_KINDS or one.cohort == COHORT]
    for name in sorted(unlinked):
        others = [one for one in related if one != name]
        if others:
            raise DataError(
                f"source {name}",
                f"{unlinked[name]} of its films are films of ChestX-ray14, as those of {others}, "
                "and it is not known of which patients: they may train in one and test in another",
                "give RSNA's mapping of its films (see docs/data.md), or leave one source out",
            )
