"""BraTS folders: one folder per case, one NIfTI file per modality, named after the case.

Releases (files may also be uncompressed, folders may be nested). What each holds, and where that is
written; file names and codes are the same in the release of a later year unless it is listed:

2017-2020  Bakas et al., arXiv:1811.02629; `<case>_t1ce.nii.gz`; 1 NCR and NET, 2 ED, 4 ET
2021       Baid et al., arXiv:2107.02314; the same files and codes, patients renumbered
2023       `<case>-t1c.nii.gz`; 1 NCR, 2 ED, 3 ET, where later papers say NETC and SNFH for 1 and 2;
           TC = 1 + 3, WT = 1 + 2 + 3 (github rachitsaluja/BraTS-2023-Metrics). GLI (the cases of
           2021, renamed), MEN (LaBella et al., arXiv:2305.07642), MET (Moawad et al.,
           arXiv:2306.00838), SSA (Adewole et al., arXiv:2305.19369; 2024, 2025 and BraTS-Africa of
           TCIA too), PED (Kazerooni et al., arXiv:2305.17033; 1 is all of the core that does not
           enhance, cysts too)
2024       Codes and regions: github rachitsaluja/BraTS-2024-Metrics, metrics_<code>.py, which the
           challenge scored with (Sage-Bionetworks-Challenges/brats2023, evaluation/lesionwise).
           GLI after treatment (de Verdier et al., arXiv:2405.18368): 1 NETC, 2 SNFH, 3 ET, 4 RC;
           TC = 1 + 3, WT = 1 + 2 + 3. 2025 adds the cases before treatment, which have no 4.
           MET of 2024 and 2025 (Maleki et al., arXiv:2504.12527): the same four.
           PED of 2024 and 2025 (Kazerooni et al., arXiv:2404.15009; BraTS-PEDs-v1 of TCIA): other
           codes, 1 ET, 2 NET, 3 CC, 4 ED; TC = 1 + 2 + 3, WT = 1 to 4.
           GoAT: cases of GLI, SSA, MEN, MET and PED of 2023 under new numbers without time points,
           codes of 2023 (brats2023, branch brats-goat2024, evaluation/lesionwise/score.py).
           MEN-RT (LaBella et al., arXiv:2405.18383): one modality, one target volume
           (mlcommons/medperf, examples/BraTS2024/data_prep)

What most cases are like (`usual`), from counts in public forks: of 257 cases of PED 2024, 66 % have
ET, 32 % CC and 20 % ED; of 1,295 of MET 2025, 96 % ET, 89 % SNFH, 54 % NETC and 13 % RC; all but a
few of GLI 2021 have ED, ET and NCR. The shares below are lower, so that a part of a release, say
its low grades, accuses no right label map; those of MEN, GoAT and GLI 2024 are set by judgment.
"""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from medtune.config.data import SourceConfig
from medtune.records.case import Case, Usual, Volume, image_stem, is_junk, walk


@dataclass(frozen=True)
class Brats:
    """One release.

    Attributes:
        labels: Name of every label code.
        suffixes: File suffix of each modality, and of `mask`.
        patient: Pattern of a case's folder name; group 1 is the patient.
        near: Pattern of what is almost such a name.
        example: A case's folder name.
        cohort: Name shared by the releases that number their patients alike.
        usual: What the labels of most cases are like.
    """

    labels: dict[int, str]
    suffixes: dict[str, str]
    patient: re.Pattern[str]
    near: re.Pattern[str]
    example: str
    cohort: str
    usual: tuple[Usual, ...] = field(default=())

    @property
    def modalities(self) -> tuple[str, ...]:
        """Modalities that every case must have."""
        return tuple(name for name in self.suffixes if name != "mask")

    def find(self, config: SourceConfig) -> list[Case]:
        """Return every folder whose name is a case's, whatever it holds; see `Source.find`.

        A folder without the files of a case, or with links that lead nowhere in their place, is a
        case without images: verification says so. Cases of the set that GLI released as
        "additional" are for testing.
        """
        cases = []
        root = Path(config.root)
        seen = set()  # one folder that two links lead to is one case
        for folder, below, names in walk(root):
            match = self.patient.fullmatch(folder.name)
            where = (os.path.realpath(folder), folder.name)
            if not match or not self.is_case(below, names) or where in seen:
                continue
            seen.add(where)
            files = {
                key: _file(folder, f"{folder.name}{suffix}", [*names, *below])
                for key, suffix in self.suffixes.items()
            }
            absent = {
                key: _looked_for(folder / f"{folder.name}{self.suffixes[key]}")
                for key, file in files.items()
                if not file
            }
            mask = files.pop("mask")
            above = "/".join([root.name, *folder.relative_to(root).parts[:-1]])
            later = self.cohort == "brats_gli" and "additional" in above.lower()
            cases.append(
                Case(
                    source=config.name,
                    case_id=folder.name,
                    patient_id=f"{self.cohort}:{match.group(1)}",
                    images={key: Volume(path=file) for key, file in files.items() if file},
                    mask=mask,
                    labels=self.labels,
                    split="test" if later else None,
                    absent=absent,
                )
            )
        return cases

    def is_case(self, below: Iterable[str], names: Iterable[str]) -> bool:
        """Return whether a folder with a case's name is one, and not just a folder around it.

        Args:
            below: Names of its subfolders.
            names: Names of its other entries.
        """
        below = list(below)
        return bool(list(names) or not below or [name for name in below if image_stem(name)])


def _file(folder: Path, stem: str, entries: Iterable[str]) -> str | None:
    """Return the NIfTI file of a name, whatever its capitals, or None.

    A folder in its place that holds one image, as in copies on Kaggle, stands for this image.
    """
    named = {name.lower(): name for name in sorted(entries, reverse=True)}
    for ending in (".nii.gz", ".nii"):
        exact = f"{stem}{ending}"
        path = folder / (exact if exact in named.values() else named.get(exact.lower(), exact))
        if path.is_dir():
            inside = [entry for entry in sorted(path.iterdir()) if not is_junk(entry.name)]
            if len(inside) == 1 and image_stem(inside[0].name):
                path = inside[0]
        if path.is_file():
            return str(path)
    return None


def _looked_for(stem: Path) -> str:
    """Return the path of a missing file; that of a dangling link or folder where there is one."""
    paths = [f"{stem}.nii.gz", f"{stem}.nii"]
    return next(filter(os.path.lexists, paths), paths[0])


OLD_SUFFIXES = {"t1n": "_t1", "t1c": "_t1ce", "t2w": "_t2", "t2f": "_flair", "mask": "_seg"}
SUFFIXES = {"t1n": "-t1n", "t1c": "-t1c", "t2w": "-t2w", "t2f": "-t2f", "mask": "-seg"}
OLD_LABELS = {0: "background", 1: "NCR", 2: "ED", 4: "ET"}
LABELS = {0: "background", 1: "NCR", 2: "ED", 3: "ET"}
TREATED = LABELS | {4: "RC"}
PEDIATRIC = {0: "background", 1: "ET", 2: "NET", 3: "CC", 4: "ED"}

SWAPPED = "NCR and ED may be exchanged"
GLIOMA = (
    Usual(("ED",), (), 0.98),
    Usual(("ET",), (), 0.7),
    Usual(("ED",), ("NCR",), 0.35, SWAPPED),  # low grades often have more core than edema
)
AFTER_TREATMENT = (
    Usual(("ED",), (), 0.9),
    Usual(("ET",), (), 0.6, "ET may be code 4, as until 2021, and not RC"),
    Usual(("ED",), ("NCR",), 0.6, SWAPPED),
)
METASTASES = (
    Usual(("ED",), (), 0.85),
    Usual(("ET",), (), 0.9, "ET may be code 4, as until 2021"),
    Usual(("ED",), ("NCR",), 0.6, SWAPPED),
)
MENINGIOMA = (Usual(("ET",), (), 0.95), Usual(("ET",), ("NCR",), 0.9))
MIXTURE = (Usual(("ED",), (), 0.7), Usual(("ET",), (), 0.8))
CHILDREN = (
    Usual(("NCR",), (), 0.98, "it may be `brats2024_ped` (1 ET, 2 NET, 3 CC, 4 ED)"),
    Usual(("NCR",), ("ED",), 0.97, "it may be `brats2024_ped` (1 ET, 2 NET, 3 CC, 4 ED)"),
)
CHILDREN_2024 = (
    Usual(("NET",), (), 0.98, "it may be `brats2023_ped` (1 NCR, 2 ED, 3 ET)"),
    Usual(("NET", "CC"), ("ET",), 0.8, "it may be `brats2023_ped` (1 NCR, 2 ED, 3 ET)"),
)


def _release(
    code: str,
    labels: dict[int, str],
    usual: tuple[Usual, ...],
    number: str = r"-(\d+)-\d+",
    example: str = "-00495-000",
    suffixes: dict[str, str] = SUFFIXES,
) -> Brats:
    """Return a release from 2023 on: BraTS-GLI-03021-101 is time point 101 of patient 03021."""
    loose = code.replace("-", r"[\W_]*")
    return Brats(
        labels,
        suffixes,
        re.compile(rf"BraTS-{code}{number}"),
        re.compile(
            rf"(?<![a-z])(?:brats[\W_]*(?:(?:20)?2\d)?[\W_]*)?{loose}[\W_]*\d", re.IGNORECASE
        ),
        f"BraTS-{code}{example}",
        f"brats_{code.lower().replace('-', '_')}",
        usual,
    )


RELEASES: dict[str, Brats] = {
    # Brats18_TCIA01_131_1 and BraTS19_TCIA01_131_1 are one patient.
    "brats2018": Brats(
        OLD_LABELS,
        OLD_SUFFIXES,
        re.compile(r"brats(?:17|18|19|20)_(.+?)(?:_1)?", re.IGNORECASE),
        re.compile(r"brats[\W_]*(?:20)?(?:17|18|19|20)[\W_]", re.IGNORECASE),
        "Brats18_2013_2_1",
        "brats2018",
        GLIOMA,
    ),
    # GLI of 2023 kept the patient numbers of 2021.
    "brats2021": Brats(
        OLD_LABELS,
        OLD_SUFFIXES,
        re.compile(r"BraTS2021_(\d{5})"),
        re.compile(r"(?:brats|fets)[\W_]*(?:20)?2[12][\W_]*\d", re.IGNORECASE),
        "BraTS2021_00495",
        "brats_gli",
        GLIOMA,
    ),
    "brats2023_gli": _release("GLI", LABELS, GLIOMA),
    "brats2023_men": _release("MEN", LABELS, MENINGIOMA),
    "brats2023_met": _release("MET", LABELS, METASTASES),
    "brats2023_ped": _release("PED", LABELS, CHILDREN),
    "brats2023_ssa": _release("SSA", LABELS, GLIOMA),
    "brats2024_gli": _release("GLI", TREATED, AFTER_TREATMENT),
    "brats2024_goat": _release("GoAT", LABELS, MIXTURE, r"-(\d+)(?:-\d+)?", "-00495"),
    "brats2024_men_rt": _release(
        "MEN-RT",
        {0: "background", 1: "GTV"},
        (),
        example="-0012-1",
        suffixes={"t1c": "_t1c", "mask": "_gtv"},
    ),
    "brats2024_met": _release("MET", TREATED, METASTASES),
    "brats2024_ped": _release("PED", PEDIATRIC, CHILDREN_2024),
}


def named_alike(kind: str) -> list[str]:
    """Return the other kinds that name their cases as this kind does, but know other codes."""
    if kind not in RELEASES:
        return []
    example = RELEASES[kind].example
    return [
        other
        for other, release in RELEASES.items()
        if release.patient.fullmatch(example) and release.labels != RELEASES[kind].labels
    ]
