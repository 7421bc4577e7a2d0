"""Agreement of a text with a reference, by their words. No model, no network.

**Tokens.** All scores but ROUGE compare lower-case words: runs of letters and digits, with a point
or apostrophe inside them ("3.5", "patient's"); other punctuation is dropped. ROUGE has the tokens
of `rouge-score`: lower-case letters and digits, longer words stemmed (Porter), as is usual.
Published figures with other tokens (case kept, punctuation as words) are lower or higher.

Functions of one pair say how good one text is; BLEU and GLEU of a data set are no means of them
(see `medtune.evaluation.corpus_metrics`). An empty text scores 0 everywhere; an empty reference has
no score: None.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any

WORD = re.compile(r"\w+(?:[.']\w+)*")
ORDERS = (1, 2, 3, 4)
SIGMA = 6.0  # of CIDEr-D's penalty for other lengths
NGram = tuple[str, ...]


def tokens(text: str) -> list[str]:
    """Return the words of a text: see the module."""
    return WORD.findall(text.lower())


def gleu(text: str, reference: str) -> float | None:
    """Return GLEU, 0..1: the smaller of precision and recall of 1- to 4-grams.

    Wu et al., "Google's neural machine translation system", arXiv:1609.08144, section 4.4.
    """
    from nltk.translate.gleu_score import sentence_gleu

    said, true = tokens(text), tokens(reference)
    return float(sentence_gleu([true], said)) if true else None


def bleu(text: str, reference: str) -> list[float] | None:
    """Return BLEU-1 to BLEU-4 of one pair, 0..1, smoothed.

    Papineni et al., ACL 2002; counts of 2- to 4-grams have 1 added (Lin & Och, COLING 2004), or
    else BLEU-4 of most single sentences would be 0.
    """
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

    said, true = tokens(text), tokens(reference)
    if not true:
        return None
    if not {*said} & {*true}:  # nltk has one number for all orders then
        return [0.0] * len(ORDERS)
    weights = [[1 / order] * order for order in ORDERS]
    smooth = SmoothingFunction().method2
    return [float(one) for one in sentence_bleu([true], said, weights, smoothing_function=smooth)]


def rouge(text: str, reference: str) -> dict[str, float] | None:
    """Return F1 of `rouge_1`, `rouge_2` and `rouge_l`, 0..1 (Lin, ACL workshop 2004)."""
    if not tokens(reference):
        return None
    found = _rouge().score(reference, text)
    return {name.replace("rouge", "rouge_").lower(): one.fmeasure for name, one in found.items()}


@cache
def _rouge() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)


@cache
def meteor() -> Callable[[str, str], float | None] | str:
    """Return METEOR of one pair, 0..1, or why it cannot be had.

    Banerjee & Lavie, ACL workshop 2005, as nltk has it: exact words, Porter stems and synonyms of
    WordNet, whose data must lie in one of nltk's folders (`NLTK_DATA`). Nothing is downloaded.
    """
    import nltk

    try:
        nltk.data.find("corpora/wordnet.zip")
    except LookupError:
        return "not run: nltk's corpus `wordnet` is in no folder of NLTK_DATA"
    from nltk.translate.meteor_score import single_meteor_score

    def score(text: str, reference: str) -> float | None:
        said, true = tokens(text), tokens(reference)
        return float(single_meteor_score(true, said)) if true else None

    return score


class CiderD:
    """CIDEr-D against a set of references, which says how common an n-gram is.

    Vedantam et al., "CIDEr", CVPR 2015, equations 2 to 6, with one reference per text: the cosine
    of tf-idf vectors of 1- to 4-grams, those of the text clipped to those of the reference, times
    a Gaussian penalty for the difference in length; their mean times 10. As in the authors' code
    the length is the number of 2-grams.

    Args:
        references: The references of the whole data set, one per text.
    """

    def __init__(self, references: Iterable[str]) -> None:
        self._known: Counter[NGram] = Counter()
        count = 0
        for reference in references:
            count += 1
            self._known.update(set(ngrams(tokens(reference))))
        self._log_count = math.log(max(1, count))

    def score(self, text: str, reference: str) -> float | None:
        """Return CIDEr-D of one pair, 0..10."""
        said, true = ngrams(tokens(text)), ngrams(tokens(reference))
        if not true:
            return None
        delta = sum(n for gram, n in said.items() if len(gram) == 2)
        delta -= sum(n for gram, n in true.items() if len(gram) == 2)
        penalty = math.exp(-(delta**2) / (2 * SIGMA**2))
        by_order = [self._cosine(said, true, order) for order in ORDERS]
        return 10 * penalty * sum(by_order) / len(ORDERS)

    def _cosine(self, said: Counter[NGram], true: Counter[NGram], order: int) -> float:
        a, b = self._weights(said, order), self._weights(true, order)
        norm = math.sqrt(sum(v**2 for v in a.values()) * sum(v**2 for v in b.values()))
        shared = sum(min(value, b[gram]) * b[gram] for gram, value in a.items() if gram in b)
        return shared / norm if norm else 0.0

    def _weights(self, grams: Counter[NGram], order: int) -> dict[NGram, float]:
        """Return term frequency times inverse document frequency of the n-grams of an order."""
        return {
            gram: n * (self._log_count - math.log(max(1, self._known[gram])))
            for gram, n in grams.items()
            if len(gram) == order
        }


def ngrams(words: Sequence[str]) -> Counter[NGram]:
    """Return how often each 1- to 4-gram occurs."""
    return Counter(
        tuple(words[start : start + order])
        for order in ORDERS
        for start in range(len(words) - order + 1)
    )
