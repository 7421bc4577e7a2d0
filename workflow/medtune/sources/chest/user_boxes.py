"""Boxes of your own table: a row each, in a table of their own or in that of the images.

Columns: image, as the table of images names it; what is in the box, in one of `class` (an
abnormality), `phrase` (a sentence of the report) or `anatomy` (a part of the body); its corners x1,
y1, x2, y2, or its left upper corner and size x, y, w, h; reader, where several drew. In pixels of
the image file, from the left and the top; a row `No finding` without numbers says that a reader
saw nothing.
"""

from collections.abc import Iterator
from pathlib import Path
from sqlite3 import Row

from medtune.records.film import PixelBox, Region, RegionKind
from medtune.runtime.errors import DataError
from medtune.sources.chest.sql_tables import Tables
from medtune.sources.user_table import UserTable

KINDS: dict[str, RegionKind] = {
    "class": "abnormality",
    "phrase": "phrase",
    "anatomy": "anatomy",
}
CORNERS, SIZES = ("x1", "y1", "x2", "y2"), ("x", "y", "w", "h")
# Other names of the same columns.
ALIASES = {
    **dict(zip(("x_min", "y_min", "x_max", "y_max"), CORNERS, strict=True)),
    **dict(zip(("xmin", "ymin", "xmax", "ymax"), CORNERS, strict=True)),
    "width": "w",
    "height": "h",
    "rad_id": "reader",
    "class_name": "class",
}
BOX_KINDS = (*KINDS, "class_name")
BOX_COLUMNS = (*KINDS, *CORNERS, *SIZES, "reader", *ALIASES)
NOTHING = "no finding"


class RowError(Exception):
    """A row cannot be used.

    Args:
        code: Of the finding.
        found: What is there.
        expected: What should be.
    """

    def __init__(self, code: str, found: str, expected: str) -> None:
        super().__init__(found)
        self.code, self.found, self.expected = code, found, expected


def plain_path(name: str, root: Path) -> str:
    """Return a path as a table names it, relative to the root where it lies below it."""
    path = Path(name.replace("\\", "/"))
    return (
        (path.relative_to(root) if path.is_relative_to(root) else path).as_posix() if name else ""
    )


class BoxTable:
    """The boxes of a source.

    Args:
        table: Where they stand.
        tables: The database of the source, with the table `films`.
        root: Folder of the source.

    Raises:
        DataError: Columns are missing, or all boxes are fractions.
    """

    def __init__(self, table: UserTable, tables: Tables, root: Path) -> None:
        self.tables, self._root = tables, root
        self._names = {ALIASES.get(name, name): name for name in table.columns}
        self._edges = self._form(table)
        tables.fill("boxes", ("image",), (*KINDS, *CORNERS, "reader", "line"), self._rows(table))
        self._check_images()
        self._check_unit(table)

    def _form(self, table: UserTable) -> tuple[str, ...]:
        forms = [form for form in (CORNERS, SIZES) if all(name in self._names for name in form)]
        named = [name for name in KINDS if name in self._names]
        if len(forms) != 1 or not named:
            raise DataError(
                table.path,
                f"has the columns {list(table.columns)}, expected one of {', '.join(KINDS)}, and "
                f"either {', '.join(CORNERS)} or {', '.join(SIZES)}",
                "rename the columns of the boxes",
            )
        return forms[0]

    def _rows(self, table: UserTable) -> Iterator[list[str]]:
        for row in table.rows():
            cells = {name: row.values[own] for name, own in self._names.items()}
            names = [cells.get(kind, "") for kind in KINDS]
            edges = [cells[edge] for edge in self._edges]
            if any(names) or any(edges):
                image = plain_path(cells["image"], self._root)
                yield [image, *names, *edges, cells.get("reader", ""), row.where]

    def _check_images(self) -> None:
        """Report boxes of images that the table of images does not have (id-unmatched)."""
        lacking = self.tables.query(
            "SELECT image, min(line) AS line FROM boxes WHERE image NOT IN "
            "(SELECT image FROM films) GROUP BY image"
        )
        for row in list(lacking):
            self.tables.findings.report(
                "id-unmatched",
                f"{self.tables.source}/{row['image']}",
                f"{row['line']}: a box of an image that the table of images does not have",
                "an image of both",
                "correct its path",
            )

    def _check_unit(self, table: UserTable) -> None:
        """Refuse boxes that are fractions of the image: read as pixels they would be nothing."""
        largest = next(
            self.tables.query(
                """SELECT max(max(CAST(x1 AS REAL), CAST(y1 AS REAL), CAST(x2 AS REAL),
                CAST(y2 AS REAL))) AS largest FROM boxes"""
            )
        )["largest"]
        if largest is not None and 0 < largest <= 1:
            raise DataError(
                table.path,
                f"all boxes lie between 0 and {largest:g}: fractions, expected pixels",
                "multiply them by width and height of the image",
            )

    def of(self, image: str) -> tuple[tuple[Region, ...], bool]:
        """Return the boxes of an image, and whether there are rows of it that say: nothing.

        Raises:
            RowError: A row cannot be read (box-unreadable).
        """
        rows = list(self.tables.query("SELECT * FROM boxes WHERE image = ? ORDER BY rowid", image))
        regions = [one for row in rows if (one := self._region(row)) is not None]
        return tuple(regions), bool(rows) and not regions

    def _region(self, row: Row) -> Region | None:
        named = [(kind, row[kind]) for kind in KINDS if row[kind]]
        edges = [row[edge] for edge in CORNERS]
        if [name.lower() for _, name in named] == [NOTHING] and {*edges} <= {"", "nan", "NaN"}:
            return None
        try:
            left, top, third, fourth = (float(edge) for edge in edges)
            ((kind, name),) = named
        except ValueError:
            found = f"{[name for _, name in named]} at {edges} ({row['line']})"
            raise RowError("box-unreadable", found, "one name and four numbers") from None
        box: PixelBox = (left, top, third, fourth)
        if self._edges == SIZES:
            box = (left, top, left + third, top + fourth)
        return Region(kind=KINDS[kind], name=name, box=box, reader=row["reader"] or None)
