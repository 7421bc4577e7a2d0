"""Values of any range to 8-bit gray."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Gray = NDArray[np.uint8]

PERCENTILES = (0.5, 99.5)


def to_gray(values: Array) -> Gray:
    """Round values to 0..255; what lies beyond is cut."""
    gray: Gray = np.rint(np.clip(values, 0, 255)).astype(np.uint8)
    return gray


def stretch(values: Array, image: Array | None = None) -> Array:
    """Map values to 0..255 where a file does not say which are black and white.

    They are percentiles, or the extremes where the percentiles are equal.

    Args:
        values: Of any shape and type.
        image: Where they count (boolean, the same shape); None: everywhere.
    """
    counted = values if image is None else values[image]
    low, high = np.percentile(counted, PERCENTILES)
    if low == high:
        low, high = float(counted.min()), float(counted.max())
    return np.asarray((values - low) * (255 / ((high - low) or 1.0)))
