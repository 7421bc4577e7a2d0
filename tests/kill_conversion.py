"""Kill a preparation at random moments, again and again, and compare with an unbroken one.

    python tests/kill_conversion.py [--kills 30] [--seed 1]

Snakemake and all its jobs are killed (SIGKILL) in the middle of verification, conversion and
annotation, and started again. In the end every file must be what an unbroken run writes.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

REPOSITORY = Path(__file__).resolve().parents[1]


def write_config(folder: Path, phantom: Path) -> None:
    """Write the demo's configuration with larger volumes in small shards."""
    values = yaml.safe_load((REPOSITORY / "config/config.yaml").read_text())
    values["phantom"] |= {"root": str(phantom), "patients": 24, "shape": [110, 130, 50]}
    values["sources"][0]["root"] = str(phantom)
    values["media"] |= {"shard_size": 5, "tile_size": None}
    (folder / "config.yaml").write_text(yaml.safe_dump(values))


def snakemake(folder: Path, *arguments: str) -> subprocess.Popen:
    """Start snakemake in a process group of its own."""
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "snakemake", "--snakefile", str(REPOSITORY / "Snakefile")),
            *("--configfile", "config.yaml", "--cores", "2", *arguments, "prepare"),
        ],
        cwd=folder,
        env=os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        stdout=subprocess.DEVNULL,
        stderr=(folder / "stderr").open("w"),
        start_new_session=True,
    )


def tree(folder: Path) -> dict[str, bytes]:
    """Return every file a preparation leaves, without its logs."""
    results = folder / "results/demo"
    return {
        str(path.relative_to(results)): path.read_bytes()
        for path in results.rglob("*")
        if path.is_file() and "logs" not in path.parts
    }


def killed(folder: Path, kills: int, longest: float, rng: random.Random) -> int:
    """Kill until it has been done `kills` times or the run is over; return how often."""
    for done in range(kills):
        process = snakemake(folder)
        try:
            process.wait(rng.uniform(0.1, 1.0) * longest)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            snakemake(folder, "--unlock").wait()
            continue
        return done
    return kills


def compare(folder: Path, kills: int, seed: int) -> tuple[int, list[str]]:
    """Return how often a run was killed, and the files that differ from an unbroken one."""
    whole, broken, phantom = folder / "whole", folder / "broken", folder / "phantom"
    for place in (whole, broken):
        place.mkdir()
        write_config(place, phantom)
    start = time.monotonic()
    if snakemake(whole).wait():
        raise RuntimeError((whole / "stderr").read_text())
    # The phantom was made by the unbroken run; what is killed is the rest. A restart loses the
    # time to plan the jobs, so a run of one such length does not come to an end.
    longest, rng, count = (time.monotonic() - start) / 3, random.Random(seed), 0
    while count < kills:
        count += (done := killed(broken, kills - count, longest, rng))
        if count < kills:  # it came to an end too soon: take the last steps away and go on
            print(f"{count} kills, again from the start ({done})", flush=True)
            for path in sorted((broken / "results").rglob("*"), reverse=True):
                path.unlink() if path.is_file() else path.rmdir()
    if snakemake(broken).wait():
        raise RuntimeError((broken / "stderr").read_text())
    expected, found = tree(whole), tree(broken)
    return count, sorted(
        name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)
    )


def main() -> None:
    """Run the comparison and exit with 1 if a file differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        count, different = compare(Path(folder), arguments.kills, arguments.seed)
    print(f"killed {count} times; {len(different)} files differ {different[:10]}")
    sys.exit(bool(different))


if __name__ == "__main__":
    main()
