"""A look for what may name a patient or a doctor in reports: kinds and counts, never a quote.

Plain patterns: local, and without a model. They miss names without a title, and find what a
publisher's surrogates look like (CheXpert-Plus): a look, no proof of de-identification.
"""

import re

MONTH = (
    r"(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|june?|july?|aug(?:ust)?"
    r"|sep(?:t(?:ember)?)?|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)"
)
MONTH_OR_MAY = rf"(?:{MONTH}|may)"  # "5 may be" holds no date
DAY = r"(?:0?[1-9]|[12]\d|3[01])"
YEAR = r"(?:19|20)\d\d"
CAPITAL = r"[A-Z][a-z'\u2019\-]+[a-zA-Z]*"
# A title or a word that a name follows; "Dr. ___" and "Dr. XXXX" are no names.
TITLE = r"(?:(?:[Dd]rs?|DR|[Mm]rs?|[Mm]s)\.? |[Dd]octor |[Pp]rof(?:essor|\.) )"
BEFORE_NAME = r"(?i:patient(?:'s)? name|name|signed by|dictated by|read by|attending|physician)"
NAME = rf"{CAPITAL}|[A-Z]{{4,}}"
PATTERNS = {
    "name": re.compile(
        rf"\b{TITLE}(?!XXX)(?:{NAME})\b"
        r"|\bdr\.? (?!to|by|at|on|in|and|the|who|was|has|is|with|from|x{3})[a-z]{3,}\b"
        rf"|\b{BEFORE_NAME} ?: ?(?!XXX)(?:{NAME})\b"
        rf"|\b(?:{NAME}),? (?:[A-Z]\.? )?(?:{NAME}),? M\.?D\b"
    ),
    "record number": re.compile(
        r"\b(?:MRN|medical record|record|accession|acc(?:ession)? ?(?:no|number|#)|patient id|ssn"
        r"|encounter)\b ?(?:no\.?|number|id|#)? ?[:#]? ?[A-Z]{0,3}-?\d{4,}"
        r"|\b\d{3}-\d{2}-\d{4}\b|(?<![\d.])\d{7,}(?![\d.])",
        re.IGNORECASE,
    ),
    "date": re.compile(
        rf"\b{YEAR}[-/.]\d{{1,2}}[-/.]\d{{1,2}}\b|\b\d{{1,2}}[-/.]\d{{1,2}}[-/.](?:{YEAR}|\d\d)\b"
        # Without a year it may be a fraction, a level of the spine, or an image of a series.
        rf"|\b(?:on|from|dated|since|to|with|study|exam|films?|radiographs?|ct) "
        rf"(?:0?[1-9]|1[0-2])/{DAY}\b(?! ?[cm]m)"
        rf"|\b{MONTH_OR_MAY}\.? {DAY}(?:st|nd|rd|th)?\b(?! ?[cm]m|[./]\d)"
        rf"|\b{DAY}(?:st|nd|rd|th)? {MONTH}\b(?!-)|\b{MONTH_OR_MAY}\.?,? {YEAR}\b",
        re.IGNORECASE,
    ),
    "telephone number": re.compile(r"(?<!\d)(?:\(\d{3}\) ?|\d{3}[-. ])\d{3}[-. ]\d{4}(?!\d)"),
    "address": re.compile(
        r"[\w.+-]+@[\w-]+\.\w+|https?://\S+"
        r"|\b\d{1,5} [A-Z][a-z]+ (?:Street|St|Avenue|Ave|Road|Rd|Drive|Lane|Boulevard)\b"
    ),
    "age above 89": re.compile(
        r"\b(?:9\d|1[01]\d)[- ]?(?:years?|y\.?o\.?|yrs?)(?:[- ]olds?)?\b", re.IGNORECASE
    ),
}
WITHOUT_DIGIT, DIGIT = ("name", "address"), re.compile(r"\d")


def identifier_kinds(text: str) -> list[str]:
    """Return the kinds of `PATTERNS` of which a text seems to hold something."""
    if not DIGIT.search(text):  # as in most reports
        return [kind for kind in WITHOUT_DIGIT if PATTERNS[kind].search(text)]
    return [kind for kind, pattern in PATTERNS.items() if pattern.search(text)]
