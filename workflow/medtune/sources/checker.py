"""The findings of one case, and what its checks remember on the way."""

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from medtune.config.data import VerificationConfig
from medtune.media.grid import Grid
from medtune.media.headers import Array, HeaderError
from medtune.media.read import VolumeReader, check_affine
from medtune.records.case import Case, Volume
from medtune.records.issue import Issue
from medtune.runtime.errors import DataError
from medtune.sources.check_headers import Fault, grid_faults, header_faults
from medtune.sources.check_voxels import Voxels
from medtune.sources.nearby import whats_there


class Checker:
    """Collects the findings of one case.

    Args:
        case: The case.
        config: What is accepted.
    """

    def __init__(self, case: Case, config: VerificationConfig) -> None:
        self.case, self.config = case, config
        self.reader = VolumeReader()
        self.findings: list[Issue] = []
        self.hashes: dict[str, str] = {}
        self.reference: Grid | None = None
        self.voxels = Voxels(case.background)
        self.labels_ml: dict[str, float] = {}

    @property
    def brain(self) -> Array | None:
        """Where the brain is, just as it is converted; None where that cannot be known."""
        lacks_mask = self.case.brain_mask is not None and self.voxels.given is None
        return None if lacks_mask else self.voxels.brain

    def report(self, code: str, found: str, expected: str, remedy: str) -> None:
        """Add an error."""
        self._add("error", code, found, expected, remedy)

    def warn(self, code: str, found: str, expected: str, remedy: str) -> None:
        """Add a warning."""
        self._add("warning", code, found, expected, remedy)

    def _add(self, severity: Any, code: str, found: str, expected: str, remedy: str) -> None:
        self.findings.append(
            Issue(
                code=code,
                severity=severity,
                case=self.case.id,
                found=found,
                expected=expected,
                remedy=remedy,
            )
        )

    def add(self, faults: Iterable[Fault]) -> bool:
        """Add faults; return whether one is an error."""
        added = list(faults)
        for fault in added:
            self._add(*fault)
        return any(severity == "error" for severity, *_ in added)

    def attempt(self, code: str, read: Callable[[], Any]) -> Any:
        """Run a reader; its `DataError` becomes a finding and None is returned."""
        try:
            return read()
        except DataError as error:
            code = "header-contradiction" if isinstance(error, HeaderError) else code
            self.report(code, f"{error.where}: {error.found}", "a sound file", error.remedy)
            return None

    def open(self, code: str, name: str, volume: Volume) -> Grid | None:
        """Read a volume and check that its header places it in the patient, once."""
        grid: Grid | None = self.attempt(code, partial(self.reader.read, volume))
        tolerance = self.config.affine_tolerance_mm
        if grid is None or self.add(header_faults(name, volume, grid, tolerance)):
            return None
        before = len(self.findings)
        self.attempt("affine-invalid", partial(check_affine, grid.affine, volume.path))
        return grid if len(self.findings) == before else None

    def check_grid(self, name: str, grid: Grid) -> None:
        """Check a grid, and that it is that of the first image."""
        tolerance = self.config.affine_tolerance_mm
        self.add(grid_faults(name, grid, self.reference, tolerance))

    def lacks(self, path: str) -> str:
        """Say that a file is missing, and what is there instead."""
        taken = {image.path for image in self.case.images.values()} | {self.case.mask or ""}
        return whats_there(Path(path), taken)
