"""CheXpert-Plus: reports and labels of reports for films of CheXpert.

Table `df_chexpert_plus_240401.csv`, labels `chexbert_labels/report_fixed.json` (JSON lines by
path_to_image). It publishes train and valid; films are those of CheXpert.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from medtune.config.chest_sources import ChestSourceConfig
from medtune.records.film import Film
from medtune.runtime.errors import DataError
from medtune.sources.chest.chexpert import SEXES, SPLITS, Images, chexpert_film
from medtune.sources.chest.issues import Issues
from medtune.sources.chest.labels import LABELS, NO_FINDING, film_labels
from medtune.sources.chest.sql_tables import Tables

KEY = ("path_to_image",)
SECTIONS = {
    "findings": "section_findings",
    "impression": "section_impression",
    "end_of_impression": "section_end_of_impression",
}
COLUMNS = (*SECTIONS.values(), "frontal_lateral", "split")
SAID = (*LABELS, NO_FINDING)


def films(config: ChestSourceConfig, findings: Issues) -> Iterator[Film]:
    """Yield the films of CheXpert-Plus, by path.

    Errors of a film: path-unknown, split-unknown, label-unknown, id-unmatched. Warnings:
    labels-contradict, labels-missing, report-empty.

    Raises:
        DataError: A table or column is missing, or a line of the labels is no JSON.
    """
    tables, root = Tables(config.name, findings), Path(config.root)
    path = root / "df_chexpert_plus_240401.csv"
    tables.load("films", path, KEY, COLUMNS, ("ap_pa", "sex"))
    tables.fill("labels", KEY, SAID, _labels(root / "chexbert_labels/report_fixed.json"))
    for name in ("films", "labels"):
        tables.drop_duplicates(name, KEY)
    tables.check_join("labels", "films", KEY)
    images = Images(Path(config.parent or config.root))
    rows = tables.query(
        """SELECT f.*, l.rowid AS judged, l.* FROM films f
        LEFT JOIN labels l USING (path_to_image) ORDER BY f.path_to_image"""
    )
    for row in rows:
        film = chexpert_film(
            config, images, row["path_to_image"], row["ap_pa"], findings, row["split"]
        )
        if film is None:
            continue
        case = f"{film.source}/{film.image_id}"
        if row["split"] not in SPLITS:
            findings.report(
                "split-unknown", case, row["split"], f"one of {list(SPLITS)}", "correct it"
            )
            continue
        if row["judged"] is None:
            findings.warn("labels-missing", case, "no labels", "a line", "nothing (none is known)")
        report = {name: " ".join(row[column].split()) for name, column in SECTIONS.items()}
        report = {name: text for name, text in report.items() if text}
        if not report:
            findings.warn("report-empty", case, "no section", "one", "nothing (it has no report)")
        judged = film_labels(dict(row), config.labels, case, findings)
        if judged is not None:
            yield film.model_copy(
                update={
                    "split": SPLITS[row["split"]],
                    "sex": SEXES.get(row["sex"]),
                    "labels": judged[0],
                    "no_finding": judged[1],
                    "report": report,
                }
            )


def _labels(path: Path) -> Iterator[list[object]]:
    """Yield key and labels of each line."""
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                try:
                    said = json.loads(line)
                    yield [said[name] for name in (*KEY, *SAID)]
                except (json.JSONDecodeError, KeyError, TypeError) as error:
                    raise DataError(
                        f"{path}, line {number}",
                        f"{type(error).__name__} {error}; expected a JSON object with "
                        f"{KEY[0]} and {len(SAID)} labels",
                        "download it again",
                    ) from None
    except FileNotFoundError:
        raise DataError(path, "the labels do not exist", "download them") from None
