"""What a step did, and what that cost: in this run (`Summary`), and all in all (`account`)."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any, NamedTuple

from medtune.config.chest_llm import PriceConfig
from medtune.llm.client import Completion


class Tokens(NamedTuple):
    """Tokens of a question and of its answer; None if the endpoint did not say."""

    sent: int | None
    received: int | None


Used = Mapping[str, Tokens]  # key of a question -> what was used for it


def total(used: Iterable[Tokens]) -> Tokens:
    """Return a sum, which is unknown where a part of it is."""
    return reduce(lambda a, b: Tokens(plus(a[0], b[0]), plus(a[1], b[1])), used, Tokens(0, 0))


def account(
    answered: Sequence[Used], rejected: Sequence[Used], prices: PriceConfig | None
) -> dict[str, Any]:
    """Return what the texts of a shard cost, whenever their answers came and however often it ran.

    Equal questions count once; requests without an answer that was used do not count.

    Args:
        answered: The questions of every item with a result, with those asked again.
        rejected: The same of the other items.
        prices: Null: no cost is given.
    """
    of_rejected = {key: tokens for used in rejected for key, tokens in used.items()}
    everything = of_rejected | {key: tokens for used in answered for key, tokens in used.items()}
    return {
        "items": {"answered": len(answered), "rejected": len(rejected)},
        "all": _bill(everything, prices),
        "of_rejected": _bill(of_rejected, prices),
        "currency": prices.currency if prices else None,
    }


def _bill(used: Used, prices: PriceConfig | None) -> dict[str, Any]:
    tokens = total(used.values())
    named = {"tokens_in": tokens.sent, "tokens_out": tokens.received}
    return {"requests": len(used)} | named | {"cost": cost(tokens, prices)}


def cost(tokens: Tokens, prices: PriceConfig | None) -> float | None:
    """Return what tokens cost; None without prices, or without a count."""
    if prices is None or tokens.sent is None or tokens.received is None:
        return None
    return (prices.input * tokens.sent + prices.output * tokens.received) / 1e6


@dataclass
class Summary:
    """What a step did in this run.

    Attributes:
        done: Items with a result.
        rejected: Items without.
        reasons: Kind of fault -> in how many answers, those included that a later one replaced.
        asked: Questions that were sent and answered now.
        from_cache: Answers that were kept already.
        tokens_in: Of the questions sent now; None if the endpoint did not say.
        tokens_out: The same, of the answers.
        cost: By the configured prices; None if there are none, or no count of tokens.
    """

    done: int = 0
    rejected: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    asked: int = 0
    from_cache: int = 0
    tokens_in: int | None = 0
    tokens_out: int | None = 0
    cost: float | None = None

    def count(self, reply: Completion, cached: bool) -> None:
        """Take an answer into account."""
        if cached:
            self.from_cache += 1
            return
        self.asked += 1
        self.tokens_in = plus(self.tokens_in, reply.tokens_in)
        self.tokens_out = plus(self.tokens_out, reply.tokens_out)

    def text(self, currency: str) -> str:
        """Return one line."""
        reasons = ", ".join(f"{kind} {n}" for kind, n in self.reasons.items())
        tokens = "not given"
        if self.tokens_in is not None:
            tokens = f"{self.tokens_in} in, {self.tokens_out} out"
        cost = "not given" if self.cost is None else f"{self.cost:.4f} {currency}"
        return (
            f"{self.done} done, {self.rejected} rejected (refused answers: {reasons or 'none'}); "
            f"{self.asked} asked, {self.from_cache} from the cache; tokens {tokens}; cost {cost}"
        )


def plus(total: int | None, more: int | None) -> int | None:
    """Return a sum that is unknown if a part of it is."""
    return None if total is None or more is None else total + more
