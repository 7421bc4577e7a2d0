"""Values of any range to 8-bit grey."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Grey = NDArray[np.uint8]

# Where a file does not say which values are black and white.
PERCENTILES = (0.5, 99.5)


def to_grey(values: Array) -> Grey:
    """Round values to 0..255; what lies beyond is cut."""
    grey: Grey = np.rint(np.clip(values, 0, 255)).astype(np.uint8)
    return grey


def stretch(values: Array) -> tuple[float, float]:
    """Return the values that become black and white where a file does not name them.

    They are percentiles, or the extremes where the percentiles are equal.
    """
    low, high = np.percentile(values, PERCENTILES)
    if low == high:
        low, high = values.min(), values.max()
    return float(low), float(high)
