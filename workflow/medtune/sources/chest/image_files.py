"""Where the image files of a source lie, and what their headers tell."""

from pathlib import Path
from typing import Any, Literal

from medtune.media.image_header import image_header
from medtune.records.case import folders
from medtune.runtime.errors import DataError
from medtune.sources.chest.images import SUFFIXES, is_image
from medtune.sources.chest.issues import Issues
from medtune.sources.chest.sql_tables import Tables

SEXES: dict[str, Literal["female", "male"]] = {
    **dict.fromkeys(("F", "Female"), "female"),
    **dict.fromkeys(("M", "Male"), "male"),
}


def fill_files(tables: Tables, root: Path) -> None:
    """Make the table `files` (name without suffix, path relative to `root`) of all images below it.

    Error: id-duplicate, where several files have one name: none of them is used.
    """
    tables.fill("files", ("name",), ("path",), _walk(root))
    tables.drop_duplicates("files", ("name",))


def _walk(root: Path) -> Any:
    for folder in folders(root):
        for path in sorted(folder.iterdir()):
            if is_image(path.name):
                yield stem(path.name), str(path.relative_to(root))


def stem(name: str) -> str:
    """Return a file's name without the suffixes of images: those of `1.dcm.png` are two."""
    while name.lower().endswith(SUFFIXES):
        name = name.rpartition(".")[0]
    return name


def film_header(path: Path, case: str, findings: Issues) -> dict[str, Any] | None:
    """Return width, height, view and sex of a film, the last two where its header tells.

    {} if there is no file, which `check_film` reports; None if it is unreadable (image-unreadable).
    """
    if not path.is_file():
        return {}
    try:
        header = image_header(path)
    except DataError as error:
        findings.report("image-unreadable", case, error.found, "a whole image", error.remedy)
        return None
    return {
        "width": header.width,
        "height": header.height,
        "view": header.view or None,
        "sex": SEXES.get(header.sex),
    }
