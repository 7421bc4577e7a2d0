"""What is checked of the reports of a source: words, earlier films, and what may name somebody."""

from collections import Counter

from medtune.records.film import Film
from medtune.sources.chest.identifiers import identifier_kinds
from medtune.sources.chest.issues import Issues
from medtune.sources.chest.prior_phrases import REMOVED, prior_phrases
from medtune.sources.chest.wordless import has_words


def speaks_of_priors(text: str) -> bool:
    """Return whether a report speaks of another film or time; a removed date alone is neither."""
    return not {*prior_phrases(text)} <= {*REMOVED}


class ReportCheck:
    """Looks at the reports of a source as its films go by; films of a study follow each other.

    Args:
        source: Name of the source.
        findings: Where findings go.
    """

    def __init__(self, source: str, findings: Issues) -> None:
        self.source, self.findings = source, findings
        self.reports, self.priors = 0, 0
        self.kinds: Counter[str] = Counter()
        self._last: tuple[str, dict[str, str]] | None = None

    def checked(self, film: Film) -> Film:
        """Return a film without the sections of its report that have no words, and count them."""
        worded = {name: text for name, text in film.report.items() if has_words(text)}
        phrases = [region.name for region in film.regions if region.kind == "phrase"]
        if (film.study_id, film.report) != self._last and (film.report or phrases):
            self._last = (film.study_id, film.report)
            self._count(worded, phrases)
            gone = len(film.report) - len(worded)
            if gone:
                self.findings.leave_out(self.source, "section of a report without words", gone)
        if len(worded) < len(film.report):
            return film.model_copy(update={"report": worded})
        return film

    def _count(self, report: dict[str, str], phrases: list[str]) -> None:
        self.reports += bool(report)
        self.priors += any(map(speaks_of_priors, report.values()))
        self.kinds.update(identifier_kinds("\n".join([*report.values(), *phrases])))

    def conclude(self) -> None:
        """Report what was counted. Warnings: report-priors, report-identifiers; nothing is quoted.

        A report whose findings a language model rewrites (`films.texts.filter`) still has its
        identifiers in the index.
        """
        if self.priors:
            self.findings.announce(
                "report-priors",
                self.source,
                f"{self.priors} of {self.reports} reports speak of earlier films",
                "what one film shows",
                "set `films.texts` with `filter`, which takes it out; as they are, reports teach a "
                "model to make up earlier films",
            )
        for kind, count in sorted(self.kinds.items()):
            self.findings.announce(
                "report-identifiers",
                self.source,
                f"{count} reports seem to hold a {kind}",
                "none: de-identified text",
                "look at them before anything is trained or leaves this machine; surrogates of a "
                "published set look the same",
            )
