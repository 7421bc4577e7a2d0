"""The reports of Open-i with their MeSH tags, and how well labels read from the texts agree.

torchxrayvision ships them (NLMCXR_reports.tgz, CC BY-NC-ND 4.0); nothing of it is copied here, and
it is not imported. A tag is "Opacity/lung/base/left": what, then where and how. The map from tags
to labels is by the meaning of the words alone; it was written before anything was measured. Tags of
no label: scars and calcified nodes, aorta, spine, hypoinflation, "Surgical Instruments" (clips and
sutures, most of the abdomen), "Foreign Bodies".
"""

import re
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

_SPEC = find_spec("torchxrayvision")
ARCHIVE = "NLMCXR_reports.tgz"
PATH = Path(next(iter(_SPEC.submodule_search_locations))) / "data" / ARCHIVE if _SPEC else None
NO_TAGS = "No Indexing"

HEADS = {
    "Atelectasis": {"Pulmonary Atelectasis"},
    "Cardiomegaly": {"Cardiomegaly"},
    "Consolidation": {"Consolidation"},
    "Edema": {"Pulmonary Edema", "Pulmonary Congestion", "Heart Failure"},
    "Fracture": {"Fractures, Bone"},
    "Lung Lesion": {"Nodule", "Mass", "Granuloma", "Calcified Granuloma"},
    "Lung Opacity": {"Opacity", "Airspace Disease", "Infiltrate"},
    "Pleural Effusion": {
        *("Pleural Effusion", "Hydropneumothorax", "Hemothorax", "Hemopneumothorax"),
    },
    "Pleural Other": {"Pleura"},
    "Pneumonia": {"Pneumonia"},
    "Pneumothorax": {"Pneumothorax", "Hydropneumothorax", "Hemopneumothorax"},
    "Support Devices": {
        *("Catheters, Indwelling", "Implanted Medical Device", "Medical Device"),
        *("Tube, Inserted", "Stents"),
    },
}
QUALIFIED = {  # what is of a label only with a place or a manner
    "Cardiomegaly": re.compile(r"Cardiac Shadow/.*enlarged"),
    "Enlarged Cardiomediastinum": re.compile(r"Mediastinum/.*(prominent|enlarged|widened)"),
    "Pleural Other": re.compile(r"(Thickening|Calcinosis|Cicatrix)/(.*/)?pleura"),
}


class Report(NamedTuple):
    """A report: its findings and impression, and its tags."""

    name: str
    text: str
    tags: tuple[str, ...]

    @property
    def labels(self) -> set[str]:
        """The labels of its tags."""
        heads = {tag.split("/")[0].strip() for tag in self.tags}
        return {label for label, names in HEADS.items() if heads & names} | {
            label for label, way in QUALIFIED.items() if any(way.match(tag) for tag in self.tags)
        }

    @property
    def normal(self) -> bool:
        """Whether its only tag is that it is normal."""
        return self.tags == ("normal",)


def read_reports(path: Path) -> Iterator[Report]:
    """Yield the reports of the archive that somebody tagged."""
    with tarfile.open(path) as archive:
        for member in archive:
            file = archive.extractfile(member) if member.name.endswith(".xml") else None
            if file is None:
                continue
            root = ElementTree.parse(file).getroot()
            texts = {one.get("Label"): one.text or "" for one in root.iter("AbstractText")}
            tags = tuple(one.text or "" for one in root.iterfind("MeSH/major"))
            if NO_TAGS not in tags:
                text = f"{texts.get('FINDINGS', '')}\n\n{texts.get('IMPRESSION', '')}"
                yield Report(Path(member.name).stem, text.strip(), tags)


def f1_by_label(
    reports: Iterable[Report], read: Callable[[str], Mapping[str, str]]
) -> dict[str, float]:
    """Return the F1 of what is present by a reader against the tags."""
    counts: dict[str, list[int]] = {label: [0, 0] for label in {*HEADS, *QUALIFIED}}
    for report in reports:
        present = {label for label, status in read(report.text).items() if status == "present"}
        tagged = report.labels
        for label, count in counts.items():
            sides = (label in present) + (label in tagged)
            count[0] += sides == 2
            count[1] += sides
    return {label: 2 * hits / both for label, (hits, both) in sorted(counts.items())}


def normal_share(reports: Iterable[Report], read: Callable[[str], Mapping[str, str]]) -> float:
    """Return the share of normal reports without a label that is present, but for devices."""
    kept = [
        not any(s == "present" and n != "Support Devices" for n, s in read(report.text).items())
        for report in reports
        if report.normal
    ]
    return sum(kept) / len(kept)
