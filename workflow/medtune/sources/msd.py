"""Medical Segmentation Decathlon, Task01 brain tumour (Antonelli et al., arXiv:2106.05735).

One 4-D image per case; `dataset.json` decides what its channels and label codes mean, which are
in other orders than BraTS's.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from medtune.errors import DataError
from medtune.sections.data import SourceConfig
from medtune.sources.base import Case, Volume

CHANNELS = {"FLAIR": "t2f", "T1w": "t1n", "t1gd": "t1c", "T2w": "t2w"}
LABELS = {
    "background": "background",
    "edema": "ED",
    "non-enhancing tumor": "NET",
    "enhancing tumour": "ET",
}


@dataclass(frozen=True)
class MsdBrain:
    """Task01 as distributed: `dataset.json`, `imagesTr/`, `labelsTr/`, `imagesTs/`.

    Attributes:
        labels: Name of every label code as distributed; `dataset.json` decides.
        modalities: Modalities that every case must have.
    """

    labels: dict[int, str]
    modalities: tuple[str, ...] = ("t1n", "t1c", "t2w", "t2f")

    def find(self, config: SourceConfig) -> list[Case]:
        """Return every image of `imagesTr`, and of `imagesTs` if masks are optional."""
        root = Path(config.root)
        described = root / "dataset.json"
        channels = _named(described, "modality", CHANNELS)
        labels = _named(described, "labels", LABELS)
        images = {key: index for index, key in channels.items()}
        names = ("imagesTr", "imagesTs") if config.masks == "optional" else ("imagesTr",)
        cases = []
        for path in [file for name in names for file in (root / name).glob("BRATS_*.nii.gz")]:
            case_id = path.name.removesuffix(".nii.gz")
            mask = root / "labelsTr" / path.name
            cases.append(
                Case(
                    source=config.name,
                    case_id=case_id,
                    patient_id=f"msd_brain:{case_id}",
                    images={k: Volume(path=str(path), channel=i) for k, i in images.items()},
                    mask=str(mask) if mask.is_file() else None,
                    labels=labels,
                    absent={} if mask.is_file() else {"mask": str(mask)},
                )
            )
        return cases


def _named(path: Path, key: str, known: dict[str, str]) -> dict[int, str]:
    """Return the numbers of `dataset.json` with our names for what they mean.

    Raises:
        DataError: The file is missing, or is not that of Task01.
    """
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
        named = {int(number): str(name) for number, name in described[key].items()}
    except FileNotFoundError:
        raise DataError(path, "the file does not exist", "is `root` Task01_BrainTumour?") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        named = {}
    if not named:
        raise DataError(path, f"`{key}` is no mapping of numbers to names", "fetch the file again")
    unknown = sorted(set(named.values()) - set(known))
    if unknown:
        raise DataError(
            path, f"unknown {key}: {unknown}, expected {sorted(known)}", "is it Task01?"
        )
    if len(set(named.values())) < len(named):
        raise DataError(path, f"`{key}` names one twice: {named}", "fetch the file again")
    return {number: known[name] for number, name in named.items()}


MSD_BRAIN = MsdBrain(labels={0: "background", 1: "ED", 2: "NET", 3: "ET"})
