"""What lies below the roots of the sources and became no case: named, with the likeliest cause."""

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from medtune.config.data import SourceConfig
from medtune.records.case import Case, LeftOut, image_stem, walk
from medtune.sources.brain.brats import RELEASES, Brats
from medtune.sources.brain.msd import Described
from medtune.sources.nearby import entries_of

PACKED = (".zip", ".tar", ".tar.gz", ".tgz", ".7z", ".rar")
DESCRIBED = ("imagesTr", "imagesTs", "labelsTr", "labelsTs")


def left_out(configs: Iterable[SourceConfig], cases: Iterable[Case]) -> list[LeftOut]:
    """Return the folders that hold images of which no case was made, by source and folder.

    Within a case's folder, further files are none of that. What a table does not name is left out
    by its author.

    Args:
        configs: The sources; a folder that one of them takes is left out by none.
        cases: Their cases.
    """
    cases = list(cases)
    used = {path for case in cases for path in _files(case)}
    taken = {os.path.realpath(Path(path).parent) for path in used}
    rest: dict[str, LeftOut] = {}
    for config in configs:
        if config.kind == "table" or not Path(config.root).is_dir():
            continue
        release = RELEASES.get(config.kind)
        case_ids = {case.case_id for case in cases if case.source == config.name}
        for folder, below, names in walk(Path(config.root)):
            real = os.path.realpath(folder)
            images = [name for name in names if image_stem(name) and str(folder / name) not in used]
            if images and not _is_taken(release, folder, below, names, real in taken):
                rest.setdefault(real, _describe(config, folder, images))
            for name in _packed_cases(release, names, case_ids):
                rest.setdefault(f"{real}/{name}", _describe(config, folder / name, [name]))
        if not release and case_ids:
            rest |= _unlike_its_description(config, case_ids)
    return sorted(rest.values(), key=lambda folder: (folder.source, folder.folder))


def held_instead(config: SourceConfig) -> tuple[str, str]:
    """Return what lies below the root of a source without cases, and what to do about it."""
    rest = left_out([config], [])
    if rest:
        names = ", ".join(entry.folder for entry in rest[:3]) + ", ..." * (len(rest) > 3)
        return f"images in {len(rest)} of its folders: {names}", rest[0].remedy
    root = Path(config.root)
    packed = [name for _, _, names in walk(root) for name in names if name.lower().endswith(PACKED)]
    if packed:
        return f"{', '.join(packed[:3])} and no image", "unpack it"
    return f"no image, but {entries_of(root)}", "check `sources[].kind` and `sources[].root`"


def sentence(rest: Sequence[LeftOut]) -> str:
    """Return how many folders were left out, and the first of them, as a line for people."""
    shown = "; ".join(f"{entry.source}/{entry.folder}: {entry.remedy}" for entry in rest[:3])
    more = "; ..." if len(rest) > 3 else ""
    return f"{len(rest)} folders that hold images were not taken: {shown}{more}"


def _files(case: Case) -> set[str]:
    paths = {volume.path for volume in case.images.values()} | {case.mask, case.brain_mask}
    return set(filter(None, paths))


def _is_taken(
    release: Brats | None, folder: Path, below: list[str], names: list[str], holds_used: bool
) -> bool:
    """Return whether a folder is a case's; one that many cases share never is."""
    if release is None:
        return holds_used and folder.name not in DESCRIBED
    return holds_used or bool(
        release.patient.fullmatch(folder.name) and release.is_case(below, names)
    )


def _packed_cases(release: Brats | None, names: Iterable[str], case_ids: set[str]) -> list[str]:
    """Return the archives that are named like a case of which nothing else is there."""
    packed = [name for name in names if name.lower().endswith(PACKED)] if release else []
    stems = {name: name.partition(".")[0] for name in packed}
    return [
        name
        for name, stem in stems.items()
        if release and release.patient.fullmatch(stem) and stem not in case_ids
    ]


def _unlike_its_description(config: SourceConfig, case_ids: set[str]) -> dict[str, LeftOut]:
    """Return how the cases of imagesTr differ from those that `dataset.json` lists or counts."""
    data = Described.of(config)
    there = data.training() & case_ids
    listed, count = data.listed()
    absent, further = sorted(listed - there), sorted(there - listed) if listed else []
    if not absent and not further and count in (None, len(there)):
        return {}
    text = f"names {len(listed)} training cases" if listed else f"counts {count} training cases"
    text += f"; imagesTr holds {len(there)}, which are taken"
    text += f"; not there: {len(absent)}, as {absent[0]}" if absent else ""
    text += f"; not named: {len(further)}, as {further[0]}" if further else ""
    path = Path(config.root) / "dataset.json"
    remedy = "dataset.json and imagesTr differ: complete the download, or correct dataset.json"
    return {str(path): _left_out(config, path, text, "the same cases", remedy)}


def _describe(config: SourceConfig, folder: Path, names: Sequence[str]) -> LeftOut:
    release = RELEASES.get(config.kind)
    expected = (
        f"a folder for each case, named like {release.example}"
        if release
        else "images in imagesTr and imagesTs, masks of the same names in labelsTr"
    )
    cause = _cause(release, folder, names) if release else _described_cause(folder, names)
    more = f", ... ({len(names)} in all)" if len(names) > 3 else ""
    return _left_out(config, folder, ", ".join(names[:3]) + more, expected, cause)


def _left_out(config: SourceConfig, path: Path, found: str, expected: str, remedy: str) -> LeftOut:
    return LeftOut(
        source=config.name,
        folder=str(path.relative_to(config.root)),
        found=found,
        expected=expected,
        remedy=remedy,
    )


def _cause(release: Brats, folder: Path, names: Sequence[str]) -> str:
    """Return why a folder was probably not taken by a release, and what to do."""
    described = folder.name in DESCRIBED or (folder / "dataset.json").is_file()
    return (
        _packed(names)
        or _inside_a_case(release, folder)
        or _misnamed(release, folder.name)
        or _named_as(folder.name)
        or _without_folders(release, names)
        or ("it looks like `msd_brain` or `nnunet`: make it such a source" if described else "")
        or _named_as(names[0])
        or "it has no name of a release: rename it, or name its files in a table (kind `table`)"
    )


def _packed(names: Sequence[str]) -> str:
    return "" if image_stem(names[0]) else f"{names[0]} is not unpacked: unpack it"


def _inside_a_case(release: Brats, folder: Path) -> str:
    name = folder.parent.name
    if not release.patient.fullmatch(name):
        return ""
    return f"it lies inside the case {name}: move the case's files into its own folder"


def _misnamed(release: Brats, name: str) -> str:
    """Return what is wrong with a name that is almost one of a release's, or an empty text."""
    if inside := release.patient.search(name):
        return f"it looks like a copy of {inside.group()}: rename or remove it"
    if re.fullmatch(release.patient.pattern, name, re.IGNORECASE):
        return f"its capitals are not those of {release.example}: rename it"
    if release.near.search(name):
        return f"its name is almost that of a case, which is like {release.example}: rename it"
    return ""


def _named_as(name: str) -> str:
    """Return which kinds name their cases like a folder or file, exactly or else almost."""
    exact = [kind for kind, release in RELEASES.items() if release.patient.match(name)]
    kinds = exact or [kind for kind, release in RELEASES.items() if release.near.search(name)]
    named = " or ".join(f"`{kind}`" for kind in kinds)
    return f"it looks like {named}: make it a source of that kind" if kinds else ""


def _without_folders(release: Brats, names: Sequence[str]) -> str:
    cases = sorted({match.group() for name in names if (match := release.patient.match(name))})
    if not cases:
        return ""
    many = f"{len(cases)} cases, as {cases[0]}" if len(cases) > 1 else f"the case {cases[0]}"
    return f"it holds files of {many}: move each case's files into a folder of its name"


def _described_cause(folder: Path, names: Sequence[str]) -> str:
    """Return why files were probably not taken from a data set with a `dataset.json`."""
    if folder.name == "imagesTs":
        return "they have no masks: set `sources[].masks: optional` to use them for inference"
    if folder.name.startswith("labels"):
        return f"{names[0]} has no image of its name in images{folder.name[-2:]}: restore it"
    if folder.name == "imagesTr":
        return f"{names[0]} is no channel of `dataset.json`: correct one of them"
    return (
        _named_as(folder.name)
        or "images are read from imagesTr and imagesTs alone: move them, or remove them"
    )
