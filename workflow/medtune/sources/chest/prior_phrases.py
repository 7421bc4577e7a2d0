"""Words that say what one image cannot show: earlier images, the patient's history, the source.

Each check returns the phrases it found. What reads alike but is no such word is taken out first:
the exceptions are in `NOT_TIME`. A phrase that is refused wrongly costs another question; one that
is missed teaches a model to make up an earlier film. In doubt a phrase is refused.
"""

import re
from collections.abc import Iterable

# Words of time in other meanings: of space, of anatomy, of what a film shows of the past.
NOT_TIME = (
    r"(degenerative|arthritic|osteoarthritic|spondylotic|hypertrophic|emphysematous|bullous|fibrotic"
    r"|cystic|atelectatic|inflammatory|interstitial|bronchitic|chronic|scarring|skeletal|bony|osseous"
    r"|parenchymal|pleural|age[- ]related|(post[- ]?)?(surgical|operative|radiation|traumatic)"
    r"|sternotomy) changes?",
    r"compared (to|with) (the|its) (right|left|contralateral|opposite|other)\b",
    r"worse (on|in|at) (the )?(right|left|bases?|apex|apices|upper|lower|periphery)\b",
    r"(right|left|bases?|apices|lower|upper)( lung| lobe| zones?)? (greater|worse) than\b",
    r"persistent left (superior vena cava|svc)",
    r"recurrent laryngeal",
    r"continu(es?|ing) (below|into|inferiorly|superiorly|distally|beyond|along|towards?|past"
    r"|through|across)\b",
    r"(high|low|limited|spatial|image)[- ]resolution",
    r"resolution of (the|this) (image|film|radiograph)",
    r"residual (contrast|barium)",
    r"at regular intervals?",
    r"(prior|previous) (granulomatous (disease|infection)|(median )?sternotomy|cholecystectomy"
    r"|mastectomy|lobectomy|thoracotomy|(rib |clavicular )?fractures?|surgery)",
)
PRIOR = (
    r"unchanged|unaltered|chang(e|es|ed|ing)",
    r"stable|stably|stability",
    r"compar(ed|ison|isons|ing)",
    r"interval",
    r"pre-?existing|priors?|previous(ly)?|preceding|earlier|former(ly)?|subsequent(ly)?",
    r"baseline|serial",
    r"new|newly|recent|recently|today|yesterday",
    r"again|re-?demonstrat\w+|re-?identified|re-?accumulat\w+|re-?expan\w+",
    r"persist(s|ed|ent|ently|ing|ence)?|remain(s|ed)?|continu(e|es|ed|ing)",
    r"improv(e|es|ed|ing|ement)|worse|worsen(s|ed|ing)?",
    r"resolv(e|es|ed|ing)|resolution|cleared|clearing|residual|recurren(t|ce)",
    r"progress(ed|ing|ion|ive|ively)|evolving|evolution|fluctuat\w+",
    r"increasing(ly)?|decreasing(ly)?|enlarging|(increase|decrease) in",
    r"(has|have|had)( \w+ly)? (increased|decreased|enlarged|developed|progressed|cleared|grown)",
    r"(increased|decreased)( \w+ly)? (since|from|in (size|extent|severity|number))",
    r"developing|development of|no longer",
    r"still (present|seen|visible|noted|evident|in place|there|elevated|enlarged)",
    r"(has|have|had|was|were)( \w+ly)?( been)? "
    r"(removed|withdrawn|advanced|repositioned|exchanged|extubated|inserted|placed|replaced)",
    r"similar in (appearance|extent|size|degree)|appears? similar|(as|than|from) before",
    r"(is|are) now|now (seen|present|visible|measur\w+|appears?|shows?|demonstrat\w+)",
    r"(the )?current (study|exam|examination|film|radiograph|image)",
    r"since (the |his |her )?(last|then|that|admission|surgery|exam\w*|study|film|radiograph|\d)",
    r"follow[- ]?up",
    r"last (study|exam|examination|film|radiograph|image|time|visit)",
    r"\d{1,2}/\d{1,2}(/\d{2,4})?",
)
VIEW = (
    r"(pa|ap|frontal|lateral|portable|upright|supine|semi[- ]?erect|single)"
    r"( (and|or) (pa|ap|frontal|lateral))?"
    r"( chest)? (views?|projections?|films?|radiographs?|images?|x-?rays?|examinations?)",
    r"(views?|radiographs?|films?|images?) of the chest (was|were|is|are)",
)
HISTORY = (
    r"history of|indication|clinical(ly)?|year[- ]olds?|status[- ]post|s/p|known|presents? with"
    r"|complain\w*|recommend\w*|discussed|telephone|dr\.",
)
SOURCE = (
    r"(the|this|provided|given|supplied) (reports?|labels?|annotations?|reference|ground truth"
    r"|(bounding )?boxes|coordinates)",
    r"ground[- ]truth|as (given|provided)|(given|correct|true) answer|radiologists?",
)
REMOVED = ("___", "XXXX")  # what the sources write for a name or date they took out


def _pattern(parts: Iterable[str]) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w)({'|'.join(parts)})(?!\w)", re.IGNORECASE)


_NOT_TIME, _PRIOR, _VIEW = _pattern(NOT_TIME), _pattern(PRIOR), _pattern(VIEW)
_HISTORY, _SOURCE = _pattern(HISTORY), _pattern(SOURCE)


def _found(pattern: re.Pattern[str], text: str) -> list[str]:
    return sorted({match.group().lower() for match in pattern.finditer(text)})


def prior_phrases(text: str) -> list[str]:
    """Return what speaks of another time than the image's, or of another image."""
    removed = [mark for mark in REMOVED if mark in text]
    return _found(_PRIOR, _NOT_TIME.sub("#", " ".join(text.split()))) + removed


def view_phrases(text: str) -> list[str]:
    """Return what states the view or the technique."""
    return _found(_VIEW, " ".join(text.split()))


def history_phrases(text: str) -> list[str]:
    """Return what speaks of the patient's history, or of what was done or advised."""
    return _found(_HISTORY, " ".join(text.split()))


def source_phrases(text: str) -> list[str]:
    """Return what tells that the answer was given beforehand."""
    return _found(_SOURCE, " ".join(text.split()))
