"""What a step did, and what that cost."""

from dataclasses import dataclass, field

from medtune.llm.client import Reply
from medtune.sections.chest_llm import PriceConfig


@dataclass
class Summary:
    """What a step did.

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

    def count(self, reply: Reply, cached: bool) -> None:
        """Take an answer into account."""
        if cached:
            self.from_cache += 1
            return
        self.asked += 1
        self.tokens_in = plus(self.tokens_in, reply.tokens_in)
        self.tokens_out = plus(self.tokens_out, reply.tokens_out)

    def charge(self, prices: PriceConfig | None) -> None:
        """Work out the cost."""
        if prices and self.tokens_in is not None and self.tokens_out is not None:
            millionths = prices.input * self.tokens_in + prices.output * self.tokens_out
            self.cost = millionths / 1e6

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
