"""Sections of a raw radiology report: findings, impression, or else its last paragraph.

A header stands at the start of a line or sentence and ends in a colon; only headers that are known
(by name, alias, or a likely typo) begin a section, so that "LEFT LUNG: clear" stays in the text.
Lines such as "FINAL ADDENDUM", or "FINDINGS" alone, begin a section without a colon. Of sections
that occur more than once, the last one with words counts: it is the corrected one. What an addendum
says counts before the report, and the report before a preliminary reading.

Some reports cannot be a target, since what is right of them cannot be told: see `Report`.
"""

import html
import re
from dataclasses import dataclass

from medtune.sources.chest.headers import (
    ADDENDUM,
    FINAL,
    FINDINGS,
    IMPRESSION,
    PRELIMINARY,
    VIEWED,
    holds_only_headers,
    section_of,
)
from medtune.sources.chest.wordless import has_words

LAST = "last_paragraph"
# Which section stands for the whole report, best first.
ORDER = (FINDINGS, IMPRESSION, LAST)
# A full stop inside ends no sentence, and a clock's colon no header ("CHEST FROM ___ AT 05:13:").
NAME = r"[A-Za-z](?:[A-Za-z0-9_ ()/,&\-]|\.(?! )|\d:(?=\d\d)){2,80}?"
HEADER = re.compile(
    r"^[ \t]*(?P<bare>[A-Z][A-Z0-9 /&,()\-]{3,60}?|Findings|Impression)"
    r"(?:[ \t]*$|[ \t]+[-\u2013\u2014][ \t]+)"
    rf"|(?:^|(?<=[.;!?])[ \t]+)[ \t]*(?P<name>{NAME})[ \t]*:(?!\d\d)",
    re.MULTILINE,
)
CLOCK = re.compile(r"\d{1,2}:\d\d")
BREAK = re.compile(r"</?(?:br|p)\b[^>]*>", re.IGNORECASE)  # Open-i has them in plain text
MARKUP = re.compile(
    r"\{\\rtf|<(?:html|head|body|div|span|table|\?xml)\b[^>]*>|\A\s*[{\[]+\s*\"", re.IGNORECASE
)
# Sentences of an addendum that say who was told or who signed, and nothing of the film ...
TOLD = re.compile(
    r"discuss|communicat|notif|phone|\bpaged?\b|informed|convey|\bDr\b|signed|dictat|attest",
    re.IGNORECASE,
)
# ... unless they correct something.
CORRECTS = re.compile(
    r"\b(not|instead|rather|should|correct\w*|errors?|erroneous\w*|incorrect\w*|actually|in fact"
    r"|mis\w+|amend\w*|revis\w+|typo\w*)\b",
    re.IGNORECASE,
)
# What an addendum that says something of the film speaks of.
SHOWN = re.compile(
    r"\b(left|right|bilateral|lungs?|lobes?|apex|apical|bas(?:e|al|ilar)|pleura\w*|heart|cardiac"
    r"|mediastin\w+|hil(?:ar|um)|ribs?|spine|fractur\w+|pneumothora\w+|effusions?|opaci\w+"
    r"|consolidat\w+|pneumonia|o?edema|atelecta\w+|nodul\w+|mass\w*|lesions?|cardiomegaly|tubes?"
    r"|catheters?|lines?|picc|pacemaker|devices?|tip|normal|abnormal\w*|findings?)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Report:
    """What was read of a report.

    Attributes:
        sections: Those of `ORDER` that it has, by name; none if `doubt` is given.
        doubt: Why it is no target although it has words, or None.
    """

    sections: dict[str, str]
    doubt: str | None = None


@dataclass(frozen=True)
class Part:
    """A section as it stands in the text; `within`: report, addendum or preliminary reading."""

    name: str
    within: str
    header: str
    body: str


def read_sections(text: str) -> dict[str, str]:
    """Return the sections of a report by name, those of `ORDER` that it has; see `read_report`."""
    return read_report(text).sections


def read_report(text: str) -> Report:
    """Return the sections of a report.

    `last_paragraph` is given where there are neither findings nor an impression: what follows the
    first paragraph of the last section, or all of a text without sections. Newlines and runs of
    spaces become one space. A section without words is none.

    In doubt is a report that is not plain text; one whose addendum speaks of the film in free text,
    so that it cannot be told which of its findings still hold; and one that describes films of
    several hours one by one.
    """
    text = _plain(text)
    if MARKUP.search(text):
        return Report({}, "it is RTF, HTML, XML or JSON, not plain text")
    parts = _parts(text)
    if _amended(parts):
        return Report({}, "a free-text addendum changes what it says")
    hours = {tuple(CLOCK.findall(p.header)) for p in parts if p.name in (FINDINGS, VIEWED)}
    if len(hours - {()}) > 1:
        return Report({}, "it describes films of several hours one by one")
    found = _found(parts)
    if not found and (last := _last_paragraph(parts)):
        found = {LAST: last}
    return Report({name: found[name] for name in ORDER if name in found})


def best_section(report: dict[str, str]) -> str | None:
    """Return the text that stands for a report: findings, else impression, else last paragraph."""
    return next((report[name] for name in ORDER if report.get(name)), None)


def _plain(text: str) -> str:
    """Return a text without byte-order mark, emphasis, breaks of HTML and others' newlines."""
    text = BREAK.sub("\n", html.unescape(text))
    text = text.replace("\ufeff", "").replace("\r\n", "\n").replace("\r", "\n").replace("\f", "\n")
    text = text.replace("\u00a0", " ").replace("\uff1a", ":")
    return re.sub(r"^[ \t]*#+[ \t]*|\*\*", "", text, flags=re.MULTILINE)


def _parts(text: str) -> list[Part]:
    """Return the sections in order; what stands before any header is a section of its own."""
    parts, name, within, shown, start = [], "start", FINAL, "", 0
    for header in HEADER.finditer(text):
        section = _section(header, name)
        if section is not None:
            parts.append(Part(name, within, shown, text[start : header.start()]))
            name, shown, start = section, header.group(), header.end()
            within = section if section in (ADDENDUM, FINAL, PRELIMINARY) else within
    return [*parts, Part(name, within, shown, text[start:])]


def _section(header: re.Match[str], inside: str) -> str | None:
    """Return the section that begins here, or None."""
    written = (header["name"] or header["bare"]).strip()
    if header["bare"] and not holds_only_headers(written):
        return None
    # Several small words may be the end of a sentence, but not where a paragraph begins.
    before = header.string[: header.start()]
    if written.islower() and (written.isalpha() or re.search(r"(\A|\n[ \t]*\n)\s*\Z", before)):
        written = written.capitalize()
    section = section_of(written, inside)
    # Inside a line of findings, "Comparison: ..." may be a remark: what follows must not be lost.
    starts_line = header.string[: header.start("name")].rpartition("\n")[2].strip() == ""
    remark = inside in ORDER and not written.isupper() and section not in ORDER
    return None if remark and header["name"] and not starts_line else section


def _amended(parts: list[Part]) -> bool:
    """Return whether an addendum speaks of the film outside any section."""
    sentences = (
        one
        for part in parts
        if part.name == ADDENDUM
        for one in re.split(r"(?<=[.;!?])\s+|\n[ \t]*\n", part.body)
    )
    return any(
        SHOWN.search(one) and (CORRECTS.search(one) or not TOLD.search(one)) for one in sentences
    )


def _found(parts: list[Part]) -> dict[str, str]:
    """Return findings and impression of the addendum, else of the report, else of what came first.

    Where an addendum has one of them, the other of the report may no longer hold.
    """
    for within in (ADDENDUM, FINAL, PRELIMINARY):
        bodies = {
            part.name: _one_line(part.body)
            for part in parts
            if part.within == within and has_words(part.body)
        }
        chosen = {name: bodies[name] for name in (FINDINGS, IMPRESSION) if name in bodies}
        if FINDINGS not in chosen and VIEWED in bodies:
            chosen[FINDINGS] = bodies[VIEWED]
        if chosen:
            return chosen
    return {}


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _last_paragraph(parts: list[Part]) -> str:
    """Return what follows the first paragraph of the last section that is no addendum.

    Below no header, or one that says no more than that here the report begins, the first paragraph
    is text as well, unless it names the views.
    """
    rest = [part for part in parts if part.name != ADDENDUM and part.body.strip()]
    if not rest:
        return ""
    paragraphs = re.split(r"\n[ \t]*\n", rest[-1].body.strip())
    all_text = rest[-1].name in ("start", FINAL) and section_of(paragraphs[0].strip()) is None
    text = _one_line(" ".join(paragraphs if all_text else paragraphs[1:]))
    return text if has_words(text) else ""
