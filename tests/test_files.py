"""Nothing half-written is ever found, and a changed file is noticed."""

from pathlib import Path

import pytest

from medtune.errors import DataError
from medtune.files import (
    MANIFEST,
    atomic_folder,
    atomic_path,
    check_manifest,
    write_json,
    write_manifest,
)
from medtune.sources.base import Case, Volume
from medtune.tables import read_records, write_records


def test_a_failed_write_leaves_the_old_file(tmp_path: Path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_failed_folder_leaves_the_old_folder(tmp_path: Path):
    folder = tmp_path / "model"
    with atomic_folder(folder) as temporary:
        (temporary / "weights").write_text("old")

    def fail() -> None:
        with atomic_folder(folder) as temporary:
            (temporary / "weights").write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert (folder / "weights").read_text() == "old"
    with atomic_folder(folder) as temporary:
        (temporary / "other").write_text("new")
    assert [p.name for p in folder.iterdir()] == ["other"]
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_manifest_notices_changed_and_missing_files(tmp_path: Path):
    file = tmp_path / "weights"
    file.write_text("a")
    write_manifest(tmp_path, [file], {"seed": 1}, stage="annotate")
    manifest = check_manifest(tmp_path / MANIFEST)
    assert manifest["config"] == {"seed": 1}
    assert manifest["versions"]["torch"] != "not installed"
    file.write_text("b")
    with pytest.raises(DataError, match="changed since"):
        check_manifest(tmp_path / MANIFEST)
    file.unlink()
    with pytest.raises(DataError, match="missing"):
        check_manifest(tmp_path / MANIFEST)


def test_json_never_holds_nan(tmp_path: Path):
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "a.json", {"loss": float("nan")})
    assert not (tmp_path / "a.json").exists()


def test_records_round_trip_with_nested_fields_and_odd_texts(tmp_path: Path):
    case = Case(
        source="s",
        case_id="[1]",
        patient_id="{p",
        images={"t1n": Volume(path="a", channel=2)},
        mask=None,
        labels={0: "background", 4: "[ET"},
    )
    write_records(tmp_path / "a.parquet", [case])
    assert read_records(tmp_path / "a.parquet", Case) == [case]
    write_records(tmp_path / "b.parquet", [])
    assert read_records(tmp_path / "b.parquet", Case) == []
