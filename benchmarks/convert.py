"""Speed and memory of the conversion, against the least that it could cost.

    python benchmarks/convert.py [--root FOLDER --kind KIND] [--rounds 5]

Without a folder it makes a phantom of BraTS size (240 x 240 x 155, four modalities). The floor is
what no converter can avoid: to unpack the same files into arrays, and to encode the same frames
once they are ready. It is measured in turn with the conversion, which also decodes every video
again to compare it.
"""

import argparse
import cProfile
import gzip
import io
import pstats
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from medtune.config.data import MediaConfig, PhantomConfig, SourceConfig, TargetConfig
from medtune.media.convert import convert_case
from medtune.media.video import decode, encode, read_video
from medtune.records.case import Case
from medtune.sources import find_cases
from medtune.sources.brain.phantom import write_phantom

MEDIA, TARGET = MediaConfig(), TargetConfig()


def files_of(case: Case) -> list[Path]:
    """Return the files of a case, each once."""
    paths = {volume.path for volume in case.images.values()} | {case.mask or ""}
    return [Path(path) for path in sorted(paths - {""})]


def unpack(case: Case) -> int:
    """Unpack every file of a case into an array; return its bytes."""
    size = 0
    for path in files_of(case):
        raw = path.read_bytes()
        data = gzip.decompress(raw) if path.suffix == ".gz" else raw
        size += np.frombuffer(data, dtype=np.uint8).size
    return size


def floor(case: Case, frames: np.ndarray, folder: Path) -> tuple[float, float]:
    """Return the seconds to unpack the files and encode ready frames, and to decode them again."""
    start = time.perf_counter()
    unpack(case)
    encode(folder / "floor.mp4", frames, MEDIA.fps, MEDIA.codec)
    encoded = time.perf_counter()
    for _ in read_video(folder / "floor.mp4"):
        pass
    return encoded - start, time.perf_counter() - encoded


def convert(case: Case, folder: Path) -> float:
    """Return the seconds that the conversion takes."""
    start = time.perf_counter()
    convert_case(case, TARGET, MEDIA, folder)
    return time.perf_counter() - start


def worker(case: Case, rounds: int, number: int) -> None:
    """Convert one case again and again in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(rounds):
            convert(case, Path(folder) / str(number))


def throughput(case: Case, processes: int, rounds: int) -> float:
    """Return the cases per second of some processes at once, their start not counted."""
    context = get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        list(pool.map(partial(worker, case, 1), range(processes)))  # imports and caches
        start = time.perf_counter()
        list(pool.map(partial(worker, case, rounds), range(processes)))
        return processes * rounds / (time.perf_counter() - start)


def peak_memory(root: str, kind: str) -> float:
    """Return the peak resident memory, in MiB, of a process that converts one case (Linux)."""
    code = (
        "import sys, tempfile; from pathlib import Path; sys.path.insert(0, sys.argv[1]);"
        f"import convert; case = convert.cases({root!r}, {kind!r})[0];"
        "convert.convert(case, Path(tempfile.mkdtemp()));"
        "print(Path('/proc/self/status').read_text())"
    )
    command = [sys.executable, "-c", code, str(Path(__file__).parent)]
    status = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def cases(root: str, kind: str) -> list[Case]:
    """Return the cases below a folder."""
    return find_cases([SourceConfig(name="benchmark", kind=kind, root=root)])  # type: ignore[arg-type]


def profile(case: Case, folder: Path) -> str:
    """Return where the time of one conversion goes."""
    profiler, text = cProfile.Profile(), io.StringIO()
    profiler.runcall(convert, case, folder)
    pstats.Stats(profiler, stream=text).strip_dirs().sort_stats("tottime").print_stats(12)
    return text.getvalue().split("\n\n", 2)[-1]


def measure(case: Case, rounds: int, folder: Path) -> None:
    """Print the figures of one case."""
    convert(case, folder)
    frames = decode(folder / f"{case.case_id}.mp4")[0][..., 0].copy()
    rows = [(convert(case, folder), *floor(case, frames, folder)) for _ in range(rounds)]
    ours, least, decoding = (statistics.median(column) for column in zip(*rows, strict=True))
    megabytes = unpack(case) / 1e6
    print(f"{case.id}: {megabytes:.0f} MB of voxels, {frames.shape[0]} frames")
    print(f"  conversion {ours:.2f} s, {1 / ours:.2f} cases/s, {megabytes / ours:.0f} MB/s a core")
    print(f"  floor      {least:.2f} s: {ours / least:.2f} times the floor (medians of {rounds})")
    print(
        f"  decoding back, as every video is: {decoding:.2f} s more, "
        f"{ours / (least + decoding):.2f} times the floor with it"
    )


def main() -> None:
    """Print all figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", help="folder with BraTS cases; default: a phantom")
    parser.add_argument("--kind", default="brats2023_gli")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, root = Path(name), arguments.root
        if root is None:
            root = str(folder / "phantom")
            values = {"root": root, "patients": 1, "shape": (240, 240, 155), "follow_up": 0.0}
            write_phantom(PhantomConfig(**values, healthy=0.0), seed=1)
        print(
            f"peak memory of a process that converts one case: "
            f"{peak_memory(root, arguments.kind):.0f} MiB"
        )
        case = cases(root, arguments.kind)[0]
        measure(case, arguments.rounds, folder / "out")
        one, two = (throughput(case, count, arguments.rounds) for count in (1, 2))
        print(f"  1 process {one:.2f} cases/s, 2 processes {two:.2f}: {two / one:.2f} times")
        print(profile(case, folder / "out"))


if __name__ == "__main__":
    main()
