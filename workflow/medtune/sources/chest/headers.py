"""Headers of radiology reports: which section of a report a header names."""

import re
from difflib import get_close_matches
from functools import lru_cache

FINDINGS, IMPRESSION, VIEWED = "findings", "impression", "views"
ADDENDUM, FINAL, PRELIMINARY = "addendum", "report", "wet read"
# Word of a header -> section; the first in this list counts.
WORDS = {
    "addendum": ADDENDUM,
    "impression": IMPRESSION,
    "imp": IMPRESSION,
    "beurteilung": IMPRESSION,
    "conclusion": IMPRESSION,
    "opinion": IMPRESSION,
    "interpretation": IMPRESSION,
    "assessment": IMPRESSION,
    "summary": IMPRESSION,
    "discussion": IMPRESSION,
    "findings": FINDINGS,
    "finding": FINDINGS,
    "results": FINDINGS,
    "result": FINDINGS,
    "resultats": FINDINGS,
    "hallazgos": FINDINGS,
    "befund": FINDINGS,
    "comparison": "comparison",
    "history": "history",
    "indication": "history",
    "reason": "history",
    "clinical": "history",
    "admitting": "history",
    "diagnosis": IMPRESSION,
    "technique": "technique",
    "examination": "examination",
    "exam": "examination",
    "procedure": "examination",
    "study": "examination",
    "recommendation": "recommendation",
    "notification": "notification",
    "signed": "signature",
    "dictated": "signature",
    "transcribed": "signature",
    "attending": "signature",
    "preliminary": PRELIMINARY,
    "wet": PRELIMINARY,
    "report": FINAL,
    "read": PRELIMINARY,
}
# Words that headers of a section hold beside those above; any other word makes a header that
# stands in findings or impression a sub-heading: "STUDY QUALITY", "OTHER FINDINGS".
BESIDE = {
    *("and", "for", "of", "the", "type", "s", "information", "data", "date", "dates", "time"),
    *("brief", "relevant", "medical", "patient", "patients", "final", "by", "electronically"),
    *("radiographic", "radiological", "radiologic", "radiology", "overall", "chest", "cxr", "xr"),
}
# A header of such words alone names the views; findings stand below it where there is no section
# of that name.
VIEWS = {
    *("chest", "portable", "bedside", "radiograph", "radiographs", "film", "films", "x", "ray"),
    *("rays", "xray", "xrays", "cxr", "view", "views", "image", "images", "projection"),
    *("projections", "pa", "ap", "lateral", "frontal", "decubitus", "upright", "erect", "supine"),
    *("semi", "semiupright", "semierect", "single", "dual", "one", "two", "three", "and", "of"),
    *("the", "left", "right", "from", "at", "on", "dated", "obtained", "am", "pm", "hours", "hrs"),
    *("digital", "standard", "conventional", "plain"),
}
WHAT = {
    "chest",
    "radiograph",
    "radiographs",
    "film",
    "films",
    "cxr",
    "xray",
    "ray",
    "view",
    "views",
}
SPELT = [word for word in WORDS if len(word) >= 8]
# Other words of headers that are not written in capitals.
SMALL = {"and", "by", "electronically", "final", "for", "of", "s", "the", "type"}
MOST_WORDS = 6
SHORTEST_TYPO = 6  # letters; shorter words are like too many others


@lru_cache(maxsize=4096)
def section_of(header: str, inside: str | None = None) -> str | None:
    """Return the section that a header names, or None if it is none that is known.

    Args:
        header: What stands before the colon, as written.
        inside: The section in which it stands. In findings or impression only headers that hold
            nothing else begin another section: others are headings of a structured text.
    """
    words = re.findall(r"[a-z]+", header.lower())
    in_text = inside in (FINDINGS, IMPRESSION)
    if _names_views(words, header) and not (in_text and not header.isupper()):
        return None if inside == FINDINGS else VIEWED
    if not WORDS.keys() & set(words) and (header.isupper() or len(words) == 1):
        words = [_meant(word) for word in words]
    known = [word for word in WORDS if word in words]  # in the order of WORDS
    if not known or len(words) > MOST_WORDS:
        return None
    plain = header[0].isupper() and set(words) <= WORDS.keys() | SMALL
    if not header.isupper() and not plain:
        return None
    if in_text and not set(words) <= WORDS.keys() | BESIDE:
        return None
    named = [WORDS[word] for word in known]
    return FINDINGS if {FINDINGS, IMPRESSION} <= set(named) else named[0]


def holds_only_headers(line: str) -> bool:
    """Return whether a line holds words of headers and views alone."""
    return set(re.findall(r"[a-z]+", line.lower())) <= WORDS.keys() | BESIDE | VIEWS


def _names_views(words: list[str], header: str) -> bool:
    if not set(words) <= VIEWS or not WHAT & set(words):
        return False
    # "The chest" may be the end of a sentence.
    return header.isupper() or (header[0].isupper() and len(words) > 1 and words[0] != "the")


def _meant(word: str) -> str:
    close = get_close_matches(word, SPELT, n=1, cutoff=0.8) if len(word) >= SHORTEST_TYPO else []
    return close[0] if close else word
