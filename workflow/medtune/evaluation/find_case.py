"""The images of one case by hand: a folder in any layout that a source module reads, or files."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from medtune.config.data import GROUPS, NiftiForm, SourceConfig
from medtune.records.case import Case, Volume
from medtune.runtime.errors import DataError
from medtune.sources import get_source
from medtune.sources.brain.brats import RELEASES
from medtune.sources.table import columns_without_images

SOURCE = "case"  # in ids, where a source would be named


def case_of_images(
    images: Mapping[str, Path], name: str = "images", nifti_form: NiftiForm | None = None
) -> Case:
    """Return a case of image files by modality, such as {"t2f": Path("flair.nii.gz")}.

    Args:
        images: File of each modality.
        name: Name of the case.
        nifti_form: Which form of the NIfTI headers holds where they differ.
    """
    volumes = {key: Volume(path=str(path)) for key, path in images.items()}
    return Case(
        source=SOURCE,
        case_id=name,
        patient_id=f"{SOURCE}:{name}",
        images=volumes,
        mask=None,
        labels={},
    ).with_form(nifti_form)


def find_case(
    folder: Path,
    modalities: Iterable[str],
    case_id: str | None = None,
    nifti_form: NiftiForm | None = None,
) -> Case:
    """Return the case of a folder, whatever its layout; a mask is left aside.

    Args:
        folder: Folder of a case, or of several in one layout.
        modalities: What the case must have.
        case_id: Which case, if there are several.
        nifti_form: Which form of the NIfTI headers holds where they differ.

    Raises:
        DataError: There is no such case, or more than one.
    """
    if not folder.is_dir():
        raise DataError(folder, "there is no such folder", "give the folder of one case")
    wanted, root = set(modalities), folder.resolve()
    found: dict[str, Case] = {}
    problem: DataError | None = None
    for path in (None, *_tables(root)):
        try:
            layouts = [_layout(root, path)] if path else _layouts(root)
            for case in (case for one in layouts for case in get_source(one).find(one)):
                if wanted <= set(case.images) and case_id in (None, case.case_id):
                    found.setdefault(case.case_id, case)
        except DataError as error:
            if path is None:
                raise
            problem = problem or error  # some tables beside cases are about other things
    if problem and not found:
        raise problem
    if len(found) != 1:
        names = ", ".join(sorted(found)[:8]) or "none"
        raise DataError(
            folder,
            f"expected one case with {', '.join(sorted(wanted))}, found {len(found)}: {names}",
            "name it by --case-id, or give the files by --image modality=path",
        )
    (case,) = found.values()
    return case.model_copy(update={"mask": None}).with_form(nifti_form)


def _tables(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.suffix in (".csv", ".parquet"))


def _layouts(root: Path) -> list[SourceConfig]:
    """Return all releases that a folder may be."""
    kinds: list[Any] = [*RELEASES, *(["msd_brain"] if (root / "dataset.json").is_file() else [])]
    return [SourceConfig(name=SOURCE, root=str(root), masks="optional", kind=k) for k in kinds]


def _layout(root: Path, table: Path) -> SourceConfig:
    """Return a table as a source: masks are not read, so the name of their label means nothing."""
    further = [name for name in columns_without_images(table, root) if name not in GROUPS]
    return SourceConfig(
        name=SOURCE,
        root=str(root),
        masks="optional",
        kind="table",
        table=table.name,
        labels={1: "WT"},
        groups=further,
    )
