"""What a cluster lacks is said before anything is submitted."""

import os
from pathlib import Path

import pytest

from medtune.orchestration.slurm import check_slurm
from medtune.runtime.errors import ConfigError

SETTINGS = "AccountingStorageType = accounting_storage/{kind}\\nMinJobAge = {age} sec"
PARTITIONS = {"default-resources": "cpu", "sft": "gpu"}


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch):
    """Commands that answer as a cluster would; returns a function that sets it up."""

    def cluster(kind: str = "none", age: int = 300, queue: str = "") -> None:
        answers = {
            "sbatch": "",
            "scontrol": SETTINGS.format(kind=kind, age=age),
            "sinfo": r"cpu (null)\ngpu gpu:a100:4(S:0-1)\ngpu (null)",
            "squeue": queue,
        }
        for name, answer in answers.items():
            (tmp_path / name).write_text(f"#!/bin/sh\nprintf '{answer}'\n")
            (tmp_path / name).chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)

    return cluster


def refusal(
    status: str | None = "squeue", seconds: int = 40, partitions=None, gpus=("sft",)
) -> str:
    with pytest.raises(ConfigError) as caught:
        check_slurm(status, seconds, partitions or PARTITIONS, set(gpus))
    return str(caught.value)


def test_a_cluster_in_order(slurm):
    slurm()
    check_slurm("squeue", 40, PARTITIONS, {"sft"})
    slurm("slurmdbd")
    check_slurm("sacct", 400, PARTITIONS, {"sft"})


def test_no_slurm(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    assert "there is no sbatch on this machine" in refusal()


@pytest.mark.parametrize("status", ["sacct", None])
def test_states_that_would_never_come(slurm, status):
    slurm()
    assert "has no accounting database\n  -> set it to squeue" in refusal(status)


def test_states_that_are_forgotten(slurm):
    slurm(age=60)
    assert "forgets ended jobs after 60 s (MinJobAge)\n  -> set it to at most 20" in refusal()


def test_partitions(slurm):
    slurm()
    missing = refusal(partitions=PARTITIONS | {"grpo": "h100"})
    assert "rule grpo has partition h100, here are cpu, gpu" in missing
    assert "no node of partition cpu has any" in refusal(partitions={"sft": "cpu"})


def test_jobs_of_an_earlier_run(slurm, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    slurm(queue=rf"12 /elsewhere\n13 {tmp_path}\n14 {tmp_path}")
    assert "queue: 13, 14\n  -> wait until they end, or scancel 13 14" in refusal()


def test_a_controller_that_does_not_answer(slurm, tmp_path: Path):
    slurm()
    (tmp_path / "scontrol").write_text("#!/bin/sh\necho 'Unable to contact' >&2; exit 1\n")
    assert "Unable to contact" in refusal()
