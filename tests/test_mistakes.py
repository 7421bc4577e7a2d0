"""Full disks, interrupts and kills: a clear message, and nothing that was made is lost."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import MEDIA

from medtune.config.data import TargetConfig
from medtune.config.stages import ConvertStage
from medtune.sources.index import read_shard


def convert(dataset: Path, output: Path, tile: int = 32) -> list[str]:
    """Return the command that converts the data set's cases into another folder."""
    work = dataset.parent
    media = MEDIA.model_copy(update={"tile_size": (tile, tile)})
    stage = ConvertStage(media=media, task=TargetConfig())
    return [
        *(sys.executable, "-m", "medtune", "convert", "--config", stage.model_dump_json()),
        *("--verified", str(work / "index/checked.parquet")),
        *("--output", str(output)),
    ]


def test_a_full_disk_is_said_so_and_loses_nothing(dataset: Path, tmp_path: Path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=320k", "none", str(disk)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("a small disk can be mounted by root only")
    try:
        run = subprocess.run(
            convert(dataset, disk / "0000.parquet", tile=128),
            capture_output=True,
            text=True,
            check=False,
        )
        made = {path.name: path.read_bytes() for path in (disk / "phantom").glob("*.mp4")}
        assert run.returncode == 2
        assert "no space is left" in run.stderr
        assert "Traceback" not in run.stderr
        assert made
        assert not list(disk.rglob("*.parquet"))
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        subprocess.run(convert(dataset, disk / "0000.parquet", tile=128), check=True)
        assert made.items() <= {p.name: p.read_bytes() for p in disk.rglob("*.mp4")}.items()
        assert not list(disk.rglob(".partial*"))
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_is_clean_and_the_next_run_goes_on(dataset: Path, tmp_path: Path, number):
    output = tmp_path / "0000.parquet"
    run = subprocess.Popen(
        convert(dataset, output, tile=512),
        stderr=subprocess.PIPE,
        text=True,
        # Where the tests themselves run in the background, SIGINT is ignored, and inherited so.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    journal, limit = tmp_path / ".done-0000.jsonl", time.monotonic() + 60
    while not journal.is_file() and time.monotonic() < limit:
        time.sleep(0.01)
    run.send_signal(number)
    _, said = run.communicate(timeout=60)
    assert run.returncode == 128 + number
    assert "interrupted; nothing half-written is left" in said
    assert not output.exists()
    assert not list(tmp_path.rglob(".partial-*.mp4"))
    done = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.mp4")}
    subprocess.run(convert(dataset, output, tile=512), check=True, capture_output=True)
    whole = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.mp4")}
    assert len(whole) == len(read_shard(dataset.parent / "index/cases.parquet", 0, 1000))
    # What had been made is not made again; one video may not have reached the journal.
    assert len(done.items() - whole.items()) <= 1
