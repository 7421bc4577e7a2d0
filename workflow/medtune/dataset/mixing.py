"""Sources, or single tasks of them, mixed in one run by weights."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from medtune.runtime.console import log
from medtune.runtime.errors import ConfigError
from medtune.runtime.files import sha256_text


def mixed(train: Any, weights: Mapping[str, float], seed: int) -> Any:
    """Return a training split in which samples come as often as the weight of their kind says.

    With weight 2.5 every sample comes twice and half of them once more. Which half follows from
    seed and id; it is the same in every epoch.

    Args:
        train: The split, with the columns id, source and task.
        weights: By `<source>/<task>` or else by source; 1 where none is given.
        seed: The experiment's seed.

    Raises:
        ConfigError: A weight is for nothing in the split, or nothing is left.
    """
    if not weights:
        return train
    ids, sources, tasks = train["id"][:], train["source"][:], train["task"][:]
    both = [f"{source}/{task}" for source, task in zip(sources, tasks, strict=True)]
    _check_known(weights, {*sources, *both})
    kinds = [two if two in weights else one for one, two in zip(sources, both, strict=True)]
    order: list[int] = []
    for index, (name, kind) in enumerate(zip(ids, kinds, strict=True)):
        draw = int(sha256_text(f"{seed}/mix/{name}")[:13], 16) / 16**13
        whole, part = divmod(weights.get(kind, 1.0), 1)
        order += [index] * (int(whole) + (draw < part))
    if not order:
        raise ConfigError("dataset_weights", "no sample is left", "raise the weights")
    there, shown = Counter(kinds), Counter(kinds[index] for index in order)
    for kind in sorted(there):
        log(f"mix: {shown[kind]} samples per epoch of {there[kind]} of {kind}")
    return train.select(order)


def _check_known(weights: Mapping[str, float], known: set[str]) -> None:
    """Check that every weight is for something.

    Raises:
        ConfigError: One is not.
    """
    unknown = sorted(weights.keys() - known)
    if unknown:
        what = "source" if not any("/" in name for name in unknown) else "source and task"
        sources = sorted(name for name in known if ("/" in name) == (what != "source"))
        there = ", ".join(sources)
        raise ConfigError(
            "dataset_weights", f"the training split has no {what} {unknown}", f"it has: {there}"
        )
