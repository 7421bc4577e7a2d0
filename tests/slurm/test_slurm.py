"""The demo, reduced, on a real Slurm of four nodes, and all that goes wrong there.

Every broken run must end with the weights of the unbroken one, to the bit. `make test` breaks two
runs, `make test-long` the others.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cluster as slurm
import pytest
import yaml
from conftest import REPOSITORY
from small_experiment import SMALL, TINY, copy_repository

from medtune.runtime.files import read_json

HERE = Path(__file__).parent
MODEL = "results/demo/sft"
RUNS: list[subprocess.Popen] = []


@pytest.fixture(scope="module")
def cluster():
    if reason := slurm.unusable():
        pytest.skip(reason)
    slurm.start()
    yield
    slurm.stop()


def small_config(folder: Path) -> None:
    """Reduce the demo to seconds; checkpoints at every step."""
    path = folder / "config/config.yaml"
    values = yaml.safe_load(path.read_text())
    for section, update in SMALL.items():
        changes = {key: value for key, value in update.items() if key != "file"}
        values[section] = values.get(section, {}) | changes
    values["reward"]["weights"] = {}
    values["media"]["shard_size"] = 100
    values["sft"]["save_steps"] = 1
    values["model"]["tiny"] = TINY
    path.write_text(yaml.safe_dump(values))


def profile(folder: Path, **sft) -> None:
    """Fit the profile to the small nodes here: only numbers change, and what a test asks for."""
    name = "slurm/config.v9+.yaml"
    values = yaml.safe_load((REPOSITORY / name).read_text())
    values["default-resources"] |= {"mem_mb": 1500, "runtime": 10}
    for resources in values["set-resources"].values():
        resources |= {"mem_mb": 2500, "runtime": 10}
    values["set-resources"]["sft"] = values["set-resources"]["sft"] | sft
    values["set-threads"] = dict.fromkeys(("sft", "grpo", "predict"), 2)
    values |= {"slurm-init-seconds-before-status-checks": 12, "latency-wait": 10}
    values["max-status-checks-per-second"] = 10
    (folder / name).write_text(yaml.safe_dump(values))


def commit(folder: Path) -> None:
    user = ("-c", "user.name=test", "-c", "user.email=test@example.org")
    for command in (["init", "-q"], ["add", "-A"], [*user, "commit", "-qm", "all"]):
        subprocess.run(["git", *command], cwd=folder, check=True)


@pytest.fixture(scope="module")
def finished(cluster, tmp_path_factory):
    """The whole demo, run once."""
    folder = tmp_path_factory.mktemp("demo")
    copy_repository(folder)
    small_config(folder)
    profile(folder)
    commit(folder)
    run = start(folder)
    assert run.wait(timeout=900) == 0, ending(folder)
    return folder


@pytest.fixture
def untrained(finished: Path):
    """The finished demo without its SFT model, which must be made again to the bit."""
    kept = finished / "results/kept"
    shutil.rmtree(finished / "results/demo/checkpoints", ignore_errors=True)
    shutil.move(finished / MODEL, kept)
    shutil.rmtree(finished / ".snakemake/slurm_logs/rule_sft", ignore_errors=True)
    yield finished
    for name in ("hold", "hungry"):
        (finished / name).unlink(missing_ok=True)
    profile(finished)
    stop_runs()
    if left := squeue():
        slurm.run("scancel", *left)
        wait_until(lambda: not squeue())
    shutil.rmtree(finished / ".snakemake/locks", ignore_errors=True)
    found = files(finished / MODEL)
    shutil.rmtree(finished / MODEL, ignore_errors=True)
    shutil.move(kept, finished / MODEL)
    assert found == files(finished / MODEL)
    assert left == []


def files(model: Path) -> dict[str, str]:
    """Return the hashes of a model's files; none without a manifest."""
    path = model / "manifest.json"
    return read_json(path)["files"] if path.exists() else {}


def start(folder: Path, *arguments: str) -> subprocess.Popen:
    """Start the command of the README, in a session of its own; it writes to `said`."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    code = f"{folder / 'workflow'}{os.pathsep}{HERE / 'hold'}"
    with (folder / "said.log").open("w") as log:
        run = subprocess.Popen(
            [sys.executable, "-m", "snakemake", *arguments, "--profile", "slurm"],
            cwd=folder,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PATH": path, "PYTHONPATH": code, "OMP_NUM_THREADS": "1"},
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509
        )
    RUNS.append(run)
    return run


def stop_runs() -> None:
    """Kill what a failed test has left running: the next must not fail for it."""
    for run in RUNS:
        if run.poll() is None:
            os.killpg(run.pid, signal.SIGKILL)
            run.wait()
    RUNS.clear()


def said(folder: Path) -> str:
    return (folder / "said.log").read_text()


def ending(folder: Path) -> str:
    """Return the end of what it said, for an assertion's message."""
    return said(folder)[-3000:]


def squeue(what: str = "%i") -> list[str]:
    return slurm.run("squeue", "-h", "-o", what).split()


def wait_until(true: Callable[[], object], seconds: float = 180) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, slurm.run("squeue")
        time.sleep(0.2)


def start_and_hold(folder: Path, *arguments: str) -> subprocess.Popen:
    """Start an SFT, and return when it waits after its second step."""
    (folder / "hold").touch()
    run = start(folder, "sft", *arguments)

    def held() -> bool:
        assert run.poll() is None, ending(folder)
        return (folder / "hold").read_text() == "held"

    wait_until(held)
    return run


def training_logs(folder: Path) -> str:
    """Return what all Slurm jobs of the SFT have printed."""
    logs = sorted((folder / ".snakemake/slurm_logs/rule_sft").glob("*.log"))
    return "\n".join(path.read_text() for path in logs)


def medtune(folder: Path, *arguments: str) -> str:
    run = subprocess.run(
        [sys.executable, "-m", "medtune", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    return run.stdout + run.stderr


def goes_on(folder: Path) -> None:
    """Run the command once more, to its end."""
    (folder / "hold").unlink(missing_ok=True)
    again = start(folder, "sft")
    assert again.wait(timeout=300) == 0, ending(folder)


def test_the_demo_runs_and_there_is_nothing_left_to_do(finished: Path):
    count = int(re.findall(r"of (\d+) steps", said(finished))[-1])
    submitted = re.findall(r"submitted with SLURM jobid (\d+)", said(finished))
    assert len(submitted) == len(set(submitted)) == count - 1  # all but the target itself
    assert "Error" not in said(finished)
    assert (finished / "results/demo/report/report.html").is_file()
    states = medtune(finished, "status")
    assert re.search(r"sft +1/1 +done", states)
    assert "waiting" not in states
    log = training_logs(finished)
    assert log.count("training 317,968") == 1
    assert re.search("1 process on this node, GPUs [01], nodes 1", log)
    again = start(finished)
    assert again.wait(timeout=120) == 0
    assert "Nothing to be done" in said(finished)


def test_out_of_time(untrained: Path):
    """Warned before its limit, a training saves; the next attempt goes on from there."""
    # On a slow host the first minute may not hold two steps; the next attempt has more.
    profile(untrained, runtime="attempt", slurm_extra="--signal=USR1@5")
    (untrained / "hold").touch()
    run = start(untrained, "sft")
    wait_until(lambda: "saving step" in training_logs(untrained), seconds=400)
    (untrained / "hold").unlink()
    assert run.wait(timeout=300) == 0, ending(untrained)
    assert "going on after step" in training_logs(untrained)
    assert "Trying to restart job" in said(untrained)


@pytest.mark.long
def test_out_of_memory(untrained: Path):
    """The second attempt gets more, and goes on from the last checkpoint."""
    (untrained / "hungry").write_bytes(bytes(2000))  # MiB to take
    profile(untrained, mem_mb="2000 * attempt")
    run = start(untrained, "sft")
    assert run.wait(timeout=300) == 0, ending(untrained)
    assert "going on after step 1" in training_logs(untrained)
    assert "Trying to restart job" in said(untrained)


@pytest.mark.long
def test_scancel(untrained: Path):
    run = start_and_hold(untrained, "--retries", "0")
    assert "running as Slurm job" in medtune(untrained, "status")
    slurm.run("scancel", *squeue())
    assert run.wait(timeout=120) == 1
    assert "Error in rule sft" in said(untrained)
    assert "saving step 2" in training_logs(untrained)
    assert re.search(r"failed +results/demo/logs/sft.log", medtune(untrained, "status"))
    goes_on(untrained)
    assert "going on after step 2" in training_logs(untrained)


@pytest.mark.long
def test_a_node_fails(untrained: Path):
    """Slurm moves the job to the other node, and Snakemake waits."""
    run = start_and_hold(untrained)
    node = squeue("%N")[0]
    slurm.run("scontrol", "update", f"nodename={node}", "state=down", "reason=test")
    try:
        wait_until(lambda: node not in squeue("%N"))  # else it might end on the lost node
        (untrained / "hold").unlink()
        assert run.wait(timeout=400) == 0, ending(untrained)
    finally:  # unless it has come back by itself
        back = ["scontrol", "update", f"nodename={node}", "state=resume"]
        subprocess.run(back, check=False, capture_output=True)
    assert "Trying to restart job" not in said(untrained)
    # A lost node may not have saved its second step.
    assert re.search("going on after step [12]", training_logs(untrained))


def test_ctrl_c(untrained: Path):
    run = start_and_hold(untrained)
    run.send_signal(signal.SIGINT)
    assert run.wait(timeout=60) == 1
    wait_until(lambda: not squeue())
    assert "saving step 2" in training_logs(untrained)
    goes_on(untrained)
    assert "going on after step 2" in training_logs(untrained)


@pytest.mark.long
def test_snakemake_is_killed(untrained: Path):
    """Its job goes on, is not started a second time, and what it has made is kept."""
    run = start_and_hold(untrained)
    run.kill()
    run.wait()
    job = squeue()
    assert start(untrained, "sft").wait(timeout=60) == 1
    assert "LockException" in said(untrained)
    assert start(untrained, "--unlock").wait(timeout=60) == 0
    assert start(untrained, "sft").wait(timeout=60) == 1
    assert f"scancel {job[0]}" in said(untrained)
    (untrained / "hold").unlink()
    wait_until(lambda: not squeue())
    goes_on(untrained)
    assert training_logs(untrained).count("training 317,968") == 1


OTHER = ("--config", "sft={learning_rate: 0.0021, epochs: 9}")


@pytest.mark.parametrize(
    "way",
    [
        "refused",
        *(pytest.param(way, marks=pytest.mark.long) for way in ("out of time", "cancelled")),
    ],
)
def test_a_failed_retraining_costs_no_model_and_passes_for_none(finished: Path, way):
    """Refused by sbatch, out of time, or canceled: the finished model stays as it was."""
    model = finished / MODEL
    before = files(model)
    limits = {"refused": {"constraint": "none"}, "out of time": {"runtime": 1}}
    profile(finished, **({"slurm_extra": "--requeue"} | limits.get(way, {})))
    try:
        if way == "refused":
            run = start(finished, "sft", "--retries", "0", *OTHER)
        else:
            run = start_and_hold(finished, "--retries", "0", *OTHER)
        if way == "cancelled":
            slurm.run("scancel", *squeue())
        assert run.wait(timeout=300) == 1
    finally:
        (finished / "hold").unlink(missing_ok=True)
        profile(finished)
        stop_runs()
    assert ("sbatch failed" in said(finished)) == (way == "refused"), ending(finished)
    assert before == files(model)
    assert start(finished, "sft", "--dry-run", *OTHER).wait(timeout=60) == 0
    assert re.search(r"^sft +1$", said(finished), re.MULTILINE), ending(finished)
    shutil.rmtree(finished / "results/demo/checkpoints", ignore_errors=True)
    if way == "cancelled":  # the last
        goes_on(finished)
        assert before == files(model)


@pytest.mark.long
def test_two_nodes_train_one_model(finished: Path):
    kept = shutil.move(finished / MODEL, finished / "results/kept")
    profile(finished, nodes=2)
    run = start(finished, "sft")
    try:
        assert run.wait(timeout=300) == 0, ending(finished)
        assert read_json(finished / MODEL / "manifest.json")["processes"] == 2
        each = re.findall("1 process on this node, GPUs [01], nodes 2", training_logs(finished))
        assert len(each) == 2
    finally:
        shutil.rmtree(finished / MODEL, ignore_errors=True)
        shutil.move(kept, finished / MODEL)
        profile(finished)
