"""Chest ImaGenome: boxes of the anatomy on films of MIMIC-CXR-JPG.

Tables `silver_dataset/splits/{train,valid,test}.csv`, scene graphs
`silver_dataset/scene_graph/<dicom_id>_SceneGraph.json`, read one at a time; `original_x1` to
`original_y2` are pixels of the original film. Its split is its own, and not that of MIMIC-CXR.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from medtune.config.chest_sources import ChestSourceConfig
from medtune.records.film import Film, Region
from medtune.sources.chest.issues import Issues
from medtune.sources.chest.mimic_cxr import IMAGE, Mimic
from medtune.sources.chest.sql_tables import find_table

SPLITS: dict[str, Literal["train", "val", "test"]] = {
    "train": "train",
    "valid": "val",
    "test": "test",
}
CORNERS = ("original_x1", "original_y1", "original_x2", "original_y2")
SEXES: dict[Any, Literal["female", "male"]] = {"F": "female", "M": "male"}


def films(config: ChestSourceConfig, findings: Issues) -> Iterator[Film]:
    """Yield the films that have a scene graph, with a region for every part of the body.

    Errors of a film: those of MIMIC-CXR-JPG, id-unmatched, graph-invalid. Warning:
    graph-missing (the film is left out, as some have none).

    Raises:
        DataError: A table or column is missing.
    """
    mimic = Mimic(config, Path(config.parent or ""), findings)
    folder = Path(config.root) / "silver_dataset"
    for name in SPLITS:
        path = find_table(folder / "splits", name)
        mimic.tables.load("graphs", path, IMAGE, (), own_split=name)
    mimic.tables.drop_duplicates("graphs", IMAGE)
    mimic.tables.check_join("graphs", "metadata", IMAGE)
    mimic.tables.index("graphs", "dicom_id")
    splits = "SELECT own_split FROM graphs WHERE dicom_id = ?"
    for film in mimic.films("graphs"):
        graph = _read(folder / "scene_graph", film, findings)
        if graph is not None:
            split = next(mimic.tables.query(splits, film.image_id))["own_split"]
            yield film.model_copy(update={"split": SPLITS[split], **graph})


def _read(folder: Path, film: Film, findings: Issues) -> dict[str, Any] | None:
    case, path = f"{film.source}/{film.image_id}", folder / f"{film.image_id}_SceneGraph.json"
    try:
        graph = json.loads(path.read_text(encoding="utf-8"))
        regions = tuple(
            Region(kind="anatomy", name=one["bbox_name"], box=[one[corner] for corner in CORNERS])
            for one in graph["objects"]
        )
        return {"regions": regions, "sex": SEXES.get(graph.get("gender"))}
    except FileNotFoundError:
        findings.leave_out(film.source, "film without a scene graph")
        findings.warn(
            "graph-missing", case, "no scene graph", "one", "nothing (the film is left out)"
        )
    except (ValueError, KeyError, TypeError) as error:
        found = f"{path.name}: {type(error).__name__} {error}"
        findings.report("graph-invalid", case, found, "objects with boxes", "download it again")
    return None
