"""The launcher starts as many processes as were asked for, tells them, and passes signals on."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from training_stages import grpo_stage

from medtune.config.rollouts import RolloutConfig
from medtune.orchestration import launch
from medtune.orchestration.launch import Allocation
from medtune.runtime.errors import ConfigError, ModelError

# A stand-in for the command line: a learner writes what it sees and ends when it is asked to.
LEARNER = """
import json, os, signal, sys, time
from pathlib import Path
if sys.argv[1] == "rollout-server":
    if os.environ.get("BROKEN"):
        sys.exit(3)
    from http.server import BaseHTTPRequestHandler, HTTPServer
    Path("server.json").write_text(json.dumps([sys.argv, dict(os.environ)]))
    HTTPServer(("127.0.0.1", int(sys.argv[-1])), BaseHTTPRequestHandler).serve_forever()
asked = []
signal.signal(signal.SIGUSR1, lambda *_: asked.append(1))
Path(f"learner-{os.environ.get('RANK', 0)}.json").write_text(json.dumps(dict(os.environ)))
while "wait" in sys.argv and not asked:
    time.sleep(0.05)
sys.exit(7 if asked else 0)
"""


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch):
    (tmp_path / "standin.py").write_text(LEARNER)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(launch, "MEDTUNE", (sys.executable, "-m", "standin"))
    for name in ("CUDA_VISIBLE_DEVICES", "SLURM_STEP_NUM_TASKS", "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def learners(folder: Path) -> list[dict[str, str]]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("learner-*.json"))]


def test_one_process_needs_no_torchrun(stand_in: Path):
    assert launch.launch(["sft"], Allocation(1, 0, 1)) == 0
    (learner,) = learners(stand_in)
    assert learner[launch.EXPECTED] == "1"
    assert "WORLD_SIZE" not in learner


def test_a_process_for_each_gpu(stand_in: Path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    assert launch.launch(["sft"], Allocation(1, 2, 1)) == 0
    found = learners(stand_in)
    assert [one["RANK"] for one in found] == ["0", "1"]
    assert {one["WORLD_SIZE"] for one in found} == {one[launch.EXPECTED] for one in found} == {"2"}


@pytest.mark.parametrize("gpus", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_a_request_to_stop_reaches_every_process(stand_in: Path, gpus: int, number: int):
    code = (
        "import sys; from medtune.orchestration import launch; "
        "launch.MEDTUNE = (sys.executable, '-m', 'standin'); "
        f"sys.exit(launch.launch(['wait'], launch.Allocation(1, {gpus}, 1)))"
    )
    run = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    limit = time.monotonic() + 60
    while len(learners(stand_in) if list(stand_in.glob("learner-*")) else []) < gpus:
        assert time.monotonic() < limit
        time.sleep(0.1)
    time.sleep(0.3)
    run.send_signal(number)
    assert run.wait(timeout=60) == (7 if gpus == 1 else 1)  # torchrun's own code


def test_what_the_job_was_not_given_is_refused(stand_in: Path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with pytest.raises(ConfigError, match="sees GPUs 0, expected 2"):
        launch.launch(["sft"], Allocation(1, 2, 1))
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    with pytest.raises(ConfigError, match="runs this job 2 times at once"):
        launch.launch(["sft"], Allocation(1, 1, 1))
    with pytest.raises(ConfigError, match="2 nodes, but this is no Slurm job"):
        launch.launch(["sft"], Allocation(2, 1, 1))
    assert learners(stand_in) == []


def test_a_process_that_trains_alone_by_mistake_stops(monkeypatch):
    launch.check_processes()
    monkeypatch.setenv(launch.EXPECTED, "2")
    with pytest.raises(ConfigError, match="1 processes train together, 2 were requested"):
        launch.check_processes()


def test_a_rollout_server_takes_the_last_gpu(stand_in: Path, monkeypatch, free_port: int):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3,7")
    rollouts = RolloutConfig(engine="server", server=f"http://127.0.0.1:{free_port}")
    stage = grpo_stage("qwen2_5_vl", rollouts=rollouts)
    command = ["grpo", "--config", stage.model_dump_json(), "--start", "s", "--dataset", "d"]
    assert launch.launch(command, Allocation(1, 3, 1, rollout_gpus=1)) == 0
    arguments, server = json.loads((stand_in / "server.json").read_text())
    assert arguments[1:] == [
        *("rollout-server", *command[1:]),
        *("--host", "127.0.0.1", "--port", str(free_port)),
    ]
    found = learners(stand_in)
    assert len(found) == 2
    assert server["CUDA_VISIBLE_DEVICES"] == "7"
    assert {one["CUDA_VISIBLE_DEVICES"] for one in found} == {"2,3"}
    assert {one[launch.SECRET] for one in found} == {server[launch.SECRET]}
    monkeypatch.setenv("BROKEN", "1")
    with pytest.raises(ModelError, match="ended with 3"):
        launch.launch(command, Allocation(1, 3, 1, rollout_gpus=1))


@pytest.mark.parametrize("given", [Allocation(1, 1, 1, 1), Allocation(1, 4, 1, 2)])
def test_a_rollout_server_takes_one_of_several(stand_in: Path, given: Allocation):
    with pytest.raises(ConfigError, match="give it 1 of several GPUs"):
        launch.launch(["grpo"], given)


@pytest.fixture
def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]
