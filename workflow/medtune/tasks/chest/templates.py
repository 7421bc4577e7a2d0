"""Words that the chest tasks share. Wordings derive from a sample's id alone, never from order."""

import re
from collections.abc import Iterable, Sequence

from medtune.runtime.files import sha256_text

OPENINGS = (
    "This is a chest X-ray.",
    "You are shown a chest X-ray.",
    "Look at this chest film.",
    "The image is a radiograph of a chest.",
)


def choose_template(options: Sequence[str], sample_id: str, purpose: str) -> str:
    """Return the option that a sample's id chooses for a purpose."""
    return options[int(sha256_text(f"{purpose}/{sample_id}")[:13], 16) % len(options)]


def asked(requests: Sequence[str], sample_id: str, **names: str) -> str:
    """Return a question: an opening and one of the requests, with names filled in."""
    opening = choose_template(OPENINGS, sample_id, "opening")
    return f"{opening} {choose_template(requests, sample_id, 'request').format(**names)}"


def plain(name: str) -> str:
    """Return a name as it stands in a sentence: in lower case but for abbreviations."""
    words = name.split()
    return " ".join(word if word.isupper() and len(word) > 1 else word.lower() for word in words)


def listed(parts: Iterable[str]) -> str:
    """Return parts as a list in words."""
    *first, last = parts
    return f"{', '.join(first)} and {last}" if first else last


def capital(text: str) -> str:
    """Return a text whose first letter is a capital; the others stay."""
    return text[:1].upper() + text[1:]


def has_words(text: str) -> bool:
    """Return whether a text has two words at least, in letters."""
    return len(re.findall(r"[^\W\d_]{2,}", text)) > 1
