"""Tables that users wrote: encodings, separators, names of columns, lines and what leads on."""

import gzip
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from medtune.runtime.errors import DataError
from medtune.sources.nearby import whats_there
from medtune.sources.user_table import UserTable

NEEDED = ("case_id", "patient_id")


def read(path: Path, known=()):
    table = UserTable(path, NEEDED, known)
    return table.columns, [(row.where.partition(", ")[2], row.values) for row in table.rows()]


def put(folder: Path, content: str | bytes, name: str = "cases.csv") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


PLAIN = "case_id,patient_id,t1c\n1,Müller,a b.nii\n"
QUOTED = '"case_id";"patient_id";"t1c"\n"1";"Müller";"a b.nii"\n'
EXPECTED = {"case_id": "1", "patient_id": "Müller", "t1c": "a b.nii"}


@pytest.mark.parametrize(
    "content",
    [
        PLAIN,
        PLAIN.encode("utf-8-sig"),
        PLAIN.encode("utf-16"),
        PLAIN.replace(",", "\t").encode("utf-16"),
        gzip.compress(PLAIN.encode(), mtime=0),
        PLAIN.replace(",", ";"),
        PLAIN.replace(",", "\t"),
        PLAIN.replace(",", ", "),
        PLAIN.replace("\n", "\r\n"),
        PLAIN.replace("\n", "\r"),
        PLAIN.replace("\n", ",,\n"),
        PLAIN.replace("case_id,patient_id", "Case ID,PatientID"),
        "sep=;\n" + PLAIN.replace(",", ";"),
        QUOTED,
    ],
)
def test_what_can_be_read_in_one_way_is_read(tmp_path: Path, content):
    columns, [(_, values)] = read(put(tmp_path, content))
    assert columns == tuple(EXPECTED)
    assert values == EXPECTED


def test_lines_are_those_of_an_editor_and_blank_ones_are_none(tmp_path: Path):
    text = '\ncase_id,patient_id,note\n1,a,"two\nlines"\n\n2,b,x\n,,\n3,c,"y"\n\n\n'
    _, rows = read(put(tmp_path, text))
    assert [where for where, _ in rows] == ["line 3", "line 6", "line 8"]
    assert rows[0][1]["note"] == "two\nlines"


def test_parquet_counts_rows_and_a_missing_value_is_empty(tmp_path: Path):
    columns = {
        "Case_ID": ["1", None, "2"],
        "patient_id": ["a", None, "b"],
        "age": [float("nan"), None, 54.5],
        "boxes": [None, None, [1, 2]],
        "__index_level_0__": [5, 6, 7],
    }
    pq.write_table(pa.table(columns), tmp_path / "cases.parquet")
    columns, rows = read(tmp_path / "cases.parquet")
    assert columns == ("case_id", "patient_id", "age", "boxes")
    assert rows == [
        (
            "row 1 of the Parquet table",
            {"case_id": "1", "patient_id": "a", "age": "", "boxes": ""},
        ),
        (
            "row 3 of the Parquet table",
            {"case_id": "2", "patient_id": "b", "age": "54.5", "boxes": "[1, 2]"},
        ),
    ]


def test_known_columns_get_their_spelling_and_others_keep_theirs(tmp_path: Path):
    columns, _ = read(put(tmp_path, "CASE_ID,Patient ID,SITE,T1C\n"), known=["site"])
    assert columns == ("case_id", "patient_id", "site", "T1C")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (PLAIN.encode("latin-1"), "line 2: is not in UTF-8; .*1,Müller,a.*\n.*iconv"),
        (PLAIN.encode("utf-16-le"), "zero bytes"),
        (b"PK\x03\x04 and so on", "workbook"),
        (gzip.compress(PLAIN.encode(), mtime=0)[:-9], "cannot be read"),
        ("subject,case_id,t1c\n", "separated by commas.*expected patient_id"),
        ("case;patient_id;t1c\n", "separated by semicolons.*\n.*rename `case` to `case_id`"),
        ("case_id,patient_id,t1c,Case ID\n", "case_id more than once"),
        (",case_id,patient_id\n0,1,a\n", "column 1 has no name\n.*index=False"),
        ("case_id,patient_id\n\n1,a,b\n", "line 3: has 3 cells, expected 2"),
        ("case_id,patient_id\n1\n", "line 2: has 1 cells, expected 2"),
        ('case_id,patient_id\n1,a\n2,"b\n3,c\n', "line 3: is no CSV .*\n.*unpaired quote"),
        ("", "has the columns \\[\\]"),
    ],
)
def test_what_cannot_be_read_says_what_is_there(tmp_path: Path, content, words):
    with pytest.raises(DataError, match=f"(?s){words}"):
        read(put(tmp_path, content))


def test_a_missing_file_says_what_is_there(tmp_path: Path):
    put(tmp_path, "x", "Cases.CSV")
    (tmp_path / "link.csv").symlink_to("/nowhere/x.csv")
    with pytest.raises(
        DataError, match=r"which holds Cases.CSV, link.csv; did you mean `Cases.CSV`"
    ):
        read(tmp_path / "cases.csv")
    assert whats_there(tmp_path / "link.csv").endswith(
        "is a link to /nowhere/x.csv, which does not exist"
    )
    deeper = tmp_path / "a/b/c.csv"
    assert f"no `a` (for {deeper}) in {tmp_path}, which holds Cases" in whats_there(deeper)
