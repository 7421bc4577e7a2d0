"""One training at a time writes a model folder, and none that is there already."""

import fcntl
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from medtune.console import RANK, say
from medtune.errors import ModelError
from medtune.files import MANIFEST, check_manifest, git_commit, read_json, sha256, versions
from medtune.training.together import from_first

MINUTES = 10


@contextmanager
def alone(output: Path) -> Iterator[None]:
    """Keep other runs of a training out of its folder; wait a while for one that is ending.

    A process may outlive its Snakemake, or the node that Slurm gave up. The lock ends with the
    process, however it ends.

    Raises:
        ModelError: Another one has been writing there for all of `MINUTES`.
    """
    path = output.with_name(f".{output.name}.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as lock:
        from_first(lambda: _wait_for(lock, output, time.monotonic() + 60 * MINUTES))
        yield


def _wait_for(lock: IO[str], output: Path, limit: float) -> None:
    """Take a lock, and write down whose it is."""
    waited = False
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            owner = lock.read().strip()
            if time.monotonic() > limit:
                raise ModelError(output, f"{owner} still trains it", "wait, or end it") from None
            if not waited:
                say(f"waiting up to {MINUTES} minutes for {owner}, which trains {output.name}")
            waited = True
            time.sleep(1)
        else:
            break
    job = os.environ.get("SLURM_JOB_ID")
    lock.truncate(0)
    lock.write(f"process {os.getpid()} on {socket.gethostname()}")
    lock.write(f" (Slurm job {job})\n" if job else "\n")
    lock.flush()


def is_made(output: Path, config: Mapping[str, Any], parents: Sequence[Path]) -> bool:
    """Return whether a model is there that this code would train again just so.

    That happens when Snakemake did not live to see a job's end. Code that is not committed could
    be any.

    Args:
        output: Model folder.
        config: The stage's configuration.
        parents: Manifests of what it would start from.
    """
    path = output / MANIFEST
    commit = git_commit()
    if not path.is_file() or commit == "unknown" or commit.endswith("+"):
        return False
    expected = {
        "config": dict(config),
        "parents": {str(parent): sha256(parent) for parent in parents},
        "commit": commit,
        "versions": versions(),
    }
    manifest = read_json(path)
    if any(manifest.get(key) != value for key, value in expected.items()):
        return False
    check_manifest(path)
    if RANK == 0:
        path.touch()
        say(f"{output} is there, of this code, configuration and data; remove it to train it anew")
    return True
