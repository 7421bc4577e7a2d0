"""Sources mixed in one run by weights."""

from collections.abc import Mapping
from typing import Any

from medtune.console import say
from medtune.errors import ConfigError
from medtune.files import sha256_text


def mixed(train: Any, weights: Mapping[str, float], seed: int) -> Any:
    """Return a training split in which samples of a source come as often as its weight says.

    With weight 2.5 every sample comes twice and half of them once more. Which half follows from
    seed and id; it is the same in every epoch.

    Args:
        train: The split, with the columns id and source.
        weights: By source; 1 where none is given.
        seed: The experiment's seed.

    Raises:
        ConfigError: A weight is for no source of the split, or nothing is left.
    """
    if not weights:
        return train
    ids, sources = train["id"][:], train["source"][:]
    unknown = sorted(set(weights) - set(sources))
    if unknown:
        there = ", ".join(sorted(set(sources)))
        raise ConfigError("mix", f"the training split has no source {unknown}", f"it has: {there}")
    order: list[int] = []
    for index, (name, source) in enumerate(zip(ids, sources, strict=True)):
        draw = int(sha256_text(f"{seed}/mix/{name}")[:13], 16) / 16**13
        whole, part = divmod(weights.get(source, 1.0), 1)
        order += [index] * (int(whole) + (draw < part))
    if not order:
        raise ConfigError("mix", "no sample is left", "raise the weights")
    for source in sorted(set(sources)):
        shown = sum(sources[index] == source for index in order)
        say(f"mix: {shown} samples per epoch of {sources.count(source)} of {source}")
    return train.select(order)
