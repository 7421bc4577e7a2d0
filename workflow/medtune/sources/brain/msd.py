"""Data sets described by a `dataset.json`: MSD Task01, and what is stored as nnU-Net wants it.

MSD (Antonelli et al., arXiv:2106.05735) has one 4-D image per case, `imagesTr/BRATS_001.nii.gz`;
nnU-Net one file per channel, `imagesTr/BRATS_001_0000.nii.gz` (github MIC-DKFZ/nnUNet,
documentation/dataset_format.md). `dataset.json` alone says what channels and label codes mean, in
one of two forms:

MSD, v1    "modality": {"0": "FLAIR", ...}, "labels": {"0": "background", "1": "edema", ...}
v2         "channel_names": {"0": "FLAIR", ...}, "labels": {"background": 0, "edema": 1, ...}, where
           a label may be a region: "whole tumor": [1, 2, 3]
"""

import json
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from medtune.config.data import SourceConfig
from medtune.records.case import Case, Usual, Volume, image_stem, is_junk
from medtune.runtime.errors import DataError
from medtune.sources.brain.brats import RELEASES

CHANNELS = {
    **dict.fromkeys(("t1n", "t1", "t1w", "t1 native"), "t1n"),
    **dict.fromkeys(("t1c", "t1ce", "t1gd", "t1 gd", "t1wce", "t1w ce", "t1 ce", "t1 c"), "t1c"),
    **dict.fromkeys(("t2w", "t2"), "t2w"),
    **dict.fromkeys(("t2f", "flair", "t2 flair", "t2w flair"), "t2f"),
}
# Spellings in public data sets, in small letters with single spaces; `tumour` is `tumor`.
LABELS = {
    "background": "background",
    **dict.fromkeys(("ed", "edema", "oedema", "peritumoral edema", "peritumoral oedema"), "ED"),
    **dict.fromkeys(("snfh", "surrounding non enhancing flair hyperintensity"), "ED"),
    **dict.fromkeys(("net", "nonenhancing", "non enhancing", "nonenhancing tumor"), "NET"),
    **dict.fromkeys(("netc", "non enhancing tumor", "non enhancing tumor core"), "NET"),
    **dict.fromkeys(("nonenhancing tumor core",), "NET"),
    **dict.fromkeys(("ncr", "necrosis", "necrotic", "necrotic core", "necrotic tumor core"), "NCR"),
    **dict.fromkeys(("ncr net", "ncr netc", "ncr or netc", "necrotic and non enhancing"), "NCR"),
    **dict.fromkeys(("necrotic and non enhancing tumor core", "necrotic tumor"), "NCR"),
    **dict.fromkeys(("et", "enhancing", "enhancing tumor", "gd enhancing tumor"), "ET"),
    **dict.fromkeys(("cc", "cyst", "cystic component"), "CC"),
    **dict.fromkeys(("rc", "cavity", "resection cavity"), "RC"),
    **dict.fromkeys(("gtv", "gross tumor volume"), "GTV"),
    **dict.fromkeys(("wt", "whole tumor", "tumor"), "WT"),
    **dict.fromkeys(("tc", "tumor core"), "TC"),
}
# The tissue of the codes that are in just these nested regions.
TISSUES = {("WT",): "ED", ("TC", "WT"): "NET", ("ET", "TC", "WT"): "ET"}
# Of unknown tumors; children's, and low grades, often have little edema.
USUAL = (
    Usual(("ED",), (), 0.6),
    Usual(("ED",), ("NCR", "NET"), 0.35, "the core and ED may be exchanged"),
)


@dataclass(frozen=True)
class Described:
    """One data set: `dataset.json`, `imagesTr/`, `labelsTr/`, `imagesTs/` and perhaps `labelsTs/`.

    Attributes:
        root: Its folder.
        cohort: Name of its patients' cohort.
    """

    root: Path
    cohort: str

    @classmethod
    def of(cls, config: SourceConfig) -> "Described":
        """Return the data set that a configuration names."""
        return cls(Path(config.root), config.kind if config.kind == "msd_brain" else config.name)

    @property
    def modalities(self) -> tuple[str, ...]:
        """Modalities that every case must have: all channels."""
        return tuple(self.channels.values())

    @cached_property
    def channels(self) -> dict[int, str]:
        """Modality of every channel.

        Raises:
            DataError: `dataset.json` is missing or broken, or names a channel that is unknown.
        """
        key = "channel_names" if "channel_names" in self._described else "modality"
        return self._known(key, self._codes(key), CHANNELS, "use kind `table`, which names any")

    @cached_property
    def labels(self) -> dict[int, str]:
        """Name of every label code.

        Raises:
            DataError: `dataset.json` is missing or broken, or its labels do not tell tissues.
        """
        named = {code: [_plain(name) for name in names] for code, names in self._names().items()}
        single = {code: self._tissue(code, names) for code, names in named.items()}
        labels = self._known("labels", single, LABELS, "name the tissues in dataset.json")
        regions = {name for name in labels.values() if name in ("WT", "TC")}
        if regions and len(set(labels.values()) - {"background"}) > 1:
            raise self._fault(
                f"`labels` names the region {sorted(regions)[0]} by one code beside others: which "
                "tissue has that code cannot be told",
                "write the region as the list of all its codes, or name the tissue",
            )
        return {0: "background"} | labels

    def find(self, config: SourceConfig) -> list[Case]:
        """Return the cases of `imagesTr`, and of `imagesTs` if they have masks or need none.

        Those of `imagesTs` with masks, in `labelsTs`, are for testing.

        Raises:
            DataError: See `channels` and `labels`.
        """
        cases, labels, _ = [], self.labels, self.channels  # wrong names stop it even without cases
        for kind, split in (("Tr", None), ("Ts", "test")):
            masks = {name: files[None] for name, files in self._files(f"labels{kind}").items()}
            for name, files in self._files(f"images{kind}").items():
                mask = masks.get(name)
                if kind == "Ts" and not mask and config.masks == "required":
                    continue
                images = self._images(files)
                absent = {
                    modality: self._looked_for(f"images{kind}", f"{name}_{number:04d}")
                    for number, modality in self.channels.items()
                    if modality not in images
                }
                absent |= {} if mask else {"mask": self._looked_for(f"labels{kind}", name)}
                cases.append(
                    Case(
                        source=config.name,
                        case_id=name,
                        patient_id=_patient(name, self.cohort),
                        images=images,
                        mask=mask,
                        labels=labels,
                        split=split if mask else None,
                        absent=absent,
                    )
                )
        return cases

    def training(self) -> set[str]:
        """Return the names of the cases of `imagesTr`."""
        return set(self._files("imagesTr"))

    def listed(self) -> tuple[set[str], int | None]:
        """Return the training cases that `dataset.json` names, if it does, and their number."""
        entries = self._described.get("training")
        entries = entries if isinstance(entries, list) else []
        paths = [item.get("image") if isinstance(item, dict) else item for item in entries]
        names = {image_stem(Path(str(path)).name) for path in paths} - {None}
        number = self._described.get("numTraining")
        return {str(name) for name in names}, number if isinstance(number, int) else None

    def _files(self, folder: str) -> dict[str, dict[int | None, str]]:
        """Return case -> channel (None: one file of the case) -> file, of one folder."""
        cases: dict[str, dict[int | None, str]] = defaultdict(dict)
        if not (self.root / folder).is_dir():
            return cases
        for path in sorted((self.root / folder).iterdir(), reverse=True):  # .nii.gz goes first
            stem = image_stem(path.name)
            if stem is None or path.is_dir():
                continue
            match = re.fullmatch(r"(.+)_(\d{4})", stem) if folder.startswith("images") else None
            if match and int(match[2]) in self.channels:
                cases[match[1]][int(match[2])] = str(path)
            else:
                cases[stem].setdefault(None, str(path))
        return dict(sorted(cases.items()))

    def _looked_for(self, folder: str, stem: str) -> str:
        """Return the path that a missing file would have."""
        return str(self.root / folder / f"{stem}{self._described.get('file_ending', '.nii.gz')}")

    def _images(self, files: Mapping[int | None, str]) -> dict[str, Volume]:
        """Return the volume of each modality: of its own file, or a channel of the only one."""
        if None in files:
            only = len(self.channels) == 1
            return {
                name: Volume(path=files[None], channel=None if only else number)
                for number, name in self.channels.items()
            }
        return {
            self.channels[n]: Volume(path=path)
            for n, path in sorted(files.items())
            if n in self.channels
        }

    @cached_property
    def _described(self) -> dict[str, Any]:
        path = self.root / "dataset.json"
        try:
            described = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise DataError(path, "the file does not exist", _where_it_is(self.root)) from None
        except ValueError as error:
            raise DataError(path, f"is no JSON ({error})", "fetch the file again") from None
        if not isinstance(described, dict):
            raise self._fault("holds no names", "fetch the file again")
        return described

    def _fault(self, found: str, remedy: str) -> DataError:
        return DataError(self.root / "dataset.json", found, remedy)

    def _codes(self, key: str) -> dict[int, str]:
        """Return the numbers of a mapping number -> name.

        Raises:
            DataError: It is none.
        """
        try:
            codes = {int(number): str(name) for number, name in self._described[key].items()}
        except (KeyError, ValueError, TypeError, AttributeError):
            codes = {}
        if not codes:
            raise self._fault(f"`{key}` is no mapping of numbers to names", "fetch the file again")
        return codes

    def _names(self) -> dict[int, list[str]]:
        """Return every label code with its names: one, or the regions it is part of.

        Raises:
            DataError: `labels` is no mapping of names to codes, nor of codes to names.
        """
        labels = self._described.get("labels")
        if isinstance(labels, dict) and all(str(key).isdigit() for key in labels):
            return {code: [name] for code, name in self._codes("labels").items()}
        names: dict[int, list[str]] = defaultdict(list)
        try:
            for name, codes in labels.items():  # type: ignore[union-attr]
                for code in codes if isinstance(codes, list) else [codes]:
                    names[int(code)].append(name)
        except (ValueError, TypeError, AttributeError):
            raise self._fault(
                "`labels` is no mapping of numbers to names, nor of names to numbers",
                "fetch the file again",
            ) from None
        return dict(sorted(names.items()))

    def _tissue(self, code: int, names: list[str]) -> str:
        """Return the one name of a code's tissue; nested regions tell it too.

        Raises:
            DataError: They do not.
        """
        if len(names) == 1 and not self._has_regions:
            return names[0]
        known = {LABELS.get(name, name) for name in names}
        tissue = TISSUES.get(tuple(sorted(known))) or ", ".join(sorted(known - {"WT", "TC"}))
        if not tissue or ", " in tissue:
            raise self._fault(
                f"`labels` puts code {code} into the regions {names}, which do not tell its tissue",
                "list each tissue as a region of one code",
            )
        return tissue.lower()

    @cached_property
    def _has_regions(self) -> bool:
        labels = self._described.get("labels") or {}
        return any(isinstance(codes, list) and len(codes) > 1 for codes in labels.values())

    def _known(
        self, key: str, named: Mapping[int, str], known: Mapping[str, str], remedy: str
    ) -> dict[int, str]:
        """Return our names for what numbers mean.

        Raises:
            DataError: One is unknown, or two numbers mean the same.
        """
        unknown = sorted({name for name in named.values() if _plain(name) not in known})
        if unknown:
            spellings = ", ".join(f"{ours} ({theirs})" for theirs, ours in _first(known).items())
            raise self._fault(f"unknown {key}: {unknown}, expected {spellings}", remedy)
        ours = {number: known[_plain(name)] for number, name in named.items()}
        if len(set(ours.values())) < len(ours):
            raise self._fault(f"`{key}` names one twice: {dict(named)}", "correct the file")
        return ours


def _first(known: Mapping[str, str]) -> dict[str, str]:
    """Return the first spelling of each of our names."""
    spellings = {ours: theirs for theirs, ours in reversed(list(known.items()))}
    return {theirs: ours for ours, theirs in spellings.items()}


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", " ", str(name).lower().replace("tumour", "tumor")).strip()


def _patient(case: str, cohort: str) -> str:
    """Return the patient: that of a BraTS release whose name a case has kept, or the case."""
    for release in RELEASES.values():
        if match := release.patient.fullmatch(case):
            return f"{release.cohort}:{match.group(1)}"
    return f"{cohort}:{case}"


def _where_it_is(root: Path) -> str:
    """Say which folder below, or above, has a `dataset.json`."""
    below = [
        p.parent
        for p in sorted(root.glob("*/dataset.json")) + sorted(root.glob("*/*/dataset.json"))
    ]
    names = [str(folder) for folder in below if not any(map(is_junk, folder.parts))]
    names += [str(root.parent)] if (root.parent / "dataset.json").is_file() else []
    if names:
        return f"set `sources[].root` to {' or '.join(names[:3])}, which has one"
    return "fetch it: it alone says what channels and label codes mean; or correct `sources[].root`"
