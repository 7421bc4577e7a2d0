"""What an image file says of itself, and whether it is whole; no pixel is decoded.

A file that was cut has a sound header. So its end is looked at too: the marker that ends a JPEG,
the last chunk of a PNG, the length of a DICOM file's pixels.
"""

import re
from pathlib import Path
from typing import BinaryIO, NamedTuple

from PIL import Image, UnidentifiedImageError
from PIL.ExifTags import Base

from medtune.media.dicom_header import GET_AGAIN, GRAY, POLARITY, is_dicom, read_header
from medtune.runtime.errors import DataError

DEEP = "I;16"  # Pillow's name for 16-bit gray
PICTURES = {b"\xff\xd8\xff": "JPEG", b"\x89PNG\r\n\x1a\n": "PNG"}
JPEG_END, PNG_END = b"\xff\xd9", b"\0\0\0\0IEND\xaeB`\x82"
# How files begin that are no images of these kinds -> what they are, and the remedy.
OTHERS = {
    rb"version https://git-lfs": ("a pointer of Git LFS, not the image", "run `git lfs pull`"),
    rb".{0,80}/annex/objects/": ("a pointer of git-annex, not the image", "run `git annex get`"),
    rb"\s*(<!doctype|<html)": (
        "a web page, not the image",
        "download it again: the server wants a login, or has no such file",
    ),
    rb"\s*<": ("XML, not an image", "download it again"),
    rb"\s*[{\[]": ("JSON, not an image", "download it again"),
    rb"\x1f\x8b": ("packed by gzip", "unpack it"),
    rb"PK\x03\x04": ("a ZIP archive", "unpack it"),
    rb"(II\*\0|MM\0\*)": ("TIFF", "save it as PNG"),
    rb"BM": ("BMP", "save it as PNG"),
    rb"GIF8": ("GIF", "save it as PNG"),
    rb"RIFF....WEBP": ("WebP", "save it as PNG"),
    rb"(\0\0\0\x0cjP  |\xffO\xffQ)": ("JPEG 2000", "save it as PNG"),
    rb"\0{132}": ("zeros at its begin: a download that was never finished", "download it again"),
}
ALPHA = ("LA", "RGBA")
# Kinds of pixels that a film may have: gray, or colors that become luma.
MODES = {"DICOM": GRAY, "JPEG": ("L", "RGB"), "PNG": ("L", "RGB", DEEP, *ALPHA)}
BITS = range(8, 17)
REMEDY = dict.fromkeys(("P", "1", "CMYK", "I"), "save it as 8-bit gray PNG, or leave the film out")
NO_IMAGE = "is neither DICOM nor PNG nor JPEG"


class ImageHeader(NamedTuple):
    """What the header of an image says.

    Attributes:
        width: In pixels.
        height: In pixels.
        mode: Pillow's name of its pixels (L, RGB, RGBA, P, 1, CMYK, I;16, ...); of DICOM the
            photometric interpretation.
        bits: Of one value of a pixel, as stored.
        frames: How many images it holds.
        format: DICOM, JPEG or PNG, by its content and not by its name.
        syntax: The name of DICOM's transfer syntax, or nothing.
        turned: EXIF's orientation; 1: it is to be shown as it is stored.
        sex: DICOM's PatientSex, or nothing.
        view: DICOM's ViewPosition, or nothing.
    """

    width: int
    height: int
    mode: str
    bits: int
    frames: int
    format: str
    syntax: str = ""
    turned: int = 1
    sex: str = ""
    view: str = ""

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.width, self.height


def image_header(path: Path) -> ImageHeader:
    """Return the header of a DICOM, JPEG or PNG file that is whole, as far as its end tells.

    Raises:
        DataError: It is missing or empty, is another kind of file, cannot be read or is truncated.
    """
    try:
        with path.open("rb") as file:
            head = file.read(512)
            kind = next((name for mark, name in PICTURES.items() if head.startswith(mark)), None)
            if kind is not None:
                return _picture(path, file, kind)
    except OSError as error:
        raise _missing(path, error) from None
    if not is_dicom(head):
        raise _no_image(path, head)
    tags = read_header(path)
    return ImageHeader(
        width=int(tags.Columns),
        height=int(tags.Rows),
        mode=str(tags[POLARITY].value),
        bits=int(tags.BitsStored),
        frames=int(tags.get("NumberOfFrames") or 1),
        format="DICOM",
        syntax=tags.file_meta.TransferSyntaxUID.name,
        sex=str(tags.get("PatientSex") or ""),
        view=str(tags.get("ViewPosition") or ""),
    )


def check_header(path: Path, header: ImageHeader) -> None:
    """Refuse an image that is no film, as far as its header tells.

    Raises:
        DataError: It holds several images, other pixels than gray or colors of 8 to 16 bits, or
            asks to be turned.
    """
    mode = POLARITY if header.format == "DICOM" else "mode"
    bits = "BitsStored" if header.format == "DICOM" else "bits"
    expected = MODES[header.format]
    faults = {
        f"{mode} {header.mode}, expected one of {expected}": header.mode not in expected,
        f"{bits} {header.bits}, expected 8 to 16": header.bits not in BITS,
        f"several frames ({header.frames}), expected one": header.frames != 1,
    }
    for found, wrong in faults.items():
        if wrong:
            raise DataError(path, f"is no film: {found}", REMEDY.get(header.mode, "leave it out"))
    if header.turned != 1:
        raise DataError(
            path,
            f"is to be turned when shown (EXIF orientation {header.turned}): whether its boxes "
            "are of the turned image is not known",
            "turn its pixels and remove the tag, or leave the film out",
        )


def _picture(path: Path, file: BinaryIO, kind: str) -> ImageHeader:
    try:
        file.seek(0)
        with Image.open(file, formats=(kind,)) as image:
            # Pillow decodes a PNG that has no EXIF before its pixels, to look behind them.
            told = kind == "JPEG" or "exif" in image.info
            header = ImageHeader(
                *image.size,
                mode=image.mode,
                bits=_bits(file) if kind == "PNG" else 8,
                frames=getattr(image, "n_frames", 1),
                format=kind,
                turned=image.getexif().get(Base.Orientation, 1) if told else 1,
            )
    except (
        *(UnidentifiedImageError, OSError, SyntaxError, ValueError),
        Image.DecompressionBombError,
    ) as error:
        reason = "its header is damaged" if isinstance(error, UnidentifiedImageError) else error
        raise DataError(path, f"cannot be read as {kind} ({reason})", GET_AGAIN) from None
    if not (_jpeg_ends(file) if kind == "JPEG" else _png_ends(file)):
        found = f"is truncated: {path.stat().st_size} bytes without the end of a {kind}"
        raise DataError(path, found, GET_AGAIN)
    return header


def _bits(file: BinaryIO) -> int:
    file.seek(24)  # of the first chunk, IHDR
    return file.read(1)[0]


def _tail(file: BinaryIO, count: int) -> bytes:
    file.seek(max(0, file.seek(0, 2) - count))
    return file.read(count)


def _jpeg_ends(file: BinaryIO) -> bool:
    """Return whether the marker of the end comes after the last scan began.

    What follows the end (zeros, a second image) does not count. A marker inside the header is that
    of a thumbnail; among the coded values there is none.
    """
    if _tail(file, 2) == JPEG_END:
        return True
    file.seek(0)
    content = file.read()
    return content.find(JPEG_END, _scan(content)) >= 0


def _scan(content: bytes) -> int:
    """Return where the first scan of a JPEG begins, after the segments of its header."""
    place = 2
    while place + 4 <= len(content) and content[place] == 0xFF and content[place + 1] != 0xDA:
        fill = content[place + 1] == 0xFF  # bytes that may come before a marker
        place += 1 if fill else 2 + int.from_bytes(content[place + 2 : place + 4])
    return place


def _png_ends(file: BinaryIO) -> bool:
    """Return whether a PNG's chunks lead to the last; what follows it does not count."""
    if _tail(file, len(PNG_END)) == PNG_END:
        return True
    size, place = file.seek(0, 2), 8
    while place + 12 <= size:
        file.seek(place)
        head = file.read(8)
        if head[4:] == b"IEND":
            return True
        place += 12 + int.from_bytes(head[:4])
    return False


def _missing(path: Path, error: OSError) -> DataError:
    if path.is_symlink() and not path.exists():
        return DataError(
            path, f"is a link to {path.readlink()}, which is not there", "mend the link"
        )
    if path.is_dir():
        return DataError(path, "is a folder, not a file", "move the image out of it")
    if isinstance(error, FileNotFoundError):
        return DataError(path, "the file does not exist", GET_AGAIN)
    return DataError(path, f"cannot be opened ({error.strerror})", "let this account read it")


def _no_image(path: Path, head: bytes) -> DataError:
    if not head:
        return DataError(path, f"{NO_IMAGE}: it is empty (0 bytes)", "download it again")
    for start, (what, remedy) in OTHERS.items():
        if re.match(start, head, re.IGNORECASE | re.DOTALL):
            return DataError(path, f"{NO_IMAGE}: it is {what}", remedy)
    return DataError(path, f"{NO_IMAGE}: it begins with {head[:8]!r}", GET_AGAIN)
