"""BraTS folders: one folder per case, one NIfTI file per modality, named after the case.

Sources: BraTS 2018-2020 (Bakas et al., arXiv:1811.02629), files `<case>_t1ce.nii.gz`, labels
1, 2, 4; BraTS 2023 GLI (Adewole et al., arXiv:2305.19369), files `<case>-t1c.nii.gz`, labels
1, 2, 3. Files may also be uncompressed `.nii`.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from medtune.sources.base import Volume


@dataclass(frozen=True)
class Brats:
    """One generation of the BraTS naming.

    Attributes:
        labels: Name of every label code.
        suffixes: File suffix of each modality, and of `mask`.
        patient: Pattern of a case's folder name; group 1 is the patient.
    """

    labels: dict[int, str]
    suffixes: dict[str, str]
    patient: re.Pattern[str]

    def find(self, root: Path) -> list[tuple[str, str, dict[str, Volume], str | None]]:
        """Return every folder below `root` whose name is a case's, whatever its nesting."""
        cases = []
        for folder in sorted(path for path in root.rglob("*") if path.is_dir()):
            match = self.patient.fullmatch(folder.name)
            if not match:
                continue
            files = {key: self._file(folder, suffix) for key, suffix in self.suffixes.items()}
            mask = files.pop("mask")
            images = {key: Volume(path=file) for key, file in files.items() if file}
            if images or mask:
                cases.append((folder.name, match.group(1), images, mask))
        return cases

    def _file(self, folder: Path, suffix: str) -> str | None:
        for ending in (".nii.gz", ".nii"):
            path = folder / f"{folder.name}{suffix}{ending}"
            if path.is_file():
                return str(path)
        return None


BRATS2018 = Brats(
    labels={0: "background", 1: "NCR", 2: "ED", 4: "ET"},
    suffixes={"t1n": "_t1", "t1c": "_t1ce", "t2w": "_t2", "t2f": "_flair", "mask": "_seg"},
    patient=re.compile(r"(Brats(?:17|18|19|20)_.+?)(?:_1)?", re.IGNORECASE),
)

# BraTS-GLI-03021-101 is time point 101 of patient 03021.
BRATS2023 = Brats(
    labels={0: "background", 1: "NCR", 2: "ED", 3: "ET"},
    suffixes={"t1n": "-t1n", "t1c": "-t1c", "t2w": "-t2w", "t2f": "-t2f", "mask": "-seg"},
    patient=re.compile(r"BraTS-GLI-(\d{5})-\d{3}"),
)
