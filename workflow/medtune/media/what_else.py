"""What a file is that is no volume: the cause and the remedy, in words."""

import gzip
import re
from pathlib import PurePath

from medtune.errors import DataError

# Suffixes of the files that `medtune.media.read` reads, in any case; .hdr and .img go together.
SUFFIXES = (
    *(".nii", ".nii.gz", ".hdr", ".hdr.gz", ".img", ".img.gz"),
    *(".nrrd", ".nhdr", ".mha", ".mhd"),
)
GZIP = b"\x1f\x8b"
AGAIN = "fetch it again"
# Pattern of a file's first 1024 bytes -> what it is, what to do.
KINDS = {
    rb"version https://git-lfs": (
        "is a Git LFS pointer, not the file itself",
        "run `git lfs pull`",
    ),
    rb"\S*/annex/objects/": ("is a git-annex pointer, not the file itself", "run `git annex get`"),
    rb"\s*(?i:<!doctype html|<html)": (
        "is a web page, which a server sends where a file is missing or not allowed",
        "sign in there and fetch the file again",
    ),
    rb"\s*[<{]": ("is text (XML or JSON), perhaps a server's message; read it", AGAIN),
    rb"\0\5\x16[\0\7]": ("holds attributes of macOS (._ files), no image", "remove it"),
    rb"PK\3\4": ("is a zip archive", "unpack it"),
    rb"BZh|\xfd7zXZ|7z\xbc\xaf|\x28\xb5\x2f\xfd": (
        "is compressed otherwise than by gzip",
        "unpack it",
    ),
    rb"(?s:.{128}DICM)": ("is a DICOM file", "convert its series to NIfTI, by dcm2niix"),
    rb"\x89HDF|CDF": ("is a MINC, HDF5 or netCDF file", "convert it to NIfTI, by mnc2nii"),
    rb"\0\0\0\1\0\0..\0\0": ("is perhaps a FreeSurfer volume (.mgz)", "convert it by mri_convert"),
    rb"(?:\0\0\x01\x5c|\x5c\x01\0\0)": (
        "has a header of ANALYZE, or a NIfTI's without its magic, but no .img beside it",
        "convert it to NIfTI, with its orientation",
    ),
}


def volume_suffix(name: str) -> str | None:
    """Return the suffix of a file that can be read as a volume, in small letters, or None.

    Args:
        name: A file's name or path.
    """
    lower = PurePath(name).name.lower()
    return max((s for s in SUFFIXES if lower.endswith(s)), key=len, default=None)


def unpacked(raw: bytes, path: str) -> bytes:
    """Return a file's bytes, decompressed to the last and checked where it is compressed by gzip.

    Raises:
        DataError: It is empty, or compressed twice.
    """
    if not raw:
        raise DataError(path, "is empty", AGAIN)
    data = gzip.decompress(raw) if raw.startswith(GZIP) else raw
    if data.startswith(GZIP) and raw.startswith(GZIP):
        raise DataError(path, "is compressed twice (gzip in gzip)", "run `gunzip` on it once")
    return data


def what_else(data: bytes) -> tuple[str, str]:
    """Return what a file without a volume is, and what to do."""
    head = data[:1024]
    for pattern, (kind, remedy) in KINDS.items():
        if re.match(pattern, head):
            return kind, remedy
    return f"is no NIfTI, NRRD or MetaImage file (it begins with {head[:8]!r})", AGAIN
