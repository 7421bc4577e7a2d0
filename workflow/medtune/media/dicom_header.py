"""The header of a DICOM file, read without its pixels, and whether the pixels are all there."""

import struct
import warnings
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from medtune.runtime.errors import DataError

if TYPE_CHECKING:
    from pydicom import Dataset

REQUIRED = ("PixelData", "Rows", "Columns", "BitsStored", "PixelRepresentation")
GRAY = ("MONOCHROME1", "MONOCHROME2")
POLARITY = "PhotometricInterpretation"
# What pydicom and its decoders raise for files that break the standard.
UNREADABLE = (
    *(AttributeError, LookupError, TypeError, ValueError, ArithmeticError, RuntimeError),
    *(OSError, EOFError, struct.error, zlib.error),
)
GET_AGAIN = "get the file again, or leave the film out"
# JPEG of 12 bits, lossless JPEG and JPEG-LS: what a package under the GPLv3 decodes. A default
# installation is without it.
LIBJPEG = frozenset(f"1.2.840.10008.1.2.4.{number}" for number in (51, 57, 70, 80, 81))
INSTALL = (
    "install its decoder, which is under the GPLv3 (`pip install 'medtune[gpl]'` or `make gpl`), "
    "or convert the film"
)
MARK = slice(128, 132)
PIXELS, ITEM, END = 0x7FE00010, 0xFFFEE000, 0xFFFEE0DD
UNDEFINED = 0xFFFFFFFF


class Pixels(NamedTuple):
    """Where the value of PixelData begins in the file, and its length as its header says."""

    start: int
    length: int


def is_dicom(head: bytes) -> bool:
    """Return whether a file that begins so is DICOM, with or without its preamble.

    Without one it begins with an element of group 2 or 8: its tag, and then the name of a value
    representation, or (implicit) the length of a short value of an element of group 8.

    Args:
        head: The first 132 bytes or more.
    """
    if head[MARK] == b"DICM":
        return True
    if len(head) < MARK.stop:
        return False
    from pydicom.valuerep import STANDARD_VR

    explicit = head[4:6].decode("latin-1") in STANDARD_VR
    for order in "<>":
        group, element, length = struct.unpack(f"{order}HHI", head[:8])
        implicit = order == "<" and group == 8 and length <= 256 and length % 2 == 0
        # No text begins so: the tag's high bytes are 0.
        if group in (2, 8) and element < 0x0100 and (explicit or implicit):
            return True
    return False


def read_header(path: Path) -> "Dataset":
    """Return all elements before the pixels, after checking that the pixels are all there.

    Nothing is decoded; of pixels in fragments the lengths of the fragments are followed.

    Raises:
        DataError: It breaks the standard, lacks a tag that an image needs, or ends too early.
    """
    from pydicom.errors import InvalidDicomError
    from pydicom.filereader import read_partial
    from pydicom.uid import DeflatedExplicitVRLittleEndian
    from pydicom.valuerep import EXPLICIT_VR_LENGTH_32

    noted: list[tuple[str | None, int]] = []

    def at_pixels(tag: int, vr: str | None, length: int) -> bool:
        if tag == PIXELS:
            noted.append((vr, length))
        return tag >= PIXELS

    try:
        with warnings.catch_warnings(), path.open("rb") as file:
            warnings.simplefilter("ignore")  # small faults of the header, one line per film
            dataset = read_partial(file, at_pixels, force=True)
            _check_tags(path, dataset, bool(noted))
            if dataset.file_meta.TransferSyntaxUID == DeflatedExplicitVRLittleEndian:
                return dataset  # the pixels are inside what is packed
            vr, length = noted[-1]
            header = 12 if not dataset.original_encoding[0] and vr in EXPLICIT_VR_LENGTH_32 else 8
            _check_end(path, file, dataset, Pixels(file.tell() + header, length))
            return dataset
    except (InvalidDicomError, *UNREADABLE) as error:
        said = " ".join(str(error).split())
        raise DataError(path, f"cannot be read as DICOM ({said})", GET_AGAIN) from None


def _check_tags(path: Path, dataset: "Dataset", has_pixels: bool) -> None:
    """Refuse what has no image; note the encoding of a file that was written without its head."""
    names = [POLARITY, *REQUIRED]
    missing = [name for name in names if name != "PixelData" and dataset.get(name) in (None, "")]
    missing += [] if has_pixels else ["PixelData"]
    if missing:
        ordered = ", ".join(name for name in names if name in missing)
        raise DataError(path, f"has no {ordered}", GET_AGAIN)
    assume_syntax(dataset)
    if "TransferSyntaxUID" not in dataset.file_meta:
        raise DataError(path, "has no TransferSyntaxUID: its encoding is not known", GET_AGAIN)


def assume_syntax(dataset: "Dataset") -> None:
    """Name the encoding that a file without any meta information was seen to have."""
    from pydicom import uid

    if not dataset.file_meta and dataset.original_encoding[1] is not None:
        dataset.file_meta.TransferSyntaxUID = {
            (True, True): uid.ImplicitVRLittleEndian,
            (False, True): uid.ExplicitVRLittleEndian,
            (False, False): uid.ExplicitVRBigEndian,
        }[dataset.original_encoding]


def _check_end(path: Path, file: BinaryIO, dataset: "Dataset", pixels: Pixels) -> None:
    """Refuse a file that ends before its pixels do.

    Raises:
        DataError: It does, or its transfer syntax is one that nothing here decodes.
    """
    syntax = dataset.file_meta.TransferSyntaxUID
    size = path.stat().st_size
    if not _is_decoded(syntax, dataset.BitsStored):
        found = f"has transfer syntax {syntax.name} ({syntax}), which nothing here decodes"
        raise DataError(path, found, INSTALL if syntax in LIBJPEG else "convert it")
    if syntax.is_encapsulated:
        if pixels.length != UNDEFINED:
            raise DataError(path, f"is {syntax.name}, but its pixels are no fragments", GET_AGAIN)
        if not _ends(file, pixels.start, size):
            raise DataError(path, "is truncated: its last fragment of pixels is cut", GET_AGAIN)
        return
    count = dataset.Rows * dataset.Columns * int(dataset.get("NumberOfFrames") or 1)
    # Colors may be stored with fewer values than pixels; they are refused later.
    gray = str(dataset[POLARITY].value) in GRAY
    needed = max(count * dataset.BitsAllocated // 8 if gray else 0, pixels.length)
    there = min(pixels.length, size - pixels.start)
    if there < needed:
        raise DataError(path, f"is truncated: {there} of {needed} bytes of pixels", GET_AGAIN)


def _is_decoded(syntax: str, bits: int) -> bool:
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.uid import UID

    try:
        decoder = get_decoder(UID(syntax))
    except NotImplementedError:
        return False
    if syntax in LIBJPEG and bits > 8:  # pillow says that it reads them, and reads 8 bits
        return bool({*decoder.available_plugins} - {"pillow"})
    return decoder.is_available


def _ends(file: BinaryIO, place: int, size: int) -> bool:
    """Return whether fragments follow each other from `place` to the element that ends them."""
    while place + 8 <= size:
        file.seek(place)
        group, element, length = struct.unpack("<HHI", file.read(8))
        if group << 16 | element == END:
            return True
        if group << 16 | element != ITEM:
            return False
        place += 8 + length
    return False
