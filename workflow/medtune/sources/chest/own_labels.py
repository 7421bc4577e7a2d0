"""Sets that name findings in their own words: what these are called among the 13 labels."""

from collections import Counter
from collections.abc import Collection, Mapping

from medtune.records.film import LabelState
from medtune.sources.chest.issues import Issues
from medtune.sources.chest.labels import NO_FINDING


class OwnLabels:
    """A set's own labels, and the count of those that are none of the 13.

    Args:
        same: Own label -> the labels that mean the same.
        normal: Own labels that say that nothing is found.
        silent: Own labels that say nothing of findings.
    """

    def __init__(
        self,
        same: Mapping[str, tuple[str, ...]],
        normal: Collection[str],
        silent: Collection[str] = (),
    ) -> None:
        self._same, self._normal, self._silent = same, normal, silent
        self.left_out: Counter[str] = Counter()

    def row(self, names: Collection[str]) -> dict[str, str]:
        """Return what a film's own labels say, as a labeler's row (see `read_labels`).

        A finding that is none of the 13 counts as one: the film is not without findings.
        """
        said = {label: "1" for name in names for label in self._same.get(name, ())}
        others = [name for name in names if name not in self._same and not self._tells_none(name)]
        self.left_out.update(others)
        normal = any(name in self._normal for name in names)
        if said or others or normal:
            said[NO_FINDING] = "1" if normal and not others else "0"
        return said

    def _tells_none(self, name: str) -> bool:
        return name in self._normal or name in self._silent

    def warn(self, source: str, findings: Issues) -> None:
        """Say which own labels were left out, the most common first (label-left-out)."""
        for name, count in sorted(self.left_out.items(), key=lambda one: (-one[1], one[0])):
            findings.warn(
                "label-left-out",
                source,
                f"{name!r} of {count} films",
                "one of the 13 labels",
                "nothing (it is not asked for)",
            )


def closed(present: Collection[str], labels: Collection[str]) -> dict[str, LabelState]:
    """Return the labels of a film whose source judges `labels` on every film, and no others."""
    return {label: "present" if label in present else "absent" for label in labels}
