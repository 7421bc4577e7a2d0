"""Attempts of Slurm jobs: memory, waiting, and what a partition could never start."""

import os
from pathlib import Path

import pytest

from medtune.orchestration import slurm as module
from medtune.orchestration.slurm import Request, check_dropped_gpus, check_request, partition_nodes
from medtune.orchestration.slurm_memory import WAIT_SECONDS, Attempts
from medtune.runtime.errors import ConfigError

CGROUPS = "slurmstepd: error: Detected 1 oom_kill event in StepId=7.batch. Some of the processes\n"
ACCOUNTED = "slurmstepd: error: JobId=7 exceeded memory limit (2500 > 2000), being killed\n"
TIME = "slurmstepd: error: *** JOB 8 ON gpu1 CANCELLED AT 2026-01-01 DUE TO TIME LIMIT ***\n"


@pytest.mark.parametrize(
    ("text", "grows"),
    [
        (CGROUPS, 1),
        (ACCOUNTED, 1),
        ("MemoryError\n", 1),
        ("RuntimeError: DefaultCPUAllocator: can't allocate memory: you tried", 1),
        (TIME, 0),
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB", 0),  # of the GPU
        ("out of memory is what this training must not run\n", 0),
        ("Terminated\n", 0),
    ],
)
def test_memory_grows_after_a_lack_of_memory_alone(tmp_path: Path, text, grows):
    folder = tmp_path / "rule_predict/sft_0000"
    folder.mkdir(parents=True)
    (folder / "7.log").write_text(text)
    assert Attempts(0, tmp_path).out_of_memory("predict", "sft_0000") == grows
    assert Attempts(0, tmp_path).out_of_memory("predict", "sft_0001") == 0
    os.utime(folder / "7.log", (1, 1))
    assert Attempts(2, tmp_path).out_of_memory("predict", "sft_0000") == 0, "of an earlier run"


def test_a_refused_attempt_waits_and_a_failed_one_does_not(tmp_path: Path):
    waited: list[float] = []
    attempts = Attempts(0, tmp_path, waited.append)
    attempts.wait_after_refusal("sft", "", 2)
    attempts.wait_after_refusal("sft", "", 2)  # asked again
    assert waited == [WAIT_SECONDS]
    (tmp_path / "rule_sft").mkdir()
    (tmp_path / "rule_sft/7.log").write_text(TIME)  # the second started
    attempts.wait_after_refusal("sft", "", 3)
    assert waited == [WAIT_SECONDS]
    attempts.wait_after_refusal("sft", "", 4)  # the third did not
    assert waited == [WAIT_SECONDS, 3 * WAIT_SECONDS]


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch):
    """A partition of nodes that are large or have GPUs, and another without a time limit."""
    rows = {
        "gpu": r"64|512000+|(null)|1-00:00:00|4\n16|128000|gpu:a100:4(S:0-1),nvme:1|1-00:00:00|2",
        "cpu": r"8|16000|(null)|infinite|3",
    }
    body = "".join(f"*'-p {name} '*) printf '{text}\\n';;\n" for name, text in rows.items())
    (tmp_path / "sinfo").write_text(f'#!/bin/sh\ncase "$*" in\n{body}esac\n')
    (tmp_path / "sinfo").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    partition_nodes.cache_clear()
    yield
    partition_nodes.cache_clear()


FITS = {"rule": "sft", "partition": "gpu", "nodes": 2, "cpus": 16, "mem_mb": 128000}
FITS |= {"minutes": 1440, "gpus": 4}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"mem_mb": 128001}, "mem_mb: rule sft asks for 128001 MB of memory of a node"),
        ({"cpus": 17}, "set-threads: rule sft asks for 17 CPUs of a node"),
        ({"minutes": 1441}, "runtime: rule sft asks for 1441 minutes in its last attempt"),
        (
            {"gpus": 5},
            "gpus_per_node: rule sft asks for 5 GPUs of a node, partition gpu has at most 4",
        ),
        ({"nodes": 3}, "nodes: rule sft asks for 3 nodes"),
    ],
)
def test_what_a_partition_can_never_start_is_refused(cluster, change, words):
    check_request(Request(**FITS))
    check_request(Request(**FITS | {"gpus": 0, "mem_mb": 500000, "cpus": 64, "nodes": 4}))
    check_request(Request("index", "cpu", 1, 8, 16000, 10**6, 0))
    with pytest.raises(ConfigError) as caught:
        check_request(Request(**FITS | change))
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("limit", "minutes"), [("30", 0.5), ("5:00", 5), ("2:00:00", 120), ("3-01:30:00", 4410)]
)
def test_time_limits(limit, minutes):
    assert module._minutes(limit) == minutes


def test_gpus_that_set_resources_drops(tmp_path: Path):
    profile = tmp_path / "config.v9+.yaml"
    text = "set-resources:\n  sft: &t\n    slurm_partition: gpu\n    gpus_per_node: 2\n  grpo: *t\n"
    profile.write_text(text)
    both = {"sft": {"gpus_per_node": 2}, "grpo": {"gpus_per_node": 0}}
    check_dropped_gpus(profile, both, {"sft", "grpo"})
    with pytest.raises(ConfigError, match=r"rule grpo has no GPU of its 2\n.*grpo:gpus_per_node=2"):
        check_dropped_gpus(profile, {"grpo": {"mem_mb": 9}}, {"grpo"})
    check_dropped_gpus(profile, {"grpo": {"mem_mb": 9}}, {"index"})
    profile.write_text("executor: slurm\n")
    check_dropped_gpus(profile, {}, {"sft"})
