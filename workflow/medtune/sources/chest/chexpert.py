"""CheXpert: films and labels.

Tables `train.csv`, `valid.csv` and, where it was downloaded, `test.csv` (which has neither sex nor
view), all in one folder; films `patient00001/study1/view1_frontal.jpg` in folders of any layout:
`train/`, `CheXpert-v1.0-small/train/`, or the parts that are downloaded today, in which patients
lie side by side, `CheXpert-v1.0 batch 2 (train 1)/`. The tables name them with the folders of the
first release in front, `CheXpert-v1.0/train/`, or without.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from medtune.config.chest_sources import ChestSourceConfig
from medtune.records.film import Film
from medtune.runtime.errors import DataError
from medtune.sources.chest.images import other_suffix
from medtune.sources.chest.issues import Issues
from medtune.sources.chest.labels import LABELS, NO_FINDING, film_labels
from medtune.sources.chest.sql_tables import Tables

SPLITS: dict[str, Literal["train", "val", "test"]] = {
    "train": "train",
    "valid": "val",
    "test": "test",
}
PATH = re.compile(
    r"(?:CheXpert[^/]*/)?(?:(?P<split>train|valid|test)/)?"
    r"(?P<path>(?P<patient>patient\d+)/(?P<study>study\d+)/"
    r"(?P<image>view\d+_(?P<view>frontal|lateral))\.\w+)"
)
PATIENT = re.compile(r"patient\d+")
DEPTH = 3  # of folders between the root and those of the patients, at most
SEXES: dict[str, Literal["female", "male"]] = {"Female": "female", "Male": "male"}


def films(config: ChestSourceConfig, findings: Issues) -> Iterator[Film]:
    """Yield the films of CheXpert, by path.

    Errors of a film: path-unknown, label-unknown. Warnings: labels-contradict, and
    split-missing where a table of the three is not there.

    Raises:
        DataError: The training table or a column is missing, or there are several such tables.
    """
    tables, folder = Tables(config.name, findings), find_folder(Path(config.root), "train.csv")
    for split in SPLITS:
        path = folder / f"{split}.csv"
        if split != "train" and not path.is_file():
            findings.warn(
                "split-missing", config.name, f"no {path.name}", "all splits", "download it"
            )
            continue
        said = (*LABELS, NO_FINDING)
        tables.load("films", path, ("Path",), said, ("Sex", "AP/PA"), split=split)
    tables.drop_duplicates("films", ("Path",))
    images = Images(Path(config.root))
    for row in tables.query("SELECT * FROM films ORDER BY split, Path"):
        film = chexpert_film(config, images, row["Path"], row["AP/PA"], findings, row["split"])
        if film is None:
            continue
        case, where = (
            f"{film.source}/{film.image_id}",
            f"in line {row['films_line']} of {row['split']}.csv",
        )
        judged = film_labels(dict(row), config.labels, case, findings, where)
        if judged is not None:
            yield film.model_copy(
                update={
                    "split": SPLITS[row["split"]],
                    "sex": SEXES.get(row["Sex"]),
                    "labels": judged[0],
                    "no_finding": judged[1],
                }
            )


def find_folder(root: Path, name: str) -> Path:
    """Return the folder that holds a table: the root, or the only folder in it that does.

    Raises:
        DataError: None does, or several do.
    """
    if (root / name).is_file():
        return root
    found = sorted({path.parent for depth in ("*", "*/*") for path in root.glob(f"{depth}/{name}")})
    if len(found) != 1:
        there = ", ".join(map(str, found[:3])) or "not in any folder of it"
        raise DataError(
            root / name,
            f"the table does not exist; there is one in {there}"
            if found
            else f"the table does not exist, {there}",
            "correct the root: it is the folder of one release" if found else "download it",
        )
    return found[0]


class Images:
    """The folders that hold the folders of patients.

    Args:
        root: What is below it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._folders = [str(one.relative_to(root)) for one in _patient_folders(root, DEPTH)]
        self._last: dict[str, str] = {}

    def path(self, split: str, path: str) -> str:
        """Return where an image lies, relative to the root; where it should if it is not there.

        Folders named after another split do not count.

        Args:
            split: train, valid or test.
            path: The image, from its patient's folder on.
        """
        others = SPLITS.keys() - {split}
        folders = [one for one in self._folders if Path(one).name not in others]
        # The next image mostly lies where the last one did; else the shortest way comes first.
        folders.sort(key=lambda one: (one != self._last.get(split), one != split, one))
        for is_there in (Path.is_file, other_suffix):
            for folder in folders:
                if is_there(self.root / folder / path):
                    self._last[split] = folder
                    return f"{folder}/{path}".removeprefix("./")
        return f"{split}/{path}"


def _patient_folders(folder: Path, depth: int) -> Iterator[Path]:
    """Yield the folders with folders of patients, sorted; those of patients are not looked into."""
    with os.scandir(folder) as entries:
        names = {entry.name for entry in entries if entry.is_dir()}
    inner = sorted(name for name in names if not PATIENT.fullmatch(name))
    if len(inner) < len(names):
        yield folder
    for name in inner if depth else ():
        yield from _patient_folders(folder / name, depth - 1)


def chexpert_film(
    config: ChestSourceConfig,
    images: Images,
    path: str,
    direction: str,
    findings: Issues,
    split: str = "train",
) -> Film | None:
    """Return what a path tells of a film; None: it is none (path-unknown), or of no view asked for.

    Args:
        config: The source.
        images: Where images are.
        path: As a table names it.
        direction: AP, PA or nothing.
        findings: Where findings go.
        split: As the table says, for a path that does not.
    """
    parts = PATH.fullmatch(path)
    if parts is None:
        findings.report(
            "path-unknown",
            f"{config.name}/{path}",
            "no path of a film",
            "such as train/patient00001/study1/view1_frontal.jpg",
            "correct the row",
        )
        return None
    frontal = direction if direction in ("AP", "PA") else "FRONTAL"
    view = frontal if parts["view"] == "frontal" else "LATERAL"
    where = images.path(parts["split"] or split, parts["path"])
    if config.views and view not in config.views:
        findings.set_aside(config.name, where, view)
        return None
    return Film(
        source=config.name,
        image_id=f"{parts['patient']}_{parts['study']}_{parts['image']}",
        study_id=f"{parts['patient']}_{parts['study']}",
        patient_id=f"chexpert/{parts['patient']}",
        split=None,
        path=where,
        view=view,
    )
