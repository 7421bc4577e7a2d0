"""The labeler beside ConText (medspaCy) and NegEx (negspacy): accuracy on sentences, F1 on Open-i.

    python benchmarks/labeler.py [--engine rules|context|context-cues|negex] [--claims FILE]

All engines get the same sentences and mentions, by `medtune.metrics.lexicon`; what is compared is
how denial and doubt are scoped. `context` has medspaCy's own rules, `context-cues` the cues of
`medtune.metrics.negation` as ConText rules, `negex` negspacy's clinical terms. These libraries need
numpy below 2 and so an environment of their own:

    python -m venv engines
    engines/bin/pip install medspacy negspacy "numpy<2" "pyarrow<20" nibabel pynrrd scipy pydicom
    PYTHONPATH=workflow engines/bin/python benchmarks/labeler.py --engine context --openi FILE
"""

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from label_sentences import Claim, claims, wrong
from openi_reports import PATH, f1_by_label, normal_share, read_reports

from medtune.metrics import negation as cues
from medtune.metrics.labeler import (
    Finding,
    Mention,
    _joined,
    mentions_of,
    read_labels,
    sentences_of,
)

Reader = Callable[[str], Mapping[str, str]]
ENGINES = ("rules", "context", "context-cues", "negex")
CATEGORIES = {
    **{"absent": "NEGATED_EXISTENCE", "removed": "NEGATED_EXISTENCE", "past": "HISTORICAL"},
    **{"doubt": "POSSIBLE_EXISTENCE", "link": "POSSIBLE_EXISTENCE"},
    "unclear": "POSSIBLE_EXISTENCE",
}
DIRECTIONS = {"lone": "BIDIRECTIONAL", "both": "BIDIRECTIONAL", "back": "BACKWARD"}


def rules(text: str) -> dict[str, str]:
    """Return the labels by medtune's own rules; nothing is remembered."""
    return {label: finding.status for label, finding in read_labels.__wrapped__(text).items()}


def library(engine: str) -> Reader:
    """Return a reader whose scopes are a library's."""
    import spacy

    nlp = spacy.blank("en")
    component = _negex(nlp) if engine == "negex" else _context(nlp, engine == "context-cues")

    def read(text: str) -> dict[str, str]:
        found: dict[str, Finding] = {}
        for sentence in sentences_of(text):
            for mention, status in _scoped(nlp, component, sentence):
                finding = Finding(status)
                known = found.get(mention.label)
                found[mention.label] = _joined(known, finding) if known else finding
        return {label: finding.status for label, finding in found.items()}

    return read


def _scoped(nlp, component, sentence: str):  # noqa: ANN001, ANN202 - libraries without types
    """Yield the mentions of a sentence with the status that a library gives them."""
    import spacy

    doc = nlp(sentence)
    for token in doc:
        token.is_sent_start = token.i == 0
    spans: dict[tuple[int, int], list[Mention]] = {}
    for mention in mentions_of(sentence):
        span = doc.char_span(mention.start, mention.end, label="X", alignment_mode="expand")
        spans.setdefault((span.start, span.end), []).append(mention)
    named = [spacy.tokens.Span(doc, start, end, label="X") for start, end in spans]
    doc.ents = spacy.util.filter_spans(named)  # those without a label are none
    component(doc)
    for entity in doc.ents:
        for (start, end), mentions in spans.items():
            if start < entity.start or end > entity.end:
                continue
            for mention in mentions:
                status = _status(entity, mention)
                if status:
                    yield mention, status


def _status(entity, mention: Mention) -> str | None:  # noqa: ANN001
    marks = entity._
    if marks.has("negex"):
        return "absent" if marks.negex != mention.normal else "present"
    if marks.is_historical:
        return None
    if not marks.is_negated and (marks.is_uncertain or marks.is_hypothetical):
        return "uncertain"
    return "absent" if marks.is_negated != mention.normal else "present"


def _negex(nlp):  # noqa: ANN001, ANN202
    from negspacy.negation import Negex
    from negspacy.termsets import termset

    return Negex(
        nlp=nlp,
        name="negex",
        neg_termset=termset("en_clinical").get_patterns(),
        ent_types=["X"],
        extension_name="negex",
        chunk_prefix=[],
    )


def _context(nlp, own_cues: bool):  # noqa: ANN001, ANN202
    from loguru import logger
    from medspacy.context import ConText, ConTextRule

    logger.remove()
    if not own_cues:
        return ConText(nlp)
    context = ConText(nlp, rules=None)
    context.add(
        [
            ConTextRule(
                f"{kind} {reach}",
                CATEGORIES.get(kind, "NONE"),
                pattern=pattern.pattern,
                direction="PSEUDO"
                if kind in ("present", "same")
                else DIRECTIONS.get(reach, "FORWARD"),
            )
            for kind, reach, pattern in cues.CUES
        ]
        + [ConTextRule("end", "TERMINATE", pattern=cues.ENDS.pattern, direction="TERMINATE")]
    )
    return context


def _extra(path: Path) -> list[Claim]:
    """Return the claims of a file of `sentence|Label=status,Label!=status` lines."""
    found = []
    for line in path.read_text().splitlines():
        sentence, bar, words = line.strip('"').rpartition("|")
        for word in filter(None, words.split(",")) if bar and ("=" in words) else ():
            negated = "!=" in word
            label, status = word.split("!=" if negated else "=")
            found.append(Claim(sentence, label, status.strip('"'), negated))
    return found


def main() -> None:
    """Print what an engine reads wrongly, its F1 on Open-i, and its time."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--engine", choices=ENGINES, default="rules")
    parser.add_argument("--claims", type=Path, help="further claims: sentence|Label=status")
    parser.add_argument("--openi", type=Path, default=PATH, help="NLMCXR_reports.tgz")
    given = parser.parse_args()
    read = rules if given.engine == "rules" else library(given.engine)
    parts = claims() | ({given.claims.stem: _extra(given.claims)} if given.claims else {})
    for name, expected in parts.items():
        errors = list(wrong(expected, read))
        inverted = sum(error[-1] for error in errors)
        print(f"{name}: {len(errors)} of {len(expected)} wrong, {inverted} inverted")
    reports = list(read_reports(given.openi))
    start = time.process_time()
    for report in reports:
        read(report.text)
    print(f"{(time.process_time() - start) / len(reports) * 1000:.2f} ms of a core a report")
    for label, value in f1_by_label(reports, read).items():
        print(f"{label}: {value:.3f}")
    print(f"normal reports read as normal: {normal_share(reports, read):.4f}")


if __name__ == "__main__":
    main()
