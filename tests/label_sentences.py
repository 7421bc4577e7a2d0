"""The table of sentences, `label_sentences.txt`, and which of its claims a reader gets wrong."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

SHORT = {
    "at": "Atelectasis",
    "cm": "Cardiomegaly",
    "co": "Consolidation",
    "ed": "Edema",
    "ec": "Enlarged Cardiomediastinum",
    "fr": "Fracture",
    "le": "Lung Lesion",
    "op": "Lung Opacity",
    "ef": "Pleural Effusion",
    "po": "Pleural Other",
    "pn": "Pneumonia",
    "pt": "Pneumothorax",
    "sd": "Support Devices",
}
STATUS = {"+": "present", "-": "absent", "?": "uncertain"}
TABLE = Path(__file__).with_name("label_sentences.txt")


class Claim(NamedTuple):
    """What a sentence says of a label, or (`negated`) what it does not say."""

    sentence: str
    label: str
    status: str
    negated: bool


def claims(path: Path = TABLE) -> dict[str, list[Claim]]:
    """Return the claims of each part of the table."""
    parts: dict[str, list[Claim]] = {}
    name = ""
    for line in path.read_text().splitlines():
        name = line.removeprefix("## ") if line.startswith("## ") else name
        if line and not line.startswith("#"):
            sentence, _, words = line.rpartition(" | ")
            parts.setdefault(name, []).extend(
                Claim(sentence, SHORT[word[:2]], STATUS[word[-1]], "!" in word)
                for word in words.split()
            )
    return parts


def wrong(
    expected: Iterable[Claim], read: Callable[[str], Mapping[str, str]]
) -> Iterator[tuple[Claim, str | None, bool]]:
    """Yield the claims a reader gets wrong, what it reads, and whether that inverts the claim."""
    for claim in expected:
        status = read(claim.sentence).get(claim.label)
        if (status == claim.status) == claim.negated:
            inverted = not claim.negated and {status, claim.status} == {"present", "absent"}
            yield claim, status, inverted
