"""Verification of all cases: checks by shard, comparisons across cases, and the verdict."""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from rich.table import Table

from medtune.config.data import FixedSplitsConfig, SourceConfig, SplitsConfig, VerificationConfig
from medtune.records.case import Case, LeftOut
from medtune.records.issue import CheckedCase, Issue
from medtune.runtime.console import console, log, track
from medtune.runtime.errors import DataError
from medtune.runtime.files import read_json, write_json
from medtune.runtime.tables import read_records, write_records
from medtune.sources.check import check_case
from medtune.sources.issues_csv import findings_csv
from medtune.sources.left_out import sentence
from medtune.sources.plausible import label_map_findings, region_findings, without_region
from medtune.sources.splits import assign_splits, patient_groups, prescribed_split, tell_patients

Publish = Callable[[Sequence[CheckedCase], Sequence[Issue]], list[Path]]
# A case stands out if at least this share of its source agrees on something else.
MAJORITY = 0.9
SPACING_FACTOR = 1.5
SPLITS = ("train", "val", "test")


def same_images(cases: Iterable[CheckedCase]) -> list[tuple[str, ...]]:
    """Return the groups of cases that share an image, each sorted."""
    owners: dict[str, set[str]] = defaultdict(set)
    for case in cases:
        for digest in case.image_hashes.values():
            owners[digest].add(case.case.id)
    return sorted({tuple(sorted(names)) for names in owners.values() if len(names) > 1})


def _warning(code: str, case: str, found: str, expected: str, remedy: str) -> Issue:
    return Issue(
        code=code, severity="warning", case=case, found=found, expected=expected, remedy=remedy
    )


def _duplicates(cases: Sequence[CheckedCase]) -> list[Issue]:
    """Find the same voxels in two cases.

    A warning, since repackaged sources overlap (MSD Task01 holds BraTS cases); the split registry
    keeps such cases in one split.
    """
    return [
        _warning(
            "image-duplicate",
            name,
            f"the same voxels as {names[0]}",
            "every image once",
            "nothing (both stay in one split), or remove one of the cases",
        )
        for names in same_images(cases)
        for name in names[1:]
    ]


def _patients(cases: Sequence[CheckedCase], fixed: Mapping[str, str]) -> list[Issue]:
    """Find patients in two sources, and cases that belong together but are put into two splits."""
    found = []
    groups = patient_groups([one.case for one in cases], same_images(cases))
    together = defaultdict(list)
    for one in cases:
        together[groups[one.case.patient_id]].append(one.case)
    for own in together.values():
        first = own[0]
        found += [
            _warning(
                "patient-in-two-sources",
                case.id,
                f"patient {case.patient_id} is also {first.id}",
                "every patient in one source",
                "nothing (both stay in one split)",
            )
            for case in own[1:]
            if case.patient_id == first.patient_id and case.source != first.source
        ]
        splits = {case.id: prescribed_split(case, fixed) for case in own}
        named = {name: split for name, split in splits.items() if split}
        if len(set(named.values())) > 1:
            found += [
                Issue(
                    code="patient-in-two-splits",
                    severity="error",
                    case=name,
                    found=f"of one patient, or with one image, are {dict(sorted(named.items()))}",
                    expected="one split",
                    remedy="correct `splits.fixed` or the table, or remove one of the cases",
                )
                for name in splits
            ]
    return found


def _outliers(cases: Sequence[CheckedCase]) -> list[Issue]:
    """Find orientations and spacings that differ from nearly all others of the source."""
    found = []
    for source in sorted({one.case.source for one in cases}):
        own = [one for one in cases if one.case.source == source and one.spacing]
        if not own:
            continue
        usual, count = Counter(case.orientation for case in own).most_common(1)[0]
        median = np.median([case.spacing for case in own], axis=0)
        ratios = np.array([case.spacing for case in own]) / median
        odd = (np.maximum(ratios, 1 / ratios) > SPACING_FACTOR).any(axis=1)
        for case, stands_out in zip(own, odd, strict=True):
            if case.orientation != usual and count >= MAJORITY * len(own):
                found.append(
                    _warning(
                        "orientation-outlier",
                        case.case.id,
                        f"stored as {case.orientation}",
                        f"{usual}, as {count} of {len(own)}",
                        "look at its pictures: is the header right?",
                    )
                )
            if stands_out and odd.mean() <= 1 - MAJORITY:
                found.append(
                    _warning(
                        "spacing-outlier",
                        case.case.id,
                        f"spacing {case.spacing} mm",
                        f"about {median.round(3).tolist()} mm",
                        "look at its pictures: is the header right?",
                    )
                )
    return found


def check_across(
    cases: Sequence[CheckedCase], fixed: Mapping[str, str], region: str = "WT"
) -> list[Issue]:
    """Return findings that need more than one case, or the region that is looked for.

    Errors: patient-in-two-splits, region-missing, label-map (of a case). Warnings: image-duplicate,
    patient-in-two-sources, orientation-outlier, spacing-outlier, label-map (of a source).

    Args:
        cases: All cases.
        fixed: Source -> split of all its patients.
        region: Region that is looked for.
    """
    return [
        *_duplicates(cases),
        *_patients(cases, fixed),
        *_outliers(cases),
        *label_map_findings(cases),
        *region_findings(cases, region),
    ]


def _not_taken(one: LeftOut) -> Issue:
    return _warning(
        "folder-not-taken", f"{one.source}/{one.folder}", one.found, one.expected, one.remedy
    )


def empty_splits(cases: Sequence[CheckedCase], fixed: Mapping[str, str]) -> list[Issue]:
    """Return a warning (split-empty) of splits that must stay empty, as far as can be told here.

    How many of the patients that no source prescribes validate or test is decided later, by
    `splits.val` and `splits.test`; a split needs one of them at least.
    """
    known = [one.case for one in cases if one.case.mask and not one.has_errors]
    groups = patient_groups(known, same_images(cases))
    splits: dict[str, set[str]] = {group: set() for group in groups.values()}
    for case in known:
        if split := prescribed_split(case, fixed):
            splits[groups[case.patient_id]].add(split)
    free = sum(not own for own in splits.values())
    missing = [split for split in SPLITS if not any(split in own for own in splits.values())]
    if not known or free >= len(missing):
        return []
    return [
        _warning(
            "split-empty",
            "all sources",
            f"no patient is prescribed to {', '.join(missing)}, and {free} are to be assigned",
            "patients in train, val and test",
            "correct `splits.fixed` or the tables, or add patients; without test patients nothing "
            "is evaluated, without validation patients training has no early stopping",
        )
    ]


def all_findings(
    cases: Sequence[CheckedCase],
    fixed: Mapping[str, str],
    region: str = "WT",
    rest: Sequence[LeftOut] = (),
) -> list[Issue]:
    """Return all findings, by case and code.

    Args:
        cases: All cases; see `check_across`.
        fixed: Source -> split of all its patients.
        region: Region that is looked for.
        rest: Folders with images that became no case.
    """
    found = [finding for case in cases for finding in case.findings]
    found += check_across(cases, fixed, region) + empty_splits(cases, fixed)
    found += [_not_taken(one) for one in rest]
    return sorted(found, key=lambda finding: (finding.case, finding.code))


def verify_shard(
    cases: Sequence[Case],
    sources: Sequence[SourceConfig],
    config: VerificationConfig,
    path: Path,
    shown: Collection[str] = (),
) -> None:
    """Check the cases of one shard and write what was found; `shown` are the needed modalities."""
    named = {source.name: source for source in sources}
    checked = [
        check_case(case, named[case.source], config, shown) for case in track(cases, "verify cases")
    ]
    write_records(path, checked)


def _print_findings(found: Sequence[Issue]) -> None:
    """Print one line per kind of finding, with an example."""
    table = Table(box=None, pad_edge=False)
    for title in ("severity", "finding", "cases", "for example", "what to do"):
        table.add_column(title)
    for (severity, code), count in sorted(Counter((f.severity, f.code) for f in found).items()):
        example = next(f for f in found if f.code == code and f.severity == severity)
        table.add_row(
            severity, code, str(count), f"{example.case}: {example.found}", example.remedy
        )
    console.print(table)


def _stop(errors: Sequence[Issue], listed: str, remedy: str) -> DataError:
    first = errors[0]
    return DataError(
        first.case,
        f"{first.code}: {first.found} (expected {first.expected}); "
        f"{len(errors)} errors in all, listed in {listed}",
        first.remedy + remedy,
    )


def gather(
    parts: Sequence[Path],
    splits: FixedSplitsConfig,
    config: VerificationConfig,
    findings: Path,
    summary: Path,
    region: str = "WT",
    rest: Sequence[LeftOut] = (),
    publish: Publish | None = None,
) -> None:
    """Join the shards, compare across cases, and write findings and summary.

    Args:
        parts: Tables written by `verify_shard`.
        splits: Splits that are prescribed.
        config: Whether errors stop.
        findings: Gets the table of findings; a CSV file for people comes beside it.
        summary: Gets which cases are sound, as JSON.
        region: Region that is looked for.
        rest: Folders with images that became no case.
        publish: Writes pages about cases and findings, and returns where they are.

    Raises:
        DataError: There are errors and `verification.on_error` is `stop`, or no case is sound;
            findings and pages are written first, so that the user can look.
    """
    checked = [case for part in parts for case in read_records(part, CheckedCase)]
    found = all_findings(checked, splits.fixed, region, rest)
    errors = [finding for finding in found if finding.severity == "error"]
    excluded = sorted({finding.case for finding in errors})
    accepted = sorted({one.case.id for one in checked} - set(excluded))
    write_records(findings, found)
    with findings_csv(findings) as write:
        write(finding.model_dump() for finding in found)
    pages = publish(checked, found) if publish else []
    listed = ", ".join(map(str, [findings.with_suffix(".csv"), *pages]))
    log(f"verified {len(checked)} cases: {len(accepted)} sound, {len(excluded)} with errors")
    if found:
        _print_findings(found)
        log(f"all findings: {listed}")
    regions = without_region(checked, region)
    for name, count in regions.items():
        if count["without"]:
            log(f"{name}: {count['without']} of {count['masks']} masks have no {region}")
    if rest:
        log(sentence(rest))
    if errors and (config.on_error == "stop" or not accepted):
        remedy = ", or set `verification.on_error: exclude` to go on without such cases"
        raise _stop(errors, listed, remedy if accepted else "")
    result = {
        "findings": dict(Counter(f"{finding.severity}: {finding.code}" for finding in found)),
        "accepted": accepted,
        "excluded": excluded,
        "same_images": same_images(checked),
        "region": {"name": region, "sources": regions},
    }
    write_json(summary, result)


def expect_case_splits(checked: Path, summary: Path, config: SplitsConfig, seed: int) -> None:
    """Print how many patients each split will have, as far as the sound cases with a mask tell.

    Lesion sizes, which only conversion knows, decide who it is and not how many they are.
    """
    found = read_json(summary)
    accepted = set(found["accepted"])
    cases = [one.case for one in read_records(checked, CheckedCase)]
    known = [case for case in cases if case.mask and case.id in accepted]
    tell_patients(assign_splits(known, config, seed, found["same_images"]))
