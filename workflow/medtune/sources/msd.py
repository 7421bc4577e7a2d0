"""Medical Segmentation Decathlon, Task01 brain tumour (Antonelli et al., arXiv:2106.05735).

One 4-D image per case; `dataset.json` names the channels, in an order that is not BraTS's.
"""

from dataclasses import dataclass
from pathlib import Path

from medtune.errors import DataError
from medtune.files import read_json
from medtune.sources.base import Volume

CHANNELS = {"FLAIR": "t2f", "T1w": "t1n", "t1gd": "t1c", "T2w": "t2w"}


@dataclass(frozen=True)
class MsdBrain:
    """Task01 as distributed: `dataset.json`, `imagesTr/`, `labelsTr/`, `imagesTs/`."""

    labels: dict[int, str]

    def find(self, root: Path) -> list[tuple[str, str, dict[str, Volume], str | None]]:
        """Return every image of `imagesTr` with its label file, channels by `dataset.json`."""
        channels = self._channels(root / "dataset.json")
        cases = []
        for path in sorted((root / "imagesTr").glob("BRATS_*.nii.gz")):
            case_id = path.name.removesuffix(".nii.gz")
            images = {key: Volume(path=str(path), channel=index) for index, key in channels.items()}
            mask = root / "labelsTr" / path.name
            cases.append((case_id, case_id, images, str(mask) if mask.is_file() else None))
        return cases

    def _channels(self, path: Path) -> dict[int, str]:
        named: dict[str, str] = read_json(path)["modality"]
        unknown = sorted(set(named.values()) - set(CHANNELS))
        if unknown:
            raise DataError(
                path, f"unknown modality {unknown}, expected {sorted(CHANNELS)}", "is it Task01?"
            )
        return {int(index): CHANNELS[name] for index, name in named.items()}


MSD_BRAIN = MsdBrain(labels={0: "background", 1: "ED", 2: "NET", 3: "ET"})
