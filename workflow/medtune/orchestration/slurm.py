"""Checks, before anything is submitted, that this Slurm can do what the profile asks of it."""

import re
import shutil
import subprocess
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

from medtune.runtime.errors import ConfigError

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


def check_dropped_gpus(
    profile: Path, given: Mapping[str, Mapping[str, object]], rules: Collection[str]
) -> None:
    """Check that no rule has lost its GPUs since `--set-resources` replaces those of the profile.

    Args:
        profile: File of the profile.
        given: Resources by rule, as Snakemake has them; 0 GPUs by intent are there too.
        rules: Rules that will run.

    Raises:
        ConfigError: One has.
    """
    resources = (yaml.safe_load(profile.read_text()) or {}).get("set-resources") or {}
    for rule, wanted in resources.items():
        gpus = wanted.get("gpus_per_node", 0)
        if gpus and rule in rules and "gpus_per_node" not in given.get(rule, {}):
            raise ConfigError(
                "--set-resources",
                f"replaces all `set-resources` of {profile}: rule {rule} has no GPU of its {gpus}",
                f"change the profile, or name all of them: {rule}:gpus_per_node={gpus} "
                f"{rule}:slurm_partition={wanted.get('slurm_partition', '...')} ...",
            )


@dataclass(frozen=True)
class Request:
    """The most that the attempts of one rule's jobs ask of each node, and for how long."""

    rule: str
    partition: str
    nodes: int
    cpus: int
    mem_mb: int
    minutes: int
    gpus: int


@dataclass(frozen=True)
class Node:
    """What some equal nodes of a partition have, and how long jobs may run there."""

    cpus: int
    mem_mb: int
    gpus: int
    minutes: float
    nodes: int


@cache
def partition_nodes(partition: str) -> tuple[Node, ...]:
    """Return the kinds of nodes of a partition; empty if there is no such partition."""
    command = ("sinfo", "-h", "-e", "-p", partition, "-o", "%c|%m|%G|%l|%D")
    rows = (line.split("|") for line in _ask(*command).splitlines())
    return tuple(
        Node(_number(cpus), _number(memory), _gpus(generic), _minutes(limit), int(nodes))
        for cpus, memory, generic, limit, nodes in rows
    )


def _number(text: str) -> int:
    return int(text.rstrip("+"))


def _gpus(generic: str) -> int:
    """Return the GPUs of a node from its `gpu:a100:4(S:0-1),...`."""
    return sum(int(n) for n in re.findall(r"\bgpu(?::[^:,()]+)?:(\d+)", generic))


def _minutes(limit: str) -> float:
    """Return a time limit, `[days-]hours:minutes:seconds` or `infinite`, in minutes."""
    if not limit[:1].isdigit():
        return float("inf")
    days, _, clock = limit.rpartition("-")
    parts = [0, 0, *map(int, clock.split(":"))][-3:]
    return int(days or 0) * 1440 + parts[0] * 60 + parts[1] + parts[2] / 60


def check_request(request: Request) -> None:
    """Check that a partition could ever start what a rule's jobs ask for.

    Raises:
        ConfigError: No kind of its nodes has that much, or jobs may not run so long.
    """
    kinds = partition_nodes(request.partition)
    limits: tuple[tuple[str, str, int, Callable[[Node], float]], ...] = (
        ("gpus_per_node", "GPUs of a node", request.gpus, lambda node: node.gpus),
        ("mem_mb", "MB of memory of a node", request.mem_mb, lambda node: node.mem_mb),
        ("set-threads", "CPUs of a node", request.cpus, lambda node: node.cpus),
        ("nodes", "nodes", request.nodes, lambda node: node.nodes),
        ("runtime", "minutes in its last attempt", request.minutes, lambda node: node.minutes),
    )
    for key, what, wanted, has in limits:
        most = max((has(node) for node in kinds), default=0)
        if wanted > most:
            raise ConfigError(
                f"{PROFILE}: {key}",
                f"rule {request.rule} asks for {wanted} {what}, "
                f"partition {request.partition} has at most {most:g}",
                "lower it, or `retries` if it grows with `attempt`; or choose another partition",
            )
        # What one node has does not help on another.
        kinds = tuple(node for node in kinds if has(node) >= wanted)


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
