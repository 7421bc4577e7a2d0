"""Tables of one source in a temporary database on disk, to join them by key in bounded memory.

Keys are compared without regard to capital letters, as file systems of some publishers do; where
spellings differ, that is reported. Nothing is ever joined by position.
"""

import csv
import gzip
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from medtune.runtime.errors import DataError
from medtune.sources.chest.issues import Issues

ENCODING = "utf-8-sig"


def find_table(folder: Path, stem: str) -> Path:
    """Return `stem.csv` or `stem.csv.gz` in a folder.

    Raises:
        DataError: There is neither.
    """
    for name in (f"{stem}.csv", f"{stem}.csv.gz"):
        if (folder / name).is_file():
            return folder / name
    raise DataError(
        folder / f"{stem}.csv[.gz]", "the table does not exist", "download it, or correct the root"
    )


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)


class Tables:
    """The tables of one source.

    Args:
        source: Name of the source, for findings.
        findings: Where findings go.
    """

    def __init__(self, source: str, findings: Issues) -> None:
        self.source, self.findings = source, findings
        # A file in the folder for temporary files, which is gone with the connection.
        self.database = sqlite3.connect("")
        self.database.row_factory = sqlite3.Row

    def fill(
        self,
        name: str,
        key: Sequence[str],
        columns: Sequence[str],
        rows: Iterable[Sequence[object]],
    ) -> None:
        """Add rows (the key's cells, then the columns') to a table, which is made if needed."""
        fields = [f'"{one}" TEXT COLLATE NOCASE' for one in key] + [f'"{one}"' for one in columns]
        holes = ", ".join("?" * len(fields))
        self.database.execute(f"CREATE TABLE IF NOT EXISTS {name} ({', '.join(fields)})")
        self.database.executemany(f"INSERT INTO {name} VALUES ({holes})", rows)  # noqa: S608
        self.database.execute(f"CREATE INDEX IF NOT EXISTS {name}_key ON {name} ({_quoted(key)})")

    def load(
        self,
        name: str,
        path: Path,
        key: Sequence[str],
        columns: Sequence[str],
        optional: Sequence[str] = (),
        **constants: str,
    ) -> None:
        """Add a CSV file to a table, read row by row; `<name>_line` is where a row ends in it.

        Args:
            name: The table.
            path: The file, perhaps packed by gzip.
            key: Columns to join by; a row without one of them is an error (id-missing).
            columns: Other columns that the file must have.
            optional: Columns that are empty where the file has none.
            **constants: Columns that are the same in every row of the file.

        Raises:
            DataError: The file or a column is missing, or it is no CSV file.
        """
        fields = (*columns, *optional, *constants, f"{name}_line")
        self.fill(
            name, key, fields, self._rows(path, (*key, *columns), optional, len(key), constants)
        )

    def _rows(
        self,
        path: Path,
        needed: Sequence[str],
        optional: Sequence[str],
        keys: int,
        constants: dict[str, str],
    ) -> Iterator[list[str]]:
        opener = gzip.open if path.suffix == ".gz" else open
        try:
            with opener(path, "rt", encoding=ENCODING, newline="") as file:
                reader = csv.reader(file, strict=True)
                header = next(reader, [])
                places = self._places(path, header, needed, optional)
                for row in reader:
                    if len(row) != len(header):
                        self._bad_row(path, reader.line_num, f"{len(row)} cells, not {len(header)}")
                        continue
                    cells = ["" if place is None else row[place].strip() for place in places]
                    if all(cells[:keys]):
                        yield [*cells, *constants.values(), str(reader.line_num)]
                    else:
                        self._bad_row(path, reader.line_num, f"no {needed[:keys]}")
        except FileNotFoundError:
            raise DataError(path, "the table does not exist", "download it") from None
        except (csv.Error, UnicodeDecodeError, EOFError, OSError, zlib.error) as error:
            raise DataError(path, f"is no CSV table ({error})", "download it again") from None

    def _places(
        self, path: Path, header: list[str], needed: Sequence[str], optional: Sequence[str]
    ) -> list[int | None]:
        names = [name.strip().lower() for name in header]  # capitals differ between releases
        wanted = [one.lower() for one in (*needed, *optional)]
        missing = [one for one in needed if one.lower() not in names]
        twice = [one for one in wanted if names.count(one) > 1]
        if missing or twice:
            raise DataError(
                path,
                f"lacks the columns {missing}" if missing else f"has the columns {twice} twice",
                f"expected each of {list(needed)} once; the file has {header}",
            )
        return [names.index(one) if one in names else None for one in wanted]

    def _bad_row(self, path: Path, line: int, found: str) -> None:
        where = f"{self.source}/{path.name}:{line}"
        self.findings.report("row-invalid", where, found, "a full row", "correct or remove the row")

    def query(self, sql: str, *values: str) -> Iterator[sqlite3.Row]:
        """Yield the rows of a query, one at a time."""
        yield from self.database.execute(sql, values)

    def index(self, name: str, column: str) -> None:
        """Let a table be searched by a column without reading all of it."""
        self.database.execute(f'CREATE INDEX "{name}_{column}" ON {name} ("{column}")')

    def drop_duplicates(self, name: str, key: Sequence[str]) -> None:
        """Remove the rows of a table whose key occurs more than once; each is an error."""
        keys = _quoted(key)
        sql = f"SELECT {keys}, count(*) AS times FROM {name} GROUP BY {keys} HAVING times > 1"  # noqa: S608
        for row in list(self.query(sql)):
            self.findings.report(
                "id-duplicate",
                f"{self.source}/{'/'.join(row[one] for one in key)}",
                f"{row['times']} rows in `{name}`",
                "one row",
                "remove the copies, or the wrong rows",
            )
            where = " AND ".join(f'"{one}" = ?' for one in key)
            values = [row[one] for one in key]
            self.database.execute(f"DELETE FROM {name} WHERE {where}", values)  # noqa: S608

    def check_join(self, name: str, other: str, key: Sequence[str]) -> None:
        """Report and remove rows without a partner in another table; report ids spelt differently.

        Error: id-unmatched. Warning: id-spelling.
        """
        same = " AND ".join(f'a."{one}" = b."{one}"' for one in key)
        exact = " AND ".join(f'a."{one}" = b."{one}" COLLATE BINARY' for one in key)
        sql = f"""SELECT DISTINCT {", ".join(f'a."{one}"' for one in key)}, b.rowid AS partner
            FROM {name} a LEFT JOIN {other} b ON {same}
            WHERE b.rowid IS NULL OR NOT ({exact})"""  # noqa: S608
        for row in self.query(sql):
            case = f"{self.source}/{'/'.join(row[one] for one in key)}"
            if row["partner"] is None:
                self.findings.report(
                    "id-unmatched",
                    case,
                    f"in `{name}`, not in `{other}`",
                    "an id that both tables have",
                    "use tables of one release, or correct the id",
                )
            else:
                self.findings.warn(
                    "id-spelling",
                    case,
                    f"spelt differently in `{name}` and `{other}`",
                    "one spelling",
                    f"nothing (that of `{other}` is used)",
                )
        partner = f"SELECT 1 FROM {other} b WHERE {same}"  # noqa: S608
        self.database.execute(f"DELETE FROM {name} AS a WHERE NOT EXISTS ({partner})")  # noqa: S608
