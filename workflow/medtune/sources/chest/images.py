"""Where the image of a film lies, if not where its table says."""

import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from medtune.media.image_header import image_header
from medtune.records.film import Film
from medtune.runtime.console import log
from medtune.runtime.errors import DataError
from medtune.sources.chest.issues import Issues

# In the order in which one is taken where there are several: the original first.
SUFFIXES = (".dicom", ".dcm", ".png", ".jpg", ".jpeg")


KNOWN = "SELECT 1 FROM paths WHERE path = ?"


def is_image(name: str) -> bool:
    """Return whether a file is called as an image is; what macOS leaves behind is none."""
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def other_suffix(path: Path) -> Path | None:
    """Return the image that lies there under another suffix, or None."""
    if not path.parent.is_dir():
        return None
    for suffix in (*SUFFIXES, *map(str.upper, SUFFIXES)):
        other = path.with_suffix(suffix)
        if other != path and other.is_file():
            return other
    return None


def images_below(folder: Path) -> dict[str, str]:
    """Return the images in a folder: name without suffix -> name, of several the original."""
    found: dict[str, str] = {}
    order = {suffix: rank for rank, suffix in enumerate(SUFFIXES)}
    for path in sorted(folder.glob("*")) if folder.is_dir() else ():
        known, suffix = found.get(path.stem), path.suffix.lower()
        better = known is None or order[suffix] < order[Path(known).suffix.lower()]
        if suffix in order and better and not path.name.startswith("."):
            found[path.stem] = path.name
    return found


def locate(film: Film, images: Path, findings: Issues) -> Film | None:
    """Return a film with the path of the file that is there, or None: there is none.

    Error: image-missing. Warning: image-renamed (another suffix than the table's).

    Args:
        film: As its source yields it.
        images: The source's folder of images.
        findings: Where findings go.
    """
    path, case = images / film.path, f"{film.source}/{film.image_id}"
    if path.is_file():
        return film
    other = other_suffix(path)
    if other is None:
        findings.report(
            "image-missing", case, _instead(path, film), f"it in {images}", "download it"
        )
        return None
    findings.warn("image-renamed", case, other.name, film.path, "nothing (it is read)")
    return film.model_copy(update={"path": str(other.relative_to(images))})


def _instead(path: Path, film: Film) -> str:
    """Return what lies where a file should."""
    if path.is_symlink():
        return f"{film.path} is a link to {path.readlink()}, which is not there"
    if path.is_dir():
        return f"{film.path} is a folder"
    lacking = [folder for folder in path.parents if not folder.is_dir()]
    return f"no file {film.path}" + (f": there is no folder {lacking[-1]}" if lacking else "")


def file_size(path: Path, case: str, findings: Issues) -> tuple[int, int] | None:
    """Return (width, height) of an image from its header, or None (image-unreadable)."""
    try:
        return image_header(path).size
    except DataError as error:
        found, expected = f"{path.name}: {error.found}", "a whole image"
        findings.report("image-unreadable", case, found, expected, error.remedy)
        return None


class Named:
    """The images that the rows of a source name, on disk: there are many.

    Args:
        source: Name of the source.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self._paths = sqlite3.connect("")
        self._paths.execute("CREATE TABLE paths (path TEXT PRIMARY KEY)")

    def add(self, path: str) -> None:
        """Note a path relative to the source's folder of images; its suffix does not count."""
        name = path.rpartition(".")[0]
        self._paths.execute("INSERT OR IGNORE INTO paths VALUES (?)", [name])

    def tell(self, images: Path, findings: Issues, whole: bool) -> None:
        """Say how many image files no row names.

        Warning of a source: image-unnamed.

        Args:
            images: The source's folder of images.
            findings: Where findings go; the paths that were set aside are taken from there.
            whole: Whether the source is about all images of the folder.
        """
        for path in findings.aside:
            self.add(path)
        findings.aside.clear()
        if not whole:
            return
        first, count = [], 0
        for path in image_files(images):
            if not self._paths.execute(KNOWN, [path.rpartition(".")[0]]).fetchone():
                count += 1
                first += [path] if count <= 3 else []
        if count:
            found = f"{count} image files that no sound row names, such as {', '.join(first)}"
            log(f"{self.source}: {found}")
            findings.warn("image-unnamed", self.source, found, "a row for each", "nothing")


def image_files(root: Path) -> Iterator[str]:
    """Yield the image files below a folder, relative to it; each linked folder once.

    Names alone are read, and in one order: of hundreds of thousands of files in seconds.
    """
    waiting, seen = [""], set[str]()
    while waiting:
        folder = waiting.pop()
        with os.scandir(root / folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
        for entry in entries:
            if entry.is_symlink() and entry.is_dir():
                real = os.path.realpath(entry.path)
                if real in seen or str(root.resolve()).startswith(real):
                    continue
                seen.add(real)
            if entry.is_dir():
                waiting.append(f"{folder}{entry.name}/")
            elif is_image(entry.name):
                yield folder + entry.name
