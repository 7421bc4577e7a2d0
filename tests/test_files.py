"""Nothing half-written is ever found, and a changed file is noticed."""

import subprocess
import sys
from pathlib import Path

import pytest

from medtune.config.data import TargetConfig
from medtune.records.case import Case, Volume
from medtune.runtime.errors import DataError
from medtune.runtime.files import (
    MANIFEST,
    atomic_folder,
    atomic_path,
    check_manifest,
    exclusive_lock,
    manifest_of,
    read_json,
    sha256,
    with_manifest,
    write_json,
    write_manifest,
)
from medtune.runtime.tables import read_records, write_records


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


def test_a_single_file_has_its_manifest_beside_it(tmp_path: Path):
    parent, output = tmp_path / "0000.parquet", tmp_path / "metrics.json"
    with with_manifest("qc", TargetConfig(), [], parent):
        parent.write_text("a")
    with with_manifest("score", TargetConfig(region="ET"), [parent], output):
        output.write_text("b")
    manifest = check_manifest(tmp_path / "metrics.manifest.json")
    assert manifest["stage"] == "score"
    assert manifest["files"] == {"metrics.json": sha256(output)}
    assert manifest["parents"] == {str(parent): sha256(parent)}
    assert manifest["config"]["region"] == "ET"
    other = read_json(manifest_of(parent))
    assert len(manifest["config_sha256"]) == 64
    assert manifest["config_sha256"] != other["config_sha256"]
    assert manifest["code"] != other["code"]
    parent.write_text("c")
    before = output.read_text()
    with (
        pytest.raises(DataError, match=r"0000.parquet: changed since .*0000.manifest.json"),
        with_manifest("score", TargetConfig(), [parent], output),
    ):
        output.write_text("never")
    assert output.read_text() == before


def test_a_file_is_written_by_one_process_at_a_time(tmp_path: Path):
    code = f"""
import sys, time
from pathlib import Path
from medtune.runtime.files import exclusive_lock
with exclusive_lock(Path({str(tmp_path / "model")!r})):
    print("in", flush=True)
    time.sleep(60)
"""
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert other.stdout is not None
    other.stdout.readline()

    def write() -> None:
        with exclusive_lock(tmp_path / "model"):
            pass

    with pytest.raises(DataError, match=rf"another process \({other.pid} on "):
        write()
    other.kill()
    other.wait()
    write()
    assert not list(tmp_path.iterdir())


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
