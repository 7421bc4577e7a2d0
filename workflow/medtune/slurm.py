"""Checks, before anything is submitted, that this Slurm can do what the profile asks of it."""

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from medtune.errors import ConfigError

PROFILE = "slurm/config.v9+.yaml"


def check_slurm(
    status_command: str | None, seconds: int, partitions: Mapping[str, str], gpus: set[str]
) -> None:
    """Check that jobs can be submitted, that their states can be had, and where they would run.

    Args:
        status_command: `slurm-status-command` of the profile.
        seconds: `slurm-init-seconds-before-status-checks`.
        partitions: Partition by rule.
        gpus: Rules that ask for GPUs.

    Raises:
        ConfigError: Something is missing; says what to set.
    """
    if shutil.which("sbatch") is None:
        found = "there is no sbatch on this machine"
        raise ConfigError(
            "--profile slurm", found, "log in where jobs are submitted, or leave it out"
        )
    _check_states(status_command, seconds)
    _check_partitions(partitions, gpus)
    _check_folder(Path.cwd())


def _check_states(status_command: str | None, seconds: int) -> None:
    """Check that the executor will hear of a job's end: it would wait for ever."""
    lines = _ask("scontrol", "show", "config").splitlines()
    pairs = (line.partition("=") for line in lines)
    slurm = {key.strip(): value.strip() for key, _, value in pairs}
    if not slurm.get("AccountingStorageType", "").endswith("/none"):
        return
    if status_command != "squeue":
        found = f"{status_command or 'sacct'}, but this Slurm has no accounting database"
        raise ConfigError(f"{PROFILE}: slurm-status-command", found, "set it to squeue")
    age = int(slurm["MinJobAge"].split()[0])
    if age < 3 * seconds:  # the executor would fall back to sacct
        raise ConfigError(
            f"{PROFILE}: slurm-init-seconds-before-status-checks",
            f"{seconds}, but this Slurm forgets ended jobs after {age} s (MinJobAge)",
            f"set it to at most {age // 3}" if age >= 3 else "ask for a larger MinJobAge",
        )


def _check_partitions(partitions: Mapping[str, str], gpus: set[str]) -> None:
    """Check that the partitions exist, and those for GPUs have some."""
    here: dict[str, str] = {}
    for line in _ask("sinfo", "-h", "-o", "%R %G").splitlines():
        name, generic = line.split(maxsplit=1)
        here[name] = here.get(name, "") + generic
    for rule, name in partitions.items():
        if name not in here:
            found = f"rule {rule} has partition {name}, here are {', '.join(sorted(here))}"
            raise ConfigError(f"{PROFILE}: slurm_partition", found, "set it")
        if rule in gpus and "gpu" not in here[name]:
            found = f"rule {rule} asks for GPUs, but no node of partition {name} has any"
            raise ConfigError(f"{PROFILE}: gpus_per_node", found, "choose another partition")


def _check_folder(folder: Path) -> None:
    """Check that no job of an earlier run is left here: it would run twice."""
    lines = _ask("squeue", "-h", "-o", "%i %Z").splitlines()
    left = [
        number
        for number, where in (line.split(maxsplit=1) for line in lines)
        if where == str(folder)
    ]
    if left:
        found = f"jobs of an earlier run are still in Slurm's queue: {', '.join(left)}"
        raise ConfigError(folder, found, f"wait until they end, or scancel {' '.join(left)}")


def _ask(*command: str) -> str:
    """Return what one of Slurm's commands prints."""
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode:
        raise ConfigError("Slurm", run.stderr.strip() or f"{command[0]} failed", "is it running?")
    return run.stdout
