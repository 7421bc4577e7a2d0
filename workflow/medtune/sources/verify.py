"""Checks of the raw data before anything is converted.

Every finding has a code, a severity, the case, what was found, what was expected and what to do.
The checks read every file to its last byte.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from nibabel.affines import voxel_sizes
from numpy.typing import NDArray
from pydantic import BaseModel

from medtune.config import SourceConfig, VerificationConfig
from medtune.console import say, track
from medtune.errors import DataError
from medtune.files import write_json
from medtune.geometry import affine_gap_mm
from medtune.media.volume import VolumeReader, label_codes
from medtune.sources import KINDS
from medtune.sources.base import Case, Volume
from medtune.tables import read_records, write_records

Array = NDArray[Any]
MODALITIES = ("t1n", "t1c", "t2w", "t2f")


class Finding(BaseModel):
    """One fault, or oddity, of one case."""

    code: str
    severity: Literal["error", "warning"]
    case: str
    found: str
    expected: str
    remedy: str


class CheckedCase(BaseModel):
    """What verification learned about a case: its findings and a hash of each image's voxels."""

    case: str
    patient_id: str
    findings: list[Finding]
    image_hashes: dict[str, str]


class _Checker:
    """Collects the findings of one case."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.findings: list[Finding] = []

    def report(
        self, code: str, found: str, expected: str, remedy: str, warning: bool = False
    ) -> None:
        """Add a finding of this case: an error, unless it is only a `warning`."""
        self.findings.append(
            Finding(
                code=code,
                severity="warning" if warning else "error",
                case=self.case.id,
                found=found,
                expected=expected,
                remedy=remedy,
            )
        )

    def attempt(self, code: str, read: Callable[[], Any]) -> Any:
        """Run a reader; its `DataError` becomes a finding and None is returned."""
        try:
            return read()
        except DataError as error:
            self.report(code, f"{error.where}: {error.found}", "a readable file", error.remedy)
            return None


def check_case(case: Case, labels: dict[int, str], config: VerificationConfig) -> CheckedCase:
    """Return all findings of one case.

    Codes: modality-missing, image-unreadable, image-not-finite, image-constant, spacing-odd,
    shape-mismatch, affine-mismatch, mask-missing, mask-unreadable, mask-labels, mask-empty.
    """
    check = _Checker(case)
    hashes: dict[str, str] = {}
    reference: tuple[tuple[int, ...], Array] | None = None
    reader = VolumeReader()
    for name in MODALITIES:
        if name not in case.images:
            check.report("modality-missing", f"no {name} file", "all four modalities", "restore it")
            continue
        loaded = check.attempt("image-unreadable", partial(reader.read, case.images[name]))
        if loaded is None:
            continue
        values, affine = loaded
        hashes[name] = _content_hash(values)
        _check_values(check, name, values)
        _check_grid(check, name, values.shape, affine, reference, config)
        reference = reference or (values.shape, affine)
    _check_mask(check, labels, reference, config)
    return CheckedCase(
        case=case.id, patient_id=case.patient_id, findings=check.findings, image_hashes=hashes
    )


def _content_hash(values: Array) -> str:
    """Hash the voxels alone: neither compression, header nor stored dtype matter."""
    return hashlib.sha256(np.ascontiguousarray(values, dtype=np.float32).tobytes()).hexdigest()


def _check_values(check: _Checker, name: str, values: Array) -> None:
    if not np.isfinite(values).all():
        check.report("image-not-finite", f"NaN or infinity in {name}", "numbers", "replace it")
    elif values.min() == values.max():
        check.report(
            "image-constant", f"{name} is {values.flat[0]} everywhere", "an image", "replace it"
        )


def _check_grid(
    check: _Checker,
    name: str,
    shape: tuple[int, ...],
    affine: Array,
    reference: tuple[tuple[int, ...], Array] | None,
    config: VerificationConfig,
) -> None:
    """Compare grids by value, never by qform/sform codes, which differ in sound cases."""
    spacing = voxel_sizes(affine)
    if not (np.isfinite(spacing).all() and (spacing > 0.05).all() and (spacing < 20).all()):
        check.report("spacing-odd", f"{name}: {spacing} mm", "0.05 to 20 mm", "correct the header")
    if reference is None:
        return
    if shape != reference[0]:
        check.report(
            "shape-mismatch", f"{name} has shape {shape}", f"{reference[0]}", "resample or replace"
        )
        return
    gap = affine_gap_mm(affine, reference[1], shape)
    if gap > config.affine_tolerance_mm:
        check.report(
            "affine-mismatch",
            f"{name} lies up to {gap:.2f} mm away from the first image",
            f"at most {config.affine_tolerance_mm} mm",
            "replace the file; do not copy headers unless you know the voxels agree",
        )


def _check_mask(
    check: _Checker,
    labels: dict[int, str],
    reference: tuple[tuple[int, ...], Array] | None,
    config: VerificationConfig,
) -> None:
    path = check.case.mask
    if path is None:
        check.report("mask-missing", "no segmentation", "one mask", "restore it or remove the case")
        return
    loaded = check.attempt("mask-unreadable", partial(VolumeReader().read, Volume(path=path)))
    if loaded is None:
        return
    values, affine = loaded
    _check_grid(check, "mask", values.shape, affine, reference, config)
    codes = check.attempt("mask-labels", partial(label_codes, values, labels, path))
    if codes is None:
        return
    if not codes.any():
        check.report(
            "mask-empty", "only background", "a tumour", "nothing, if it is tumour-free", True
        )


def check_across(cases: Iterable[CheckedCase]) -> list[Finding]:
    """Return findings that need more than one case: the same voxels in two cases.

    A warning, since repackaged sources overlap (MSD Task01 holds BraTS cases); the split registry
    keeps such cases in one split.
    """
    return [
        Finding(
            code="image-duplicate",
            severity="warning",
            case=names[1],
            found=f"the same voxels as {names[0]}",
            expected="every image once",
            remedy="remove one of the cases, unless you want it twice",
        )
        for names in same_images(cases)
    ]


def same_images(cases: Iterable[CheckedCase]) -> list[tuple[str, ...]]:
    """Return the groups of cases that share an image, each sorted."""
    owners: dict[str, set[str]] = defaultdict(set)
    for case in cases:
        for digest in case.image_hashes.values():
            owners[digest].add(case.case)
    return sorted({tuple(sorted(names)) for names in owners.values() if len(names) > 1})


def verify_shard(
    cases: Sequence[Case],
    sources: Sequence[SourceConfig],
    config: VerificationConfig,
    path: Path,
) -> None:
    """Check the cases of one shard and write what was found."""
    labels = {source.name: KINDS[source.kind].labels for source in sources}
    checked = [
        check_case(case, labels[case.source], config) for case in track(cases, "verify cases")
    ]
    write_records(path, checked)


def gather(
    parts: Sequence[Path], config: VerificationConfig, findings: Path, summary: Path
) -> None:
    """Join the shards, compare across cases, and write findings and summary.

    Raises:
        DataError: There are errors and `verification.on_error` is `stop`; both files are
            written first, so that the user can look.
    """
    checked = [case for part in parts for case in read_records(part, CheckedCase)]
    found = [finding for case in checked for finding in case.findings] + check_across(checked)
    found.sort(key=lambda finding: (finding.case, finding.code))
    errors = [finding for finding in found if finding.severity == "error"]
    excluded = sorted({finding.case for finding in errors})
    accepted = sorted({case.case for case in checked} - set(excluded))
    write_records(findings, found)
    counts = Counter(f"{finding.severity}: {finding.code}" for finding in found)
    say(f"verified {len(checked)} cases: {len(accepted)} sound, {len(excluded)} with errors")
    for name, count in sorted(counts.items()):
        say(f"  {name}: {count}")
    if errors and config.on_error == "stop":
        first = errors[0]
        raise DataError(
            first.case,
            f"{first.code}: {first.found} (expected {first.expected}); "
            f"{len(errors)} errors in all, listed in {findings}",
            f"{first.remedy}, or set `verification.on_error: exclude`",
        )
    result = {
        "findings": dict(counts),
        "accepted": accepted,
        "excluded": excluded,
        "same_images": same_images(checked),
    }
    write_json(summary, result)
