"""Starts the processes of a training on the GPUs that a job was given: `medtune launch -- sft ...`.

One process for each GPU, started by torchrun, once per node. In a Slurm job of several nodes `srun`
starts one launcher on each; they find each other at the first. Every process is told how many
there must be, and stops if there are not.
"""

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from urllib.parse import urlsplit

import psutil  # type: ignore[import-untyped]

from medtune.config.stages import GrpoStage, load_stage
from medtune.runtime.console import PROCESSES, log
from medtune.runtime.errors import ConfigError, ModelError
from medtune.runtime.stopping import SIGNALS

EXPECTED = "MEDTUNE_PROCESSES"
ON_NODE = "MEDTUNE_ON_NODE"
SECRET = "MEDTUNE_ROLLOUT_SECRET"  # noqa: S105 - the name of the variable
MEDTUNE = (sys.executable, "-m", "medtune")
ADVICE = "see slurm/config.v9+.yaml: nodes, gpus_per_node, rollout_gpus"


@dataclass(frozen=True)
class Allocation:
    """What a training was given: `nodes` with `gpus` and `cpus` each; no GPUs: one process each.

    Of a single node's GPUs a rollout server may take `rollout_gpus`, 0 or 1.
    """

    nodes: int
    gpus: int
    cpus: int
    rollout_gpus: int = 0

    @property
    def learners(self) -> int:
        """Return how many processes train on each node."""
        return max(1, self.gpus) - self.rollout_gpus


def launch(command: Sequence[str], given: Allocation) -> int:
    """Run a training verb in one process for each GPU, and return its exit code.

    Args:
        command: Verb and arguments.
        given: What the job was given.

    Raises:
        ConfigError: It was given something else, or runs more than once.
    """
    if given.nodes > 1 and ON_NODE not in os.environ:
        return _on_every_node(command, given)
    copies = int(os.environ.get("SLURM_STEP_NUM_TASKS", given.nodes))
    if copies != given.nodes:
        found = f"Slurm runs this job {copies} times at once, expected {given.nodes}"
        raise ConfigError("launch", found, "set no `tasks` for this rule in the profile")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given.gpus and visible is not None and len(visible.split(",")) != given.gpus:
        found = f"the job sees GPUs {visible or 'none'}, expected {given.gpus} of them"
        raise ConfigError("launch", found, ADVICE)
    if given.rollout_gpus and (given.nodes > 1 or given.rollout_gpus > 1 or not given.learners):
        found = f"{given.rollout_gpus} of {given.nodes} x {given.gpus} GPUs cannot be a server's"
        raise ConfigError("rollout_gpus", found, "give it 1 of several GPUs of a single node")
    if given.rollout_gpus:
        return _beside_server(command, given)
    return _train(command, given, {})


def check_processes() -> None:
    """Check that as many processes train as the launcher was told.

    Raises:
        ConfigError: There are more or fewer.
    """
    expected = int(os.environ.get(EXPECTED, PROCESSES))
    if expected != PROCESSES:
        found = f"{PROCESSES} processes train together, {expected} were requested"
        raise ConfigError("launch", found, ADVICE)


def _on_every_node(command: Sequence[str], given: Allocation) -> int:
    """Run this launcher again, once on each node of the Slurm job."""
    if "SLURM_JOB_ID" not in os.environ:
        raise ConfigError("launch", f"{given.nodes} nodes, but this is no Slurm job", ADVICE)
    counts = [f"--nodes={given.nodes}", f"--gpus={given.gpus}", f"--cpus={given.cpus}"]
    srun = [
        *("srun", f"--nodes={given.nodes}", f"--ntasks={given.nodes}", "--ntasks-per-node=1"),
        *(f"--gres=gpu:{given.gpus}", f"--cpus-per-task={given.cpus}", "--kill-on-bad-exit=1"),
    ]
    return _run([*srun, *MEDTUNE, "launch", *counts, "--", *command], {ON_NODE: "1"}, _itself)


def _train(command: Sequence[str], given: Allocation, environment: dict[str, str]) -> int:
    """Run the processes of this node."""
    count = f"{given.learners} process{'es' if given.learners > 1 else ''} on this node"
    gpus = (os.environ | environment).get("CUDA_VISIBLE_DEVICES", "as they are")
    log(f"training: {count}, GPUs {gpus if given.gpus else 'none'}, nodes {given.nodes}")
    environment = environment | {EXPECTED: str(given.nodes * given.learners)}
    if given.nodes * given.learners == 1:
        return _run([*MEDTUNE, *command], environment, _itself)
    place = ["--standalone"]
    if given.nodes > 1:
        place = [
            f"--nnodes={given.nodes}",
            f"--node-rank={os.environ['SLURM_NODEID']}",
            # The job's script, and so `srun`, runs on the first node.
            f"--master-addr={os.environ['SLURM_LAUNCH_NODE_IPADDR']}",
            f"--master-port={20000 + int(os.environ['SLURM_JOB_ID']) % 10000}",
        ]
    torchrun = [sys.executable, "-m", "torch.distributed.run", *place]
    # Learners that are to stop save first. Without `--` it would take `--start` for its own.
    each = [f"--nproc-per-node={given.learners}", "--shutdown-timeout=600", "--no-python", "--"]
    each += MEDTUNE
    return _run([*torchrun, *each, *command], environment, psutil.Process.children)


def _itself(process: psutil.Process) -> list[psutil.Process]:
    return [process]


def _run(
    command: Sequence[str],
    environment: dict[str, str],
    learners: Callable[[psutil.Process], list[psutil.Process]],
) -> int:
    """Run a command and return its exit code; a request to stop is passed on to the learners.

    They may get it twice, from Slurm too: as SIGUSR1, which may come more than once.
    """

    def pass_on(*_: object) -> None:
        with suppress(psutil.NoSuchProcess):
            for process in learners(psutil.Process(child.pid)):
                process.send_signal(signal.SIGUSR1)

    before = {number: signal.getsignal(number) for number in SIGNALS}
    child = subprocess.Popen(command, env=os.environ | environment)
    try:
        for number in SIGNALS:
            signal.signal(number, pass_on)
        code = child.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return code if code >= 0 else 128 - code


def _beside_server(command: Sequence[str], given: Allocation) -> int:
    """Train while a rollout server runs on the last GPU."""
    options = dict(pairwise(command))
    rollouts = load_stage(GrpoStage, options["--config"]).grpo.rollouts
    if rollouts.server is None:
        raise ConfigError("rollout_gpus", "is for grpo.rollouts.engine: server", ADVICE)
    url = urlsplit(rollouts.server)
    place = (url.hostname or "", url.port or 80)
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(given.gpus)))).split(",")
    shared = {SECRET: os.environ.get(SECRET) or secrets.token_hex(16)}
    server = subprocess.Popen(
        [*MEDTUNE, "rollout-server"]
        + [word for key in ("--config", "--start", "--dataset") for word in (key, options[key])]
        + ["--host", place[0], "--port", str(place[1])],
        env=os.environ | shared | {"CUDA_VISIBLE_DEVICES": gpus[-1]},
    )
    try:
        _wait_for(server, place)
        return _train(command, given, shared | {"CUDA_VISIBLE_DEVICES": ",".join(gpus[:-1])})
    finally:
        server.kill()
        server.wait()


def _wait_for(server: subprocess.Popen[bytes], place: tuple[str, int]) -> None:
    """Wait until a server accepts connections.

    Raises:
        ModelError: It ended before.
    """
    log("waiting for the rollout server")
    while server.poll() is None:
        try:
            socket.create_connection(place, timeout=1).close()
        except OSError:
            time.sleep(0.5)
        else:
            return
    raise ModelError("rollout server", f"ended with {server.returncode}", "see above")
