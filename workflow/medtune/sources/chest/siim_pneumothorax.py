"""SIIM-ACR Pneumothorax Segmentation: masks of pneumothoraces, on films of ChestX-ray14.

Table `stage_2_train.csv`, `train-rle.csv` or `siim-pneumothorax-train-rle.csv` [.gz], films
`<ImageId>.dcm` in any folder below the root. Nobody has published whose films they are.

A mask is a list of numbers, by turns how many pixels are skipped since the last run's end, and how
long a run is; pixels go down the columns, from left to right. `-1` is a film without pneumothorax.
A film is asked for this label alone.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medtune.config.chest_sources import ChestSourceConfig
from medtune.records.film import Film, PixelBox, Region
from medtune.runtime.errors import DataError
from medtune.sources.chest.image_files import fill_files, film_header
from medtune.sources.chest.issues import Issues
from medtune.sources.chest.own_labels import closed
from medtune.sources.chest.sql_tables import Tables, find_table

TABLES = ("stage_2_train", "train-rle", "siim-pneumothorax-train-rle")
KEY, RUNS = ("ImageId",), "EncodedPixels"
NAME, NONE = "Pneumothorax", "-1"
SIZE = (1024, 1024)


def films(config: ChestSourceConfig, findings: Issues) -> Iterator[Film]:
    """Yield the films of the challenge's training set, by id.

    Masks of a film whose boxes overlap are of one pneumothorax, and get one box.

    Errors of a film: mask-invalid, image-unreadable, id-duplicate. Warning, one for the source:
    patients-unknown.

    Raises:
        DataError: The table or a column is missing, or there are several tables.
    """
    tables, root = Tables(config.name, findings), Path(config.root)
    tables.load("masks", _table(root), KEY, (RUNS,))
    fill_files(tables, root)
    findings.warn(
        "patients-unknown", config.name, "no table of them", "the films' patients", "nothing"
    )
    rows = tables.query(
        "SELECT m.ImageId, json_group_array(m.EncodedPixels) AS runs, f.path FROM masks m "
        "LEFT JOIN files f ON f.name = m.ImageId GROUP BY m.ImageId ORDER BY m.ImageId"
    )
    for row in rows:
        film = _film(config, dict(row), findings)
        if film is not None and (not config.views or film.view in (None, *config.views)):
            yield film
        elif film is not None:
            findings.set_aside(config.name, film.path, film.view)


def _table(root: Path) -> Path:
    found = [path for name in TABLES for path in sorted(root.glob(f"{name}.csv*"))]
    if len(found) > 1:
        raise DataError(root, f"has {[path.name for path in found]}", "keep the newest of them")
    return found[0] if found else find_table(root, TABLES[0])


def _film(config: ChestSourceConfig, row: dict[str, Any], findings: Issues) -> Film | None:
    image = row["ImageId"]
    case, path = f"{config.name}/{image}", row["path"] or f"{image}.dcm"
    header = film_header(Path(config.root) / path, case, findings)
    if header is None:
        return None
    size = (header["width"], header["height"]) if header else SIZE
    try:
        boxes = mask_boxes(sorted({*json.loads(row["runs"])}), size)
    except ValueError as error:
        findings.report("mask-invalid", case, str(error), "runs in the image", "download it again")
        return None
    return Film(
        source=config.name,
        image_id=image,
        study_id=image,
        patient_id=f"siim/{image}",
        split="train",
        path=path,
        labels=closed({NAME} if boxes else (), (NAME,)),
        no_finding=False if boxes else None,
        regions=tuple(Region(kind="abnormality", name=NAME, box=box) for box in boxes),
        listed=True,
        **header,
    )


def mask_boxes(masks: list[str], size: tuple[int, int]) -> list[PixelBox]:
    """Return the boxes of a film's masks; see `mask_box` and `merged`.

    Raises:
        ValueError: One is no mask, or `-1` stands beside others.
    """
    if NONE in masks and len(masks) > 1:
        raise ValueError(f"{NONE}, no pneumothorax, beside a mask of one")
    return merged([mask_box(runs, size) for runs in masks if runs != NONE])


def mask_box(runs: str, size: tuple[int, int]) -> PixelBox:
    """Return the box around a mask.

    Args:
        runs: Pixels to skip and length of each run, by turns.
        size: (width, height) of the image.

    Raises:
        ValueError: They are no such numbers, or leave the image.
    """
    numbers, (width, height) = [int(one) for one in runs.split()], size
    if not numbers or len(numbers) % 2 or min(numbers[1::2]) < 1 or min(numbers) < 0:
        raise ValueError(f"{len(numbers)} numbers are no runs")
    columns, rows, end = [], [], 0
    for skipped, length in zip(numbers[::2], numbers[1::2], strict=True):
        start, end = end + skipped, end + skipped + length
        first, last = start // height, (end - 1) // height
        columns += [first, last]
        rows += [start % height, (end - 1) % height] if first == last else [0, height - 1]
    if end > width * height:
        raise ValueError(f"the mask ends at pixel {end} of {width}x{height}")
    return min(columns), min(rows), max(columns) + 1, max(rows) + 1


def merged(boxes: list[PixelBox]) -> list[PixelBox]:
    """Return boxes of which those that overlap have become one, around both; sorted."""
    found: list[PixelBox] = []
    for one in boxes:
        box, rest = one, found
        while touching := [other for other in rest if _overlap(other, box)]:
            rest = [other for other in rest if other not in touching]
            for other in touching:
                left, top = min(box[0], other[0]), min(box[1], other[1])
                box = (left, top, max(box[2], other[2]), max(box[3], other[3]))
        found = [*rest, box]
    return sorted(found)


def _overlap(one: PixelBox, other: PixelBox) -> bool:
    return all(one[i] < other[i + 2] and other[i] < one[i + 2] for i in (0, 1))
