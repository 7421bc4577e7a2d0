"""Time and memory from raw tables and reports of a made MIMIC-CXR to samples and views.

    python benchmarks/chest_xray.py [--rows 23000 230000] [--folder FOLDER]

The made set has tables and one report file for each study as published; its films are links to one
small file, since no image is read here. Each step runs in one process of its own for each size:
the peak of resident memory (Linux) must not grow with the rows.

A further step is one more function in `STEPS`: it gets the made data's folder and the output
folder, which holds what the steps before it wrote.
"""

import argparse
import csv
import gzip
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from medtune.config.chest_sources import (
    ChestSourceConfig,
    ChestSplitsConfig,
    ChestVerificationConfig,
)
from medtune.config.films import FilmSplitsPart, FilmTextsPart
from medtune.config.stages import FilmAnnotateStage, ViewsStage
from medtune.dataset.film_shards import INDEX, MEDIA, read_shard, shard_names, table
from medtune.dataset.film_splits import settle_splits
from medtune.dataset.films import REGISTRY, SUMMARY, annotate_films
from medtune.dataset.views import write_views
from medtune.geometry.image import ImageGeometry
from medtune.media.film_shard import ConvertedImage
from medtune.records.sample import Media
from medtune.runtime.files import sha256_text, write_manifest
from medtune.runtime.tables import write_records
from medtune.sources.chest.index import read_films, write_index
from medtune.sources.chest.labels import LABELS, NO_FINDING
from medtune.sources.chest.splits import (
    check_leaks,
    film_split,
    read_splits,
)

LINKS = 30_000  # a file system allows no more than about 65,000 links to one file
WORDS = ("the", "lungs", "are", "clear", "without", "effusion", "or", "focal", "opacity", "lobe")
METADATA = ("dicom_id", "subject_id", "study_id", "ViewPosition", "Rows", "Columns")


def made_studies(rows: int) -> Iterator[tuple[int, int, list[str]]]:
    """Yield (subject, study, its films) until there are `rows` films."""
    chance = random.Random(1)  # noqa: S311 - made data
    film, study, subject = 0, 50_000_000, 10_000_000
    while film < rows:
        subject += 1
        for _ in range(chance.choice((1, 1, 2, 3, 6))):
            study += chance.randint(1, 9)
            names = [f"{chance.getrandbits(160):040x}" for _ in range(chance.choice((1, 2)))]
            names = names[: rows - film]
            film += len(names)
            if names:
                yield subject, study, names


def made_report(chance: random.Random) -> str:
    """Return a report of usual length."""
    said = [" ".join(chance.choices(WORDS, k=9)) + "." for _ in range(chance.randint(4, 12))]
    body = "\n ".join(said)
    return (
        "                                 FINAL REPORT\n EXAMINATION:  CHEST (PA AND LAT)\n\n"
        f" INDICATION:  cough.\n\n COMPARISON:  None.\n\n FINDINGS: \n\n {body}\n\n"
        f" IMPRESSION: \n\n {said[0]}\n"
    )


def made_labels(chance: random.Random) -> list[str]:
    """Return a row of the labeler: mostly blank."""
    return [chance.choice(("", "", "", "", "1.0", "0.0", "-1.0")) for _ in LABELS] + [""]


def make_mimic(folder: Path, rows: int) -> None:
    """Write tables, reports and linked films of `rows` films."""
    chance = random.Random(2)  # noqa: S311 - made data
    folder.mkdir(parents=True)
    with (
        gzip.open(folder / "mimic-cxr-2.0.0-metadata.csv.gz", "wt", newline="") as metadata,
        gzip.open(folder / "mimic-cxr-2.0.0-split.csv.gz", "wt", newline="") as split,
        gzip.open(folder / "mimic-cxr-2.0.0-chexpert.csv.gz", "wt", newline="") as chexpert,
    ):
        write_films, write_split, write_labels = map(csv.writer, (metadata, split, chexpert))
        write_films.writerow(METADATA)
        write_split.writerow(("dicom_id", "study_id", "subject_id", "split"))
        write_labels.writerow(("subject_id", "study_id", *LABELS, NO_FINDING))
        number = 0
        for subject, study, names in made_studies(rows):
            own = folder / f"files/p{str(subject)[:2]}/p{subject}"
            (own / f"s{study}").mkdir(parents=True)
            (own / f"s{study}.txt").write_text(made_report(chance))
            write_labels.writerow((subject, study, *made_labels(chance)))
            part = "test" if subject % 50 == 0 else "validate" if subject % 50 == 1 else "train"
            for name in names:
                write_films.writerow((name, subject, study, "PA", 3056, 2544))
                write_split.writerow((name, study, subject, part))
                shared = folder / f"film{number // LINKS}.jpg"
                shared.exists() or shared.write_bytes(b"\xff\xd8")
                os.link(shared, own / f"s{study}/{name}.jpg")
                number += 1


def index(data: Path, out: Path) -> None:
    """Raw tables and reports -> Film records in Parquet shards, and findings."""
    source = ChestSourceConfig(name="mimic", kind="mimic_cxr", root=str(data), reports=str(data))
    paths = out / "findings.parquet", out / SUMMARY
    write_index([source], ChestVerificationConfig(), out / INDEX, *paths)


def splits(data: Path, out: Path) -> None:
    """Films and hashes of their files -> registry of patients' splits, checked for leaks."""
    settle_splits(FilmSplitsPart(), 1, out, out / REGISTRY)
    chosen = read_splits(out / REGISTRY)
    used = (
        (film, film_split(film, chosen, ChestSplitsConfig())) for film in read_films(out / INDEX)
    )
    check_leaks((film.patient_id, split) for film, split in used if split)


def stored(data: Path, out: Path) -> None:
    """Tables of stored images, as if they had been converted: that is benchmarked by DICOM."""
    geometry = ImageGeometry(source_size=(2544, 3056), size=(426, 512), frame_size=(448, 512))
    for shard in shard_names(out):
        records = [
            ConvertedImage(
                source=film.source,
                image_id=film.image_id,
                path=film.path,
                source_sha256=sha256_text(film.image_id),
                media=Media(
                    kind="image",
                    path=f"{film.source}/{film.image_id}.png",
                    width=448,
                    height=512,
                    frames=1,
                    fps=0,
                    sha256=sha256_text(film.image_id),
                ),
                geometry=geometry,
            )
            for film in read_shard(out, shard)
        ]
        write_records(table(out, MEDIA, shard), records)


def dataset(data: Path, out: Path) -> None:
    """Films -> samples as Arrow."""
    source = ChestSourceConfig(name="mimic", kind="mimic_cxr", root=str(data), reports=str(data))
    stage = FilmAnnotateStage(films=FilmTextsPart(sources=[source]))
    manifest = out / INDEX / "manifest.json"
    write_manifest(manifest, [], {}, stage="film_index")
    annotate_films(stage, out, out / "datasets")


def views(data: Path, out: Path) -> None:
    """Samples -> LLaVA JSON and Parquet for EasyR1; there is nothing for Seg-Zero."""
    config = {"task": {"name": "chest_xray"}, "model": {"family": "qwen3_vl"}, "views": {}}
    write_views(ViewsStage.model_validate(config), out / "datasets", out / "datasets")


STEPS: dict[str, Callable[[Path, Path], None]] = {
    "index": index,
    "stored": stored,
    "splits": splits,
    "dataset": dataset,
    "views": views,
}


def measure(step: str, data: Path, out: Path) -> None:
    """Run one step and print its seconds, processor seconds and peak memory."""
    start, used = time.perf_counter(), time.process_time()
    STEPS[step](data, out)
    seconds, processor = time.perf_counter() - start, time.process_time() - used
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"  {step:8} {seconds:7.1f} s, {processor:7.1f} s of a core, peak {peak:5.0f} MiB")


def main() -> None:
    """Print the figures of every step for every size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[23_000, 230_000])
    parser.add_argument("--folder", help="where to write; default: a temporary folder")
    parser.add_argument("--step", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        step, data, out = arguments.step
        measure(step, Path(data), Path(out))
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        for rows in arguments.rows:
            data, out = Path(name) / f"mimic{rows}", Path(name) / f"out{rows}"
            start = time.perf_counter()
            make_mimic(data, rows)
            print(f"{rows} films (made in {time.perf_counter() - start:.0f} s)", flush=True)
            for step in STEPS:
                command = [sys.executable, __file__, "--step", step, str(data), str(out)]
                subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
