"""BraTS folders: one folder per case, one NIfTI file per modality, named after the case.

Releases (files may also be uncompressed, folders may be nested):

2017-2020  Bakas et al., arXiv:1811.02629; `<case>_t1ce.nii.gz`, labels 1, 2, 4
2021       Baid et al., arXiv:2107.02314; the same files, patients renumbered
2023       GLI (the cases of 2021, renamed), MEN (LaBella et al., arXiv:2305.07642), MET (Moawad
           et al., arXiv:2306.00838), SSA (Adewole et al., arXiv:2305.19369), PED (Kazerooni et
           al., arXiv:2305.17033); `<case>-t1c.nii.gz`, labels 1, 2, 3
2024       GLI after treatment (de Verdier et al., arXiv:2405.18368): label 4 is the resection
           cavity; MEN-RT (LaBella et al., arXiv:2405.18383): one modality, one target volume
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from medtune.sections.data import SourceConfig
from medtune.sources.base import Case, Volume, folders


@dataclass(frozen=True)
class Brats:
    """One release.

    Attributes:
        labels: Name of every label code.
        suffixes: File suffix of each modality, and of `mask`.
        patient: Pattern of a case's folder name; group 1 is the patient.
        cohort: Name shared by the releases that number their patients alike.
    """

    labels: dict[int, str]
    suffixes: dict[str, str]
    patient: re.Pattern[str]
    cohort: str

    @property
    def modalities(self) -> tuple[str, ...]:
        """Modalities that every case must have."""
        return tuple(name for name in self.suffixes if name != "mask")

    def find(self, config: SourceConfig) -> list[Case]:
        """Return every folder whose name is a case's; see `Source.find`.

        Cases of the set that GLI released as "additional" are for testing.
        """
        cases = []
        root = Path(config.root)
        for folder in folders(root):
            match = self.patient.fullmatch(folder.name)
            if not match:
                continue
            files = {key: self._file(folder, suffix) for key, suffix in self.suffixes.items()}
            absent = {
                key: _looked_for(folder / f"{folder.name}{self.suffixes[key]}")
                for key, file in files.items()
                if not file
            }
            mask = files.pop("mask")
            images = {key: Volume(path=file) for key, file in files.items() if file}
            if any(path.is_file() for path in folder.iterdir()):
                above = "/".join([root.name, *folder.relative_to(root).parts[:-1]])
                later = self.cohort == "brats_gli" and "additional" in above.lower()
                cases.append(
                    Case(
                        source=config.name,
                        case_id=folder.name,
                        patient_id=f"{self.cohort}:{match.group(1)}",
                        images=images,
                        mask=mask,
                        labels=self.labels,
                        split="test" if later else None,
                        absent=absent,
                    )
                )
        return cases

    def _file(self, folder: Path, suffix: str) -> str | None:
        for ending in (".nii.gz", ".nii"):
            path = folder / f"{folder.name}{suffix}{ending}"
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


def _release(code: str) -> Brats:
    """Return a 2023 release: BraTS-GLI-03021-101 is time point 101 of patient 03021."""
    pattern = re.compile(rf"BraTS-{code}-(\d+)-\d+")
    return Brats(LABELS, SUFFIXES, pattern, f"brats_{code.lower()}")


RELEASES: dict[str, Brats] = {
    # Brats18_TCIA01_131_1 and BraTS19_TCIA01_131_1 are one patient.
    "brats2018": Brats(
        OLD_LABELS,
        OLD_SUFFIXES,
        re.compile(r"brats(?:17|18|19|20)_(.+?)(?:_1)?", re.IGNORECASE),
        "brats2018",
    ),
    # GLI of 2023 kept the patient numbers of 2021.
    "brats2021": Brats(OLD_LABELS, OLD_SUFFIXES, re.compile(r"BraTS2021_(\d{5})"), "brats_gli"),
    "brats2023_gli": _release("GLI"),
    "brats2023_men": _release("MEN"),
    "brats2023_met": _release("MET"),
    "brats2023_ped": _release("PED"),
    "brats2023_ssa": _release("SSA"),
    "brats2024_gli": Brats(
        LABELS | {4: "RC"}, SUFFIXES, re.compile(r"BraTS-GLI-(\d+)-\d+"), "brats_gli"
    ),
    "brats2024_men_rt": Brats(
        {0: "background", 1: "GTV"},
        {"t1c": "_t1c", "mask": "_gtv"},
        re.compile(r"BraTS-MEN-RT-(\d+)-\d+"),
        "brats_men_rt",
    ),
}
