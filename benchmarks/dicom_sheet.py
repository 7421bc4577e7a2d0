"""A sheet of real DICOM files, each as medtune shows it beside the reference of the tests.

Usage: python benchmarks/dicom_sheet.py sheet.png
Needs pydicom-data. The third picture of a file is 50 + 100 times their difference in gray levels.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import pydicom
from PIL import Image, ImageDraw, ImageOps

sys.path.append(str(Path(__file__).parents[1] / "tests"))

from dicom_files import pixel_files, reference

from medtune.media.dicom import read_dicom
from medtune.runtime.errors import DataError

SIDE, TITLE, COLUMNS = 150, 30, 4


def row(path: Path) -> Image.Image | None:
    """Return medtune's rendering, the reference and the difference, or None for no film."""
    try:
        shown = read_dicom(path)
    except DataError:
        return None
    expected = np.rint(reference(path))
    difference = 50 + 100 * np.abs(shown - expected)
    sheet = Image.new("L", (3 * SIDE + 10, SIDE + TITLE), 90)
    for place, values in enumerate((shown, expected, difference)):
        picture = Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))
        sheet.paste(ImageOps.contain(picture, (SIDE, SIDE)), (place * SIDE, TITLE))
    tags = pydicom.dcmread(path, stop_before_pixels=True)
    facts = f"{tags.PhotometricInterpretation} {tags.BitsStored} bit {shown.shape[::-1]}"
    text = f"{path.name}\n{facts} {tags.file_meta.TransferSyntaxUID.name[:28]}"
    ImageDraw.Draw(sheet).text((2, 2), text, fill=255)
    return sheet


def main() -> None:
    """Write the sheet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sheet", type=Path, help="picture to write")
    sheet_path = parser.parse_args().sheet
    rows = [made for path in pixel_files() if (made := row(path))]
    width, height = rows[0].size
    sheet = Image.new("L", (COLUMNS * width, -(-len(rows) // COLUMNS) * height), 90)
    for number, one in enumerate(rows):
        sheet.paste(one, (number % COLUMNS * width, number // COLUMNS * height))
    sheet.save(sheet_path)


if __name__ == "__main__":
    main()
