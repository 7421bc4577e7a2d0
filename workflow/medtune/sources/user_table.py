"""A table that a user wrote, CSV or Parquet: whatever its encoding and separator, or a clear error.

Read are UTF-8 and marked UTF-16, packed by gzip or not, with commas, semicolons or tabs. Columns
are known by their names whatever their capitals and spaces. Rows are numbered as an editor numbers
lines; blank ones are none. Nothing is guessed of which two readings are possible.
"""

import csv
import gzip
import json
import re
import zlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from medtune.runtime.errors import DataError
from medtune.sources.nearby import likeliest, whats_there

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}
# A report of any length is one cell.
csv.field_size_limit(2**24)
# How pandas stores an index without a name.
INDEX = re.compile(r"__index_level_\d+__")


@dataclass(frozen=True)
class UserRow:
    """One row.

    Attributes:
        where: The file, and the line on which the row begins (Parquet: its number), for errors.
        values: Its cells by column, stripped; a missing value is empty.
    """

    where: str
    values: dict[str, str]


class UserTable:
    """A table whose columns have been read.

    Args:
        path: The file.
        needed: Columns that it must have.
        known: Columns that it may have; these and the needed ones get the spelling given here.

    Attributes:
        path: The file.
        columns: Its columns, in order; those that are not known as they are written.

    Raises:
        DataError: The file is missing or no table, or a column is missing, nameless or twice there.
    """

    def __init__(self, path: Path, needed: Sequence[str], known: Collection[str] = ()) -> None:
        self.path = path
        _check_kind(path)
        self._parquet, self._separator = _starts(path, b"PAR1"), ","
        if not self._parquet:
            self._separator = max(SEPARATORS, key=lambda one: self._fit(one, needed))
        header = self._header(self._separator)
        spelling = {_folded(name): name for name in (*needed, *known)}
        self.columns = tuple(spelling.get(_folded(name), name) for name in header)
        self._check_columns(needed)

    def _fit(self, separator: str, needed: Sequence[str]) -> tuple[int, int]:
        """Return how well a separator explains the header: needed columns, then all."""
        try:
            header = self._header(separator)
        except DataError:  # quotes that this separator leaves open
            return -1, 0
        return len({_folded(n) for n in needed} & {_folded(n) for n in header}), len(header)

    def _header(self, separator: str) -> list[str]:
        if self._parquet:
            return [name for name in _schema(self.path).names if not INDEX.fullmatch(name)]
        names = next((cells for _, cells in _lines(self.path, separator)), [])
        while names and not names[-1]:  # separators at the end of every line
            names.pop()
        return names

    def _check_columns(self, needed: Sequence[str]) -> None:
        columns = list(self.columns)
        split = "" if self._parquet else f" (separated by {SEPARATORS[self._separator]})"
        found = f"has the columns {columns}{split}"
        missing = [name for name in needed if name not in columns]
        twice = sorted({name for name in columns if name and columns.count(name) > 1})
        if missing:
            near = {n: likeliest(n, [c for c in columns if c not in needed]) for n in missing}
            hints = [f"rename `{match}` to `{name}`" for name, match in near.items() if match]
            remedy = ", ".join(hints) + "?" if hints else f"add a column {', '.join(missing)}"
            raise DataError(self.path, f"{found}, expected {', '.join(missing)}", remedy)
        if twice:
            raise DataError(
                self.path, f"{found}; {', '.join(twice)} more than once", "keep one of each"
            )
        if "" in columns:
            raise DataError(
                self.path,
                f"{found}; column {columns.index('') + 1} has no name",
                "name or remove it (pandas: write with index=False)",
            )

    def rows(self) -> Iterator[UserRow]:
        """Yield the rows, read one after the other.

        Raises:
            DataError: A row has too few or too many cells, or the file is damaged.
        """
        if self._parquet:
            yield from self._parquet_rows()
            return
        lines = _lines(self.path, self._separator)
        next(lines, None)
        width = len(self.columns)
        for number, cells in lines:
            where = f"{self.path}, line {number}"
            if len(cells) < width or any(cells[width:]):
                raise DataError(
                    where,
                    f"has {len(cells)} cells, expected {width}: {', '.join(self.columns)}",
                    f"look for {SEPARATORS[self._separator]} and quotes in the row",
                )
            yield UserRow(where, dict(zip(self.columns, cells, strict=False)))

    def _parquet_rows(self) -> Iterator[UserRow]:
        names = self._header("")
        number = 0
        for batch in pq.ParquetFile(self.path).iter_batches(columns=names):
            for row in batch.to_pylist():
                number += 1
                cells = [_text(row[name]) for name in names]
                if any(cells):
                    where = f"{self.path}, row {number} of the Parquet table"
                    yield UserRow(where, dict(zip(self.columns, cells, strict=True)))


def _folded(name: str) -> str:
    """Return a column's name without capitals, spaces and punctuation."""
    return re.sub(r"[\W_]+", "", name.casefold())


def _text(cell: Any) -> str:
    """Return a cell of Parquet as text; a missing value, which pandas stores as NaN, is empty."""
    if cell is None or cell != cell:  # noqa: PLR0124 - NaN
        return ""
    return json.dumps(cell, default=str) if isinstance(cell, list | dict) else str(cell).strip()


def _starts(path: Path, magic: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(magic)) == magic


def _check_kind(path: Path) -> None:
    """Check that a file exists and is no spreadsheet or broken Parquet table."""
    if not path.is_file():
        raise DataError(path, f"the table does not exist ({whats_there(path)})", "correct its name")
    if path.suffix.lower() == ".parquet":
        _schema(path)
    if _starts(path, b"PK\x03\x04") or _starts(path, b"\xd0\xcf\x11\xe0"):
        raise DataError(
            path, "is a workbook of a spreadsheet program", "save its sheet as CSV in UTF-8"
        )


def _schema(path: Path) -> pa.Schema:
    try:
        return pq.read_schema(path)
    except pa.ArrowInvalid as error:
        raise DataError(path, f"is no Parquet table ({error})", "write it again") from None


def _open(path: Path) -> IO[str]:
    """Open a text as UTF-8, or as what its first bytes say, packed by gzip or not."""
    opener = gzip.open if _starts(path, b"\x1f\x8b") else open
    with opener(path, "rb") as file:
        first: bytes = file.read(1000)
    utf16 = first[:2] in (b"\xff\xfe", b"\xfe\xff")
    if b"\0" in first and not utf16:
        raise DataError(
            path, "holds zero bytes: no text, or UTF-16 without its mark", "save it in UTF-8"
        )
    return opener(path, "rt", encoding="utf-16" if utf16 else "utf-8-sig", newline="")


def _lines(path: Path, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the line on which each record of a CSV file begins, and its cells; no blank ones."""
    start = 1
    try:
        with _open(path) as file:
            reader = csv.reader(file, strict=True, delimiter=separator, skipinitialspace=True)
            for record in reader:
                cells = [cell.strip() for cell in record]
                if any(cells) and not (start == 1 and cells[0].startswith("sep=")):  # Excel's
                    yield start, cells
                start = reader.line_num + 1
    except UnicodeDecodeError:
        raise _not_utf8(path) from None
    except csv.Error as error:
        raise DataError(
            f"{path}, line {start}", f"is no CSV ({error})", "look for an unpaired quote"
        ) from None
    except (EOFError, OSError, zlib.error) as error:
        raise DataError(path, f"cannot be read ({error})", "save it again") from None


def _not_utf8(path: Path) -> DataError:
    """Return the error of a file in another encoding, with the first line that shows it."""
    if _starts(path, b"\xff\xfe") or _starts(path, b"\xfe\xff"):
        return DataError(path, "is damaged UTF-16", "save it as CSV in UTF-8")
    opener = gzip.open if _starts(path, b"\x1f\x8b") else open
    with opener(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                shown = line[max(error.start - 10, 0) : error.end + 10].decode("cp1252", "replace")
                return DataError(
                    f"{path}, line {number}",
                    f"is not in UTF-8; in Windows-1252 it would read ...{shown.strip()}...",
                    f"save it as CSV in UTF-8, or: iconv -f WINDOWS-1252 -t UTF-8 {path.name}",
                )
    return DataError(path, "is damaged UTF-16", "save it as CSV in UTF-8")
