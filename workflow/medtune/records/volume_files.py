"""The files of a volume: their names, what belongs together, and what is no volume at all."""

import gzip
import re
from pathlib import Path

from medtune.runtime.errors import DataError

# Suffixes of the files that `medtune.media.read` reads, in small letters or capitals.
SUFFIXES = (
    *(".nii", ".nii.gz", ".hdr", ".hdr.gz", ".img", ".img.gz"),
    *(".nrrd", ".nhdr", ".mha", ".mhd"),
)
PAIR = {".hdr": ".img", ".img": ".hdr"}
# Headers whose voxels lie in another file, and where they name it.
DETACHED = {
    ".nhdr": re.compile(rb"^data ?file: *(.+?)\s*$", re.MULTILINE),
    ".mhd": re.compile(rb"^ElementDataFile *= *(.+?)\s*$", re.MULTILINE),
}
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
    rb"\x00\x05\x16[\x00\x07]": ("holds attributes of macOS (._ files), no image", "remove it"),
    rb"PK\x03\x04": ("is a zip archive", "unpack it"),
    rb"BZh|\xfd7zXZ|7z\xbc\xaf|\x28\xb5\x2f\xfd": (
        "is compressed otherwise than by gzip",
        "unpack it",
    ),
    rb"(?s:.{128}DICM)": ("is a DICOM file", "convert its series to NIfTI, by dcm2niix"),
    rb"\x89HDF|CDF": ("is a MINC, HDF5 or netCDF file", "convert it to NIfTI, by mnc2nii"),
    rb"\x00{3}\x01\x00\x00": ("is perhaps a FreeSurfer volume (.mgz)", "convert it by mri_convert"),
    rb"\x00\x00\x01\x5c|\x5c\x01\x00\x00": (
        "has a header of ANALYZE, or a NIfTI's without its magic, but no .img beside it",
        "convert it to NIfTI, with its orientation",
    ),
}


def volume_suffix(name: str) -> str | None:
    """Return the suffix of a file that can be read as a volume, in small letters, or None.

    Args:
        name: A file's name or path.
    """
    lower = Path(name).name.lower()
    return max((s for s in SUFFIXES if lower.endswith(s)), key=len, default=None)


def partner(path: str, suffix: str) -> Path:
    """Return the other file of a pair; a missing one is named as it would be called.

    Args:
        path: The .hdr or the .img, perhaps compressed.
        suffix: Which of both it is.

    Raises:
        OSError: Its folder cannot be read.
    """
    here = Path(path)
    stem = here.name[: -len(volume_suffix(path) or "")]
    wanted = [stem + PAIR[suffix], stem + PAIR[suffix] + ".gz"]
    names = [name.lower() for name in wanted]
    there = [one for one in here.parent.iterdir() if one.name.lower() in names]
    return min(there, default=here.with_name(wanted[0]))


def volume_files(path: str) -> list[str]:
    """Return a volume's path and that of the file in which its header says that its voxels lie."""
    suffix = (volume_suffix(path) or "").removesuffix(".gz")
    if suffix in PAIR and Path(path).is_file():
        return [path, str(partner(path, suffix))]
    if suffix in DETACHED and Path(path).is_file():
        with Path(path).open("rb") as file:
            name = DETACHED[suffix].search(file.read(1 << 16))
        if name:
            return [path, str(Path(path).parent / name[1].decode("utf-8", "replace"))]
    return [path]


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
