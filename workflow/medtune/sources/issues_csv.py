"""Findings as a CSV file for people, beside the Parquet table for programs."""

import csv
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from medtune.runtime.files import atomic_path

COLUMNS = ("severity", "code", "case", "found", "expected", "remedy")
Write = Callable[[Iterable[Mapping[str, str]]], None]


@contextmanager
def findings_csv(table: Path) -> Iterator[Write]:
    """Give a function that adds findings to a CSV file beside the table, complete at the end.

    Args:
        table: The Parquet table; the file has its name with `.csv`.
    """
    with (
        atomic_path(table.with_suffix(".csv")) as temporary,
        temporary.open("w", encoding="utf-8", newline="") as file,
    ):
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        yield lambda rows: writer.writerows({k: _safe(row[k]) for k in COLUMNS} for row in rows)


def _safe(text: str) -> str:
    """Keep a spreadsheet program from taking a text for a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
