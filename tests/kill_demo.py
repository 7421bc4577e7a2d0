"""Kill the demo at random moments, again and again, and compare it with an unbroken one.

    python tests/kill_demo.py [--kills 50] [--seed 1] [--folder FOLDER]

The demo in a reduced form runs from nothing to the report. Now snakemake with all its jobs is
killed (SIGKILL), now snakemake alone, whose jobs live on, now one job; then the same command is
given again, after `--unlock`, which Snakemake asks for. In the end every file, manifests included,
must be what an unbroken run writes.
"""

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from conftest import REPOSITORY
from small_experiment import small_config

TARGETS = ("everything", "snakemake", "job")
# Rates and seconds differ from run to run; logs tell of them.
VOLATILE = ("logs", ".timing.", "/cache/")


def snakemake(folder: Path, *arguments: str) -> subprocess.Popen:
    """Start snakemake in a folder with a configuration."""
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "snakemake", "--snakefile", str(REPOSITORY / "Snakefile")),
            *("--configfile", "config.yaml", "--cores", "2", *arguments),
        ],
        cwd=folder,
        env=os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        stdout=subprocess.DEVNULL,
        stderr=(folder / "stderr").open("w"),
        start_new_session=True,
    )


def jobs_of(process: subprocess.Popen) -> dict[psutil.Process, str]:
    """Return the verbs that run below a snakemake, by process."""
    found = {}
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            words = child.cmdline()
        except psutil.Error:
            continue
        if len(words) > 2 and Path(words[1]).name == "medtune":
            found[child] = words[2]
    return found


@dataclass
class Killer:
    """Runs an experiment and kills it.

    Attributes:
        folder: Where the configuration is.
        longest: Longest time a run is left alone, in seconds.
        rng: Decides when and whom.
        killed: How often who was killed.
        verbs: How often which verbs were running.
        runs: How often snakemake was started.
    """

    folder: Path
    longest: float
    rng: random.Random
    killed: Counter[str] = field(default_factory=Counter)
    verbs: Counter[str] = field(default_factory=Counter)
    runs: int = 0

    def run_and_kill(self, target: str) -> bool:
        """Start snakemake and kill something; return whether it came to its end before."""
        self.runs += 1
        process = snakemake(self.folder)
        try:
            process.wait(self.rng.uniform(0.1, 1.0) * self.longest)
        except subprocess.TimeoutExpired:
            self._kill(process, target)
            return False
        return process.returncode == 0

    def _kill(self, process: subprocess.Popen, target: str) -> None:
        jobs = jobs_of(process)
        own = psutil.Process(process.pid)
        if target == "job" and not jobs:
            target = "everything"
        victims = {
            "everything": [own, *own.children(recursive=True)],
            "snakemake": [own],
            "job": self.rng.sample(list(jobs), min(1, len(jobs))),
        }[target]
        for victim in victims:
            try:
                victim.kill()
            except psutil.NoSuchProcess:
                continue
        process.wait()
        self.killed[target] += 1
        self.verbs.update(jobs.values())
        if target != "job":
            snakemake(self.folder, "--unlock").wait()

    def finish(self) -> None:
        """Run to the end; a job that has outlived its snakemake is waited for."""
        for _ in range(60):
            self.runs += 1
            if snakemake(self.folder).wait() == 0:
                return
            text = (self.folder / "stderr").read_text()
            if "is being written by another process" not in text:
                raise RuntimeError(text)
            time.sleep(2)
        raise RuntimeError(f"did not come to its end:\n{text}")


def forget(folder: Path) -> None:
    """Remove all that an experiment has made."""
    for made in ("results", "data"):
        shutil.rmtree(folder / made)


def kill(
    folder: Path,
    kills: int,
    longest: float,
    seed: int,
    forget: Callable[[Path], None] = forget,
) -> Killer:
    """Kill an experiment so often, then let it finish; `forget` undoes one that has ended."""
    killer = Killer(folder, longest, random.Random(seed))
    while killer.killed.total() < kills:
        target = TARGETS[killer.killed.total() % len(TARGETS)]
        if killer.run_and_kill(target):
            forget(folder)
        print(f"run {killer.runs}: killed {dict(killer.killed)}", flush=True)
    killer.finish()
    return killer


def tree(folder: Path) -> dict[str, bytes]:
    """Return every file that an experiment leaves, but for its logs."""
    files = [path for top in ("results", "data") for path in (folder / top).rglob("*")]
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in files
        if path.is_file() and not any(word in str(path.relative_to(folder)) for word in VOLATILE)
    }


def differing(first: Path, second: Path) -> list[str]:
    """Return the files that two experiments do not have alike."""
    one, other = tree(first), tree(second)
    return sorted(name for name in one | other if one.get(name) != other.get(name))


def main() -> None:
    """Run the comparison and exit with 1 if a file differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="Keep everything here.")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        place = arguments.folder or Path(temporary)
        whole, broken = place / "whole", place / "broken"
        for folder in (whole, broken):
            folder.mkdir(parents=True)
            small_config(folder, sft={"save_steps": 1}, grpo={"save_steps": 1})
        start = time.monotonic()
        if snakemake(whole).wait():
            raise RuntimeError((whole / "stderr").read_text())
        seconds = time.monotonic() - start
        killer = kill(broken, arguments.kills, seconds / 3, arguments.seed)
        different = differing(whole, broken)
        count = len(tree(whole))
    print(
        f"an unbroken run takes {seconds:.0f} s; killed {dict(killer.killed)} in {killer.runs} runs"
    )
    print(f"running when killed: {dict(killer.verbs)}")
    print(f"{len(different)} of {count} files differ {different[:10]}")
    sys.exit(bool(different))


if __name__ == "__main__":
    main()
