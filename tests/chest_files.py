"""Files of miniature chest-film data sets: tables and DICOM."""

import csv
import gzip
from pathlib import Path

import numpy as np


def write_csv(path: Path, rows: list[dict[str, object]], columns: tuple[str, ...] = ()) -> None:
    """Write rows as CSV, packed if the name ends in .gz; no rows need `columns`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wt", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns or list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write_dicom(path: Path, pixels: np.ndarray, sex: str | None = None) -> None:
    """Write a film of 12 bits as DICOM."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = "1.2.826.0.1.3680043.8.498.1"
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    one = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    one.SOPClassUID, one.SOPInstanceUID = meta[0x20002].value, meta[0x20003].value
    one.Modality, one.PhotometricInterpretation = "DX", "MONOCHROME2"
    if sex is not None:
        one.PatientSex = sex
    one.Rows, one.Columns = pixels.shape
    one.SamplesPerPixel, one.PixelRepresentation = 1, 0
    one.BitsAllocated, one.BitsStored, one.HighBit = 16, 12, 11
    one.WindowCenter, one.WindowWidth = 2048, 4096
    one.PixelData = (pixels.astype(np.uint16) * 16).tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    one.save_as(path, enforce_file_format=True)
