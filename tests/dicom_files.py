"""DICOM files: made ones, those that come with pydicom, and a reference rendering of them."""

import importlib.util
import warnings
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk  # noqa: N813 - its usual name
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    JPEGExtended12Bit,
    generate_uid,
)

from medtune.media.dicom_header import LIBJPEG

BUNDLED = Path(pydicom.__file__).parent / "data/test_files"
# The package pydicom-data holds larger files, among them films of computed radiography.
FOUND = importlib.util.find_spec("data_store")
LARGE = Path(FOUND.origin).parent / "data" if FOUND and FOUND.origin else None
# Broken on purpose by those who made them.
BROKEN = {
    *("JPEG-lossy.dcm", "JPEG2000-embedded-sequence-delimiter.dcm", "MR_truncated.dcm"),
    *("badVR.dcm", "meta_missing_tsyntax.dcm", "nested_priv_SQ.dcm"),
    *("emri_small_jpeg_2k_lossless_too_short.dcm", "OT-PAL-8-face.dcm"),
}


def make_dicom(path: Path, pixels: np.ndarray, **tags) -> Path:
    """Write gray pixels (rows, columns) as a DICOM file of one film; tags that are None go."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = DigitalXRayImageStorageForPresentation
    dataset.SOPInstanceUID = generate_uid(entropy_srcs=[str(path)])
    bits = 8 * pixels.dtype.itemsize
    dataset.update(
        {
            "Rows": pixels.shape[0],
            "Columns": pixels.shape[1],
            "SamplesPerPixel": 1,
            "PhotometricInterpretation": "MONOCHROME2",
            "BitsAllocated": bits,
            "BitsStored": bits,
            "HighBit": (tags.get("BitsStored") or bits) - 1,
            "PixelRepresentation": int(pixels.dtype.kind == "i"),
            "PixelData": pixels.tobytes(),
        }
    )
    dataset["PixelData"].VR = "OB" if bits == 8 else "OW"
    for name, value in tags.items():
        if value is None:
            del dataset[name]
        else:
            setattr(dataset, name, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


def table(entries: list[int], first: int, bits: int) -> Dataset:
    """Return an item of a modality or VOI LUT sequence."""
    item = Dataset()
    item.LUTDescriptor = [len(entries), first, bits]
    item["LUTDescriptor"].VR = "SS" if first < 0 else "US"
    item.LUTData = entries
    item["LUTData"].VR = "US"
    return item


def pixel_files() -> list[Path]:
    """Return all DICOM files with pixels that are installed."""
    found = []
    for folder in (BUNDLED, LARGE):
        for path in sorted(folder.glob("*.dcm")) if folder else ():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                if "PixelData" in pydicom.dcmread(path, force=True):
                    found.append(path)
    return found


def undecoded(tags: Dataset) -> bool:
    """Return whether a file needs a decoder under the GPLv3 that is not installed."""
    syntax = tags.file_meta.get("TransferSyntaxUID")
    needs = syntax in LIBJPEG and (syntax != JPEGExtended12Bit or tags.BitsStored > 8)
    return needs and importlib.util.find_spec("libjpeg") is None


def reference(path: Path) -> np.ndarray:
    """Render a film by the standard's formulas, of pixels that another decoder (GDCM) has read.

    PS3.3 C.11.1.1 (modality LUT), C.11.2.1.1 (VOI LUT), C.11.2.1.2.1 (linear window); C.7.6.3.1.2
    (polarity). Without a window: from the 0.5th to the 99.5th percentile.
    """
    tags = pydicom.dcmread(path)
    values = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))[0].astype(float)
    dark = tags.PhotometricInterpretation == "MONOCHROME1"
    if dark:  # SimpleITK has turned the stored values round
        values = 2**tags.BitsStored - 1 - values
        values = values * float(tags.get("RescaleSlope", 1)) + float(
            tags.get("RescaleIntercept", 0)
        )
    padding = np.zeros(values.shape, dtype=bool)
    if "PixelPaddingValue" in tags:
        slope, intercept = float(tags.RescaleSlope), float(tags.RescaleIntercept)
        padding = values == tags.PixelPaddingValue * slope + intercept
    if "ModalityLUTSequence" in tags:
        values = _looked_up(values, tags.ModalityLUTSequence[0])
    if "VOILUTSequence" in tags:
        item = tags.VOILUTSequence[0]
        shown = _looked_up(values, item) / (2 ** item.LUTDescriptor[2] - 1) * 255
    elif "WindowWidth" in tags:
        center, width = (np.ravel(tags[f"Window{name}"].value)[0] for name in ("Center", "Width"))
        shown = ((values - (center - 0.5)) / (width - 1) + 0.5) * 255
    else:
        low, high = np.quantile(values[~padding], (0.005, 0.995))
        shown = (values - low) / (high - low) * 255
    gray = np.clip(shown, 0, 255)
    gray = 255 - gray if dark else gray
    gray[padding] = 0
    return gray


def _looked_up(values: np.ndarray, item: Dataset) -> np.ndarray:
    data = item.LUTData
    entries = np.frombuffer(data, "<u2") if isinstance(data, bytes) else np.array(data)
    first = item.LUTDescriptor[1]
    return entries[np.clip(values - first, 0, len(entries) - 1).astype(int)].astype(float)
