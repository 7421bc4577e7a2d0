"""Sections of a raw radiology report: findings, impression, or else its last paragraph.

A header stands at the start of a line and ends in a colon; only headers that are known (by name,
alias, or a likely typo) begin a section, so that "LEFT LUNG: clear" stays in the text. Lines such
as "FINAL ADDENDUM" begin a section without a colon. Of sections that occur more than once, the
last one with text counts: it is the corrected one.
"""

import re
from difflib import get_close_matches
from functools import lru_cache

FINDINGS, IMPRESSION, LAST = "findings", "impression", "last_paragraph"
# Which section stands for the whole report, best first.
ORDER = (FINDINGS, IMPRESSION, LAST)
HEADER = re.compile(
    r"^[ \t]*(?:(?P<name>[A-Za-z][A-Za-z0-9_ ()/,&.\-]{2,60}?)[ \t]*:"
    r"|(?P<line>(?:FINAL|WET|PRELIMINARY)[ \t]+(?:REPORT|READ|ADDENDUM)|ADDENDUM)[ \t]*$)",
    re.MULTILINE,
)
# Word of a header -> section; the first in this list counts.
WORDS = {
    "addendum": "addendum",
    "impression": IMPRESSION,
    "conclusion": IMPRESSION,
    "findings": FINDINGS,
    "finding": FINDINGS,
    "comparison": "comparison",
    "history": "history",
    "indication": "history",
    "reason": "history",
    "clinical": "history",
    "technique": "technique",
    "examination": "examination",
    "exam": "examination",
    "procedure": "examination",
    "study": "examination",
    "recommendation": "recommendation",
    "notification": "notification",
    "report": "report",
    "read": "wet read",
}
# A header of such words alone names the views; findings stand below it where there is no section
# of that name.
VIEWS = {
    *("chest", "portable", "bedside", "radiograph", "radiographs", "film", "films", "x", "ray"),
    *("xray", "view", "views", "pa", "ap", "lateral", "frontal", "decubitus", "upright", "erect"),
    *("supine", "semi", "semiupright", "single", "one", "two", "three", "and", "of", "the"),
}
SPELT = [word for word in WORDS if len(word) >= 8]
# Other words of headers that are not written in capitals.
SMALL = {"and", "for", "of", "the", "type"}


@lru_cache(maxsize=4096)
def section_of(header: str) -> str | None:
    """Return the section that a header names, or None if it is none that is known.

    Args:
        header: What stands before the colon, as written.
    """
    said = re.findall(r"[a-z]+", header.lower())
    if header.isupper() and set(said) <= VIEWS:
        return "views"
    words = [word for word in WORDS if word in said]  # in the order of WORDS
    if not words and header.isupper():
        close = [get_close_matches(one, SPELT, n=1, cutoff=0.8) for one in said if len(one) >= 6]
        words = [match[0] for match in close if match]
    if not words or len(said) > 6:
        return None
    plain = header[0].isupper() and set(said) <= WORDS.keys() | SMALL
    if not header.isupper() and not plain:
        return None
    named = [WORDS[word] for word in words]
    return FINDINGS if {FINDINGS, IMPRESSION} <= set(named) else named[0]


def read_sections(text: str) -> dict[str, str]:
    """Return the sections of a report by name, those of `ORDER` that it has.

    `last_paragraph` is given where there are neither findings nor an impression: what follows the
    first paragraph of the last section. Newlines and runs of spaces become one space.
    """
    parts = _parts(text)
    found = {name: one for name, body in parts if (one := _one_line(body))}
    chosen = {name: found[name] for name in (FINDINGS, IMPRESSION) if name in found}
    if FINDINGS not in chosen and "views" in found:
        chosen[FINDINGS] = found["views"]
    if not chosen and (last := _last_paragraph(parts)):
        chosen[LAST] = last
    return {name: chosen[name] for name in ORDER if name in chosen}


def best_section(report: dict[str, str]) -> str | None:
    """Return the text that stands for a report: findings, else impression, else last paragraph."""
    return next((report[name] for name in ORDER if report.get(name)), None)


def _parts(text: str) -> list[tuple[str, str]]:
    """Return (section, text) in order; what stands before any header is a section of its own."""
    text = text.replace("\r\n", "\n")
    parts, name, start = [], "start", 0
    for header in HEADER.finditer(text):
        section = section_of(header["name"] or header["line"])
        if section is not None:
            parts.append((name, text[start : header.start()]))
            name, start = section, header.end()
    return [*parts, (name, text[start:])]


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _last_paragraph(parts: list[tuple[str, str]]) -> str:
    """Return what follows the first paragraph of the last section that is no addendum."""
    rest = [one for one in parts if one[0] != "addendum" and one[1].strip()]
    if not rest:
        return ""
    name, body = rest[-1]
    paragraphs = re.split(r"\n[ \t]*\n", body.strip())
    if len(paragraphs) == 1 and name in ("start", "report"):  # below no header
        return _one_line(body)
    return _one_line(" ".join(paragraphs[1:]))
