"""Whether a text of a report says anything: marks of what was removed, and numbers, do not."""

import re

# What publishers write for what they took out: ___ (MIMIC), XXXX (Open-i), [**Name**], <DATE>.
REMOVED = re.compile(
    r"_{2,}|\bX{3,}\b|\[\*\*.*?\*\*\]|\[[A-Za-z ]{2,20}\]|<[A-Za-z /]{2,20}>"
    r"|\d{1,2}:\d\d *(?:[ap]\.?m\.?)?",
    re.IGNORECASE,
)
WORD = re.compile(r"[^\W\d_]+")
# Words that say nothing of a film where they stand alone.
NOTHING = frozenset(
    (
        *("none", "na", "nan", "nil", "null", "n", "a", "no", "not", "the", "is", "are"),
        *("applicable", "available", "dictated", "given", "provided", "recorded", "entered"),
        *("findings", "finding", "impression", "conclusion", "report", "final", "addendum", "see"),
        *("above", "below", "as", "same", "refer", "to", "please", "pending", "text", "under"),
        *("am", "pm", "redacted", "removed", "deleted", "unknown", "dr", "md", "section"),
        *("chest", "radiograph", "study", "examination", "exam", "views", "view", "ap", "pa"),
    )
)
# "No findings." is a report.
DENIED = re.compile(r"\bno\b[\w\s]*\bfindings?\b", re.IGNORECASE)


def has_words(text: str) -> bool:
    """Return whether a text holds a word that can say something of a film."""
    words = WORD.finditer(REMOVED.sub(" ", text))
    return any(word[0].lower() not in NOTHING for word in words) or bool(DENIED.search(text))
