"""CheXpert: films and labels.

Tables `train.csv`, `valid.csv` and, where it was downloaded, `test.csv` (which has neither sex nor
view); films `train/patient00001/study1/view1_frontal.jpg` below the root, named in the tables with
or without `CheXpert-v1.0[-small]/` in front.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from medtune.sections.chest_sources import ChestSourceConfig
from medtune.sources.chest.film import Film
from medtune.sources.chest.findings import Findings
from medtune.sources.chest.joined import Tables
from medtune.sources.chest.labels import LABELS, NO_FINDING, film_labels

SPLITS: dict[str, Literal["train", "val", "test"]] = {
    "train": "train",
    "valid": "val",
    "test": "test",
}
PATH = re.compile(
    r"(?:CheXpert-v1\.0(?:-small)?/)?(?P<path>(?:train|valid|test)/"
    r"(?P<patient>patient\d+)/(?P<study>study\d+)/(?P<image>view\d+_(?P<view>frontal|lateral))\.\w+)"
)
SEXES: dict[str, Literal["female", "male"]] = {"Female": "female", "Male": "male"}


def films(config: ChestSourceConfig, findings: Findings) -> Iterator[Film]:
    """Yield the films of CheXpert, by path.

    Errors of a film: path-unknown, label-unknown. Warnings: labels-contradict, and
    split-missing where a table of the three is not there.

    Raises:
        DataError: The training table or a column is missing.
    """
    tables, root = Tables(config.name, findings), Path(config.root)
    for split in SPLITS:
        path = root / f"{split}.csv"
        if split != "train" and not path.is_file():
            findings.warn(
                "split-missing", config.name, f"no {path.name}", "all splits", "download it"
            )
            continue
        said = (*LABELS, NO_FINDING)
        tables.load("films", path, ("Path",), said, ("Sex", "AP/PA"), split=split)
    tables.drop_duplicates("films", ("Path",))
    for row in tables.query("SELECT * FROM films ORDER BY split, Path"):
        film = chexpert_film(config, row["Path"], row["AP/PA"], findings)
        if film is None or not findings.wanted(config, film.view):
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


def chexpert_film(
    config: ChestSourceConfig, path: str, direction: str, findings: Findings
) -> Film | None:
    """Return what a path tells of a film, or None if it is none of CheXpert (path-unknown).

    Args:
        config: The source.
        path: As a table names it.
        direction: AP, PA or nothing.
        findings: Where findings go.
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
    return Film(
        source=config.name,
        image_id=f"{parts['patient']}_{parts['study']}_{parts['image']}",
        study_id=f"{parts['patient']}_{parts['study']}",
        patient_id=f"chexpert/{parts['patient']}",
        split=None,
        path=parts["path"],
        view=frontal if parts["view"] == "frontal" else "LATERAL",
    )
