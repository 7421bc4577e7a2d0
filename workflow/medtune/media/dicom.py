"""A DICOM file as the gray image that its tags say it shows.

The stored values pass the modality LUT, the VOI LUT and the polarity of the photometric
interpretation, in this order (DICOM PS3.4 N.2.1). Nothing is decided by the look of the pixels.
"""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medtune.media.dicom_header import GET_AGAIN, UNREADABLE, assume_syntax
from medtune.media.gray import Array, Gray, stretch, to_gray
from medtune.media.image_header import check_header, image_header
from medtune.runtime.errors import DataError

if TYPE_CHECKING:
    from pydicom import Dataset


def read_dicom(path: Path) -> Gray:
    """Return the image (rows, columns) of a file, 0 black to 255 white.

    Black are also the pixels that the file calls padding.

    Raises:
        DataError: The file cannot be decoded, lacks a tag, holds several frames, colors or
            depths other than 8 to 16 bits, or shows one gray value only.
    """
    from pydicom import dcmread
    from pydicom.pixels.utils import pixel_array

    check_header(path, image_header(path))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # small faults of the header, one line per film
            dataset = dcmread(path, force=True)
            assume_syntax(dataset)
            return _render(path, dataset, pixel_array(dataset))
    except UNREADABLE as error:
        said = " ".join(str(error).split())
        raise DataError(path, f"cannot be read as DICOM ({said})", GET_AGAIN) from None


def _render(path: Path, dataset: "Dataset", stored: Array) -> Gray:
    """Return stored values (rows, columns) as the dataset says they are to be shown."""
    from pydicom.pixels.processing import apply_modality_lut

    image = ~_is_padding(dataset, stored)
    if not image.any():
        raise DataError(path, "shows nothing: every pixel is padding", GET_AGAIN)
    # Wide enough for pydicom to subtract the first value that a table maps.
    values = apply_modality_lut(stored.astype(np.int32), dataset)
    shown = to_gray(_apply_voi(values, image, dataset))
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        shown = 255 - shown
    if shown[image].min() == shown[image].max():
        found = (
            f"every pixel is {shown[image][0]} of 255, stored are {stored.min()}..{stored.max()}"
        )
        raise DataError(path, f"shows nothing: {found}", GET_AGAIN)
    shown[~image] = 0
    return shown


def _is_padding(dataset: "Dataset", stored: Array) -> Array:
    """Return where stored values are padding and not image (PS3.3 C.7.5.1.1.2)."""
    value = dataset.get("PixelPaddingValue")
    if value is None:
        return np.zeros(stored.shape, dtype=bool)
    low, high = sorted((value, dataset.get("PixelPaddingRangeLimit", value)))
    return np.asarray((stored >= low) & (stored <= high))


def _apply_voi(values: Array, image: Array, dataset: "Dataset") -> Array:
    """Map modality values to 0..255: by the first table, else the first window, else percentiles.

    Formulas: PS3.3 C.11.2.1.1 (table), C.11.2.1.2 and C.11.2.1.3 (window).
    """
    from pydicom import Dataset
    from pydicom.pixels.processing import apply_voi, apply_windowing

    if dataset.get("VOILUTSequence"):
        item = dataset.VOILUTSequence[0]
        entries, first, bits = item.LUTDescriptor
        # pydicom counts entries in the type of their values: 8 bits do not count to 4096.
        item.LUTDescriptor = [entries, first, 16]
        last = first + (entries or 2**16) - 1
        known = np.clip(np.rint(values), first, last).astype(np.int32)
        return np.asarray(apply_voi(known, dataset) * (255 / (2**bits - 1)))
    if None in (dataset.get("WindowCenter"), dataset.get("WindowWidth")):
        return stretch(values, image)
    # A dataset of 8 bits, so that the range of what comes out is 0..255.
    window = Dataset()
    window.PhotometricInterpretation, window.BitsStored = "MONOCHROME2", 8
    window.PixelRepresentation = 0
    window.WindowCenter, window.WindowWidth = dataset.WindowCenter, dataset.WindowWidth
    window.VOILUTFunction = dataset.get("VOILUTFunction") or "LINEAR"
    return apply_windowing(values, window)
