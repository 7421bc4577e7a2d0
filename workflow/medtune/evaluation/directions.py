"""Whether more of a metric is better."""

LESS = ("_error", "_mm", "_brier", "_relative")
LESS_NAMES = ("missed", "false_positive", "truncated", "radcliq", "radcliq_published", "loss")
NEITHER = ("readable",)  # of invalid answers: fewer of them is better, whether readable or not
ARROWS = {1: "↑", -1: "↓", 0: ""}


def sense(metric: str) -> int:
    """Return 1 where more of a metric is better, -1 where less is, and 0 where neither.

    Args:
        metric: Its name in `metrics.json`.
    """
    name = metric.removesuffix("_valid").removesuffix("_lenient")
    if name in NEITHER:
        return 0
    if name.startswith("term_"):  # of a reward, whatever it measures
        return 1
    return -1 if name in LESS_NAMES or name.endswith(LESS) else 1


def with_arrow(text: str, metric: str) -> str:
    """Return a metric's name for a reader with ↑ where more of it is better, ↓ where less is."""
    return f"{text} {ARROWS[sense(metric)]}".rstrip()
