"""What is wrong or odd in chest-film sources, written to a table while it is found."""

from collections import Counter
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import pyarrow as pa
import pyarrow.parquet as pq

from medtune.records.issue import Issue
from medtune.runtime.console import log
from medtune.runtime.files import atomic_path
from medtune.sources.issues_csv import findings_csv

SCHEMA = pa.schema([(name, pa.string()) for name in Issue.model_fields])
BATCH = 5000


class Issues(AbstractContextManager["Issues"]):
    """Issues of one run, on their way into Parquet and CSV; only a batch is held in memory.

    An error means that the film it names is left out (or that the run stops, as configured); a
    warning that it is kept, unless the code says `missing`.

    Attributes:
        counts: Issues by (severity, code).
        first_error: The error that was found first.
        wrong: What has any error.
        left_out: What was left out, by (source, reason): films and rows with errors, films of other
            views, and what else a source does without.
        aside: Paths of images of rows that are left out, as they are of views nobody asked for.
    """

    def __init__(self, path: Path) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        self.first_error: Issue | None = None
        self.wrong: set[str] = set()
        self.left_out: Counter[tuple[str, str]] = Counter()
        self.aside: list[str] = []
        self._path, self._rows, self._stack = path, list[dict[str, Any]](), ExitStack()

    def __enter__(self) -> Self:
        self._write_csv = self._stack.enter_context(findings_csv(self._path))
        temporary = self._stack.enter_context(atomic_path(self._path))
        self._writer = self._stack.enter_context(pq.ParquetWriter(temporary, SCHEMA))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._flush()
        self._stack.__exit__(kind, error, trace)

    def leave_out(self, source: str, reason: str, count: int = 1) -> None:
        """Count what is left out by configuration or by nature, and is no error."""
        if count:
            self.left_out[source, reason] += count

    def set_aside(self, source: str, path: str, view: str | None) -> None:
        """Count a row of a view that nobody asked for; its image is not used, and not forgotten."""
        self.leave_out(source, f"film of the view {view or 'unknown'}, not in `views`")
        self.aside.append(path)

    def report(self, code: str, case: str, found: str, expected: str, remedy: str) -> None:
        """Add an error."""
        self._add("error", code, case, found, expected, remedy)

    def warn(self, code: str, case: str, found: str, expected: str, remedy: str) -> None:
        """Add a warning."""
        self._add("warning", code, case, found, expected, remedy)

    def announce(self, code: str, case: str, found: str, expected: str, remedy: str) -> None:
        """Add a warning about a whole source, and print it."""
        log(f"warning: {case}: {found} ({remedy})")
        self.warn(code, case, found, expected, remedy)

    def _add(
        self,
        severity: Literal["error", "warning"],
        code: str,
        case: str,
        found: str,
        expected: str,
        remedy: str,
    ) -> None:
        finding = Issue(
            code=code, severity=severity, case=case, found=found, expected=expected, remedy=remedy
        )
        self.counts[severity, code] += 1
        if severity == "error":
            self.first_error = self.first_error or finding
            self.left_out[case.partition("/")[0], f"film or row with the error {code}"] += 1
            self.wrong.add(case)
        self._rows.append(finding.model_dump())
        if len(self._rows) == BATCH:
            self._flush()

    def _flush(self) -> None:
        self._writer.write_table(pa.Table.from_pylist(self._rows, SCHEMA))
        self._write_csv(self._rows)
        self._rows.clear()
