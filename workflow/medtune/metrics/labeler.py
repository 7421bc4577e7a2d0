"""What an English report says of the 13 labels, by rules.

A label is present, absent, uncertain, or not mentioned. Findings are found by their names, or by
what is said of a structure ("the heart is enlarged", "Lungs: clear"). Cues around them deny or
doubt them: a cue before a finding reaches to the end of the sentence or of the thought ("but",
"there is", a comma that begins something new), of several the nearest counts; some cues stand
behind the finding ("has resolved", "Effusion: none"). This is the idea of NegEx (Chapman et al.,
J. Biomed. Inform. 34, 2001), with words of our own: see `medtune.metrics.lexicon` and `.cues`.

A finding that resolved or was removed is absent; one that did not change is present; what is
"likely", "possible", asked ("pneumonia?") or cannot be excluded is uncertain; history is nothing.
Of several mentions of a label present counts most, then uncertain. A label is not concluded from
another: consolidation is no mention of opacity. The side of a finding is that of the nearest word
in its part of the sentence.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from textwrap import wrap
from types import MappingProxyType
from typing import NamedTuple

from medtune.metrics.lexicon import (
    ABNORMALITY,
    ALL_NORMAL,
    DOUBTED,
    DOUBTFUL,
    FINDINGS,
    SIDED,
    SIDES,
    STRUCTURES,
)
from medtune.metrics.negation import (
    ANEW,
    CLAUSE,
    CONCESSION,
    CUES,
    ENDS,
    EXCEPT,
    HEADING,
    PAST_HEADING,
    SHORT,
    UNFINISHED,
)
from medtune.records.film import LabelState

ORDER: tuple[LabelState, ...] = ("present", "uncertain", "absent")
SENTENCE = re.compile(
    rf"(?<=[.!])\s+|(?<=\w\?)\s+|\n\s*\n|\s+(?=\d{{1,2}}\)\s)|"
    rf"\n(?=\s*(?:[-*•]\s|\d+[.)]\s|{HEADING}:\s))",
    re.IGNORECASE,
)
ELSEWHERE = re.compile(
    r"^ *(?:,|(?:and|or|but|with)\b)|"
    r"\b(?:is|are|was|were|has|have|remains?|appears?|may|might|could|otherwise)\b"
)
JOINED = re.compile(r"[ ,]*(?:and|or|with|plus|,)[ ,]*(?:\w+[ ,]+){0,2}")
JOINT = re.compile(r"\b(?:and|or|with)\b|,")
DEVICES = "Support Devices"
DENIALS = {"absent", "removed"}
TURNS = {"same", "link", "doubt"}  # kinds of cues that lead from a finding to its meaning
LONGEST = 600  # characters of a sentence; what is longer is none, and is read in pieces
NOT = re.compile(
    r"\b(?:not|no longer|never)(?: \w+)? $|\b(?:nothing|none|neither)\b[^,;:]*$|"
    r"\b(?:not|n't|cannot) (?:be )?(?:think|believe|sa(?:y|id)|call(?:ed)?|appear|look|seem|sure)\b"
    r"[^,;]*$|\bdoubt(?:s|ed|ful)? (?:that|whether|if)\b[^,;]*$"
)
HEADED = re.compile(  # "Nodule: stable, no new nodule" heads something of its own
    r" *:(?: *(?:there (?:is|are) )?(?:no|without)\b(?! (?:\w+ ){0,2}change)[^;:]*|[^,;:]*)"
)
THERE = re.compile(r"\bthere (?:is|are)\b")
AT_ONCE = re.compile(r" *(?:(?:which|that|now|has|have|is|are|was|were|since|it|all) *)*")


@dataclass(frozen=True)
class Finding:
    """What a text says of one label.

    Attributes:
        status: present, absent or uncertain.
        sides: `left`, `right`, both, or none if no side is told.
    """

    status: LabelState
    sides: frozenset[str] = frozenset()


class Cue(NamedTuple):
    """Words that deny or doubt, in a sentence; see `medtune.metrics.negation`."""

    kind: str
    reach: str
    start: int
    end: int


class Mention(NamedTuple):
    """A finding in a sentence, before its cues are looked at."""

    label: str
    start: int
    end: int
    normal: bool = False


@lru_cache(maxsize=4096)  # rewards and metrics ask for the same references again and again
def read_labels(text: str) -> Mapping[str, Finding]:
    """Return what a text says of the labels it mentions."""
    found: dict[str, Finding] = {}
    for label, one in read_mentions(text):
        found[label] = _joined(found[label], one) if label in found else one
    return MappingProxyType(found)


def read_mentions(text: str) -> Iterator[tuple[str, Finding]]:
    """Yield what every single mention of a label says, in the order of the text's sentences."""
    for sentence in sentences_of(text):
        yield from _read_sentence(sentence)


def is_normal_report(text: str) -> bool:
    """Return whether a text states that a film is normal: "no abnormality", "the film is normal".

    A denial with an exception ("no abnormality but for ...") states nothing of the kind.
    """
    for sentence in sentences_of(text):
        mentions = [Mention("", *match.span()) for match in ABNORMALITY.finditer(sentence)]
        mentions += [
            Mention("", m.start(m.lastgroup or 0), m.end(), True)
            for m in ALL_NORMAL.finditer(sentence)
        ]
        scopes = Scopes(sentence, _cues(sentence), mentions)
        if any(_status(mention, scopes) == "absent" for mention in mentions) and not EXCEPT.search(
            sentence
        ):
            return True
    return False


def sentences_of(text: str) -> Iterator[str]:
    """Yield the sentences of a text in lower case, without those that tell of the past."""
    text = text.lower()
    for short, words in SHORT.items():
        text = text.replace(short, words)
    for sentence in SENTENCE.split(text):
        for plain in wrap(" ".join(sentence.split()), LONGEST, break_on_hyphens=False):
            if not PAST_HEADING.match(plain):
                yield plain


def _joined(one: Finding, other: Finding) -> Finding:
    """Return what two mentions of a label say together."""
    if one.status == other.status:
        return Finding(one.status, one.sides | other.sides)
    return min(one, other, key=lambda finding: ORDER.index(finding.status))


def _read_sentence(text: str) -> list[tuple[str, Finding]]:
    mentions = mentions_of(text)
    scopes = Scopes(text, _cues(text), mentions)
    sides = _sides(text, mentions)
    statuses = [_status(mention, scopes) for mention in mentions]
    return [
        (mention.label, Finding(status, side))
        for mention, status, side in zip(mentions, statuses, sides, strict=True)
        if status
    ]


def mentions_of(sentence: str) -> list[Mention]:
    """Return the findings that a sentence of `sentences_of` names or describes, in order."""
    named = [
        Mention(label, match.start(), match.end())
        for label, pattern in FINDINGS.items()
        for match in pattern.finditer(sentence)
    ]
    mentions = sorted([*named, *_described(sentence)], key=lambda mention: mention.start)
    return [one for one in mentions if not _is_heading(one, sentence, mentions)]


def _is_heading(mention: Mention, sentence: str, mentions: list[Mention]) -> bool:
    """Return whether a finding heads its line, which names it again: "Effusion: no effusion"."""
    line = HEADED.match(sentence, mention.end)
    return line is not None and any(
        other.label == mention.label and mention.end < other.start < line.end()
        for other in mentions
    )


def _described(text: str) -> list[Mention]:
    """Return what is said of structures: each word is of those before it, or of those behind it.

    "Heart size and mediastinum are normal", "normal heart size": a word takes the structures that
    no word before it has taken; without any, those behind it that no verb separates from it.
    """
    found = []
    for structure, (bad, of_bad), (good, of_good) in STRUCTURES:
        said = sorted(
            [(match, of_bad, False) for match in bad.finditer(text)]
            + [(match, of_good, True) for match in good.finditer(text)],
            key=lambda one: one[0].start(),
        )
        start = 0
        for index, (word, labels, normal) in enumerate(said):
            stop = said[index + 1][0].start() if index + 1 < len(said) else len(text)
            before = structure.search(text, start, word.start())
            behind = None if before else structure.search(text, word.end(), stop)
            if before and not _apart(text[before.end() : word.start()]):
                start = word.end()
            elif behind and not ELSEWHERE.search(text[word.end() : behind.start()]):
                start = behind.end()
            else:
                continue
            found += [Mention(label, word.start(), word.end(), normal) for label in labels]
    return found


def _apart(between: str) -> bool:
    """Return whether a structure and a word behind it belong to different thoughts."""
    # "Heart: enlarged" is a heading, and "hyperinflated but clear" is said of one structure.
    between = re.sub(r"^(?:(?: | ?[/,&] ?)\w+){0,3} *:|\bbut (?:are |otherwise )?$", "", between)
    return bool(re.search(r"[;:]|\bbut\b|\bwith\b", between))


def _cues(text: str) -> list[Cue]:
    """Return the cues of a sentence in order; no two share a character."""
    taken = [False] * len(text)
    found = []
    for kind, reach, pattern in CUES:
        for match in pattern.finditer(text):
            start, end = match.span()
            if not any(taken[start:end]):
                taken[start:end] = [True] * (end - start)
                found.append(Cue(kind, reach, start, end))
    return sorted(found, key=lambda cue: cue.start)


class Scopes:
    """How far the cues of a sentence reach, both ways.

    Args:
        text: The sentence.
        cues: Its cues, in order.
        mentions: Its mentions, in order.
    """

    def __init__(self, text: str, cues: list[Cue], mentions: list[Mention]) -> None:
        self.text, self.cues, self.mentions = text, cues, mentions
        inside = {place for cue in cues for place in range(cue.start, cue.end)}
        self.ends = [m.span() for m in ENDS.finditer(text) if inside.isdisjoint(range(*m.span()))]
        stops = [*(start for start, _ in self.ends), len(text)]
        self.anew = [
            place
            for place, sign in enumerate(text)
            if sign == "," and self._anew(place, min(stop for stop in stops if stop >= place))
        ]
        there = THERE.search(text)
        self.there = there.start() if there else len(text)

    def _anew(self, comma: int, stop: int) -> bool:
        """Return whether something new begins behind a comma."""
        behind = self.text[comma + 1 : stop]
        last = max((cue.end for cue in self.cues if cue.end <= comma), default=0)
        named = not last or any(last <= one.start < comma for one in self.mentions)
        if not named and UNFINISHED.fullmatch(self.text, last, comma):
            return False
        if re.search(r"\b(?:or|nor)\b", behind):
            return False
        if CONCESSION.search(self.text[:comma]):  # "although there is no effusion, edema is seen"
            return True
        return bool(ANEW.search(behind) or CLAUSE.search(behind.split(",")[0]))

    def before(self, mention: Mention) -> list[str]:
        """Return the kinds of cues before a mention that speak of it, the nearest last."""
        bound = max([start for start, end in self.ends if end <= mention.start], default=-1)
        bound = max([bound, *(place for place in self.anew if place < mention.start)])
        return [
            cue.kind
            for cue in self.cues
            if bound < cue.end <= mention.start
            and (cue.reach in ("forward", "both") or (cue.reach == "lone" and self._lone(cue)))
            and (cue.kind != "removed" or mention.label == DEVICES)
        ]

    def _lone(self, cue: Cue) -> bool:
        """Return whether no finding stands before a cue that would speak of it."""
        return all(mention.start > cue.start for mention in self.mentions)

    def after(self, mention: Mention) -> set[str]:
        """Return the kinds of cues behind a mention that speak of it."""
        bound = min(
            [end for start, end in self.ends if start >= mention.end], default=len(self.text)
        )
        # "An opacity that may be pneumonia, if present": what doubts the second spares the first.
        turn = min(
            [
                cue.start
                for cue in self.cues
                if cue.kind in TURNS and cue.start >= mention.end and cue.reach == "forward"
            ],
            default=len(self.text),
        )
        return {
            cue.kind
            for cue in self.cues
            if cue.reach != "forward"
            and mention.end <= cue.start < (bound if cue.kind in DENIALS else min(bound, turn))
            and (cue.kind != "removed" or mention.label == DEVICES)
            and self._reaches_back(cue.start, mention)
        }

    def _reaches_back(self, start: int, mention: Mention) -> bool:
        """Return whether neither a comma nor "and" keeps a cue from a mention before it."""
        comma = self.text.rfind(",", mention.end, start)
        if comma >= 0:
            last = self.text[comma + 1 : start]
            if not re.search(r"\b(?:and|or|nor)\b", last) and not AT_ONCE.fullmatch(last):
                return False
        # "There is an opacity and pneumonia is suspected" does not doubt the opacity.
        return self.there > mention.start or self.text.find(" and ", mention.end, start) < 0

    def excepted(self, mention: Mention) -> bool:
        """Return whether a denial has an exception that names no other finding."""
        match = EXCEPT.search(self.text, mention.end)
        return match is not None and all(other.start < match.start() for other in self.mentions)


def _status(mention: Mention, scopes: Scopes) -> LabelState | None:
    """Return what cues make of a mention; None if it is of the past."""
    if mention.normal:  # "no effusion, normal heart": only what stands at it can turn it round
        return "present" if NOT.search(scopes.text[: mention.start]) else "absent"
    before, after = scopes.before(mention), scopes.after(mention)
    meant = [kind for kind in before if kind not in ("same", "unclear")]
    nearest = meant[-1] if meant else None
    denied = DENIALS & after or nearest in DENIALS or (nearest == "link" and "absent" in before)
    if nearest == "past" and not DENIALS & after:
        return None
    if mention.label != DEVICES and "unclear" in {*before[-1:], *after}:
        return "uncertain"
    if "doubt" in after or nearest == "doubt" or (denied and scopes.excepted(mention)):
        return "uncertain"
    if denied:
        return "absent"
    doubtful = mention.label in DOUBTED and DOUBTFUL.match(scopes.text, mention.start)
    return "uncertain" if "link" in after or nearest == "link" or doubtful else "present"


def _sides(text: str, mentions: list[Mention]) -> list[frozenset[str]]:
    """Return the sides of every mention.

    They stand before it, behind the last mention; else behind it, before the next one; what
    stands between two mentions is divided at the last "and", "or", "with" or comma. Mentions that
    only such a word joins to the last one share its side.
    """
    ends = [0, *(match.end() for match in ENDS.finditer(text)), len(text)]
    found: list[frozenset[str]] = []
    for index, one in enumerate(mentions):
        last = max((m.end for m in mentions[:index] if m.end <= one.start), default=0)
        following = min((m.start for m in mentions if m.start >= one.end), default=len(text))
        begin = (_joints(text, last, one.start) or [last])[-1] if last else 0
        joints = _joints(text, one.end, following) if following < len(text) else []
        begin = max([begin, *(end for end in ends if end <= one.start)])
        stop = min([*joints[-1:], following, *(end for end in ends if end > one.end)])
        side = _side(text[begin : one.start], last=True) or _side(text[one.end : stop], last=False)
        if not side and found and JOINED.fullmatch(text[last : one.start]):
            side = found[-1]
        found.append(side)
    return [
        s if one.label in SIDED else frozenset() for one, s in zip(mentions, found, strict=True)
    ]


def _joints(text: str, start: int, end: int) -> list[int]:
    """Return where words end that join two mentions."""
    return [match.end() for match in JOINT.finditer(text, start, end)]


def _side(text: str, last: bool) -> frozenset[str]:
    """Return the side that the last or the first word for one tells; both if a word says both."""
    told = [(match.start(), sides) for pattern, sides in SIDES for match in pattern.finditer(text)]
    both = [sides for _, sides in told if len(sides) == 2]
    if both or not told:
        return both[0] if both else frozenset()
    return (max if last else min)(told, key=lambda one: one[0])[1]
