"""What the fusion of readers' boxes keeps of VinDr-CXR's training table, by votes and overlap.

python benchmarks/reader_fusion.py TABLE: `annotations_train.csv`, or Kaggle's `train.csv`, which
the wheel of torchxrayvision holds as `vinbigdata-train.csv.gz`. No image is read: sizes, which only
say where boxes end, are made large enough.
"""

import argparse
import csv
import gzip
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

from medtune.config.chest_sources import FusionConfig
from medtune.config.films import TASKS
from medtune.dataset.film_account import Account
from medtune.geometry.image import ImageGeometry
from medtune.records.film import Film, Region
from medtune.records.sample import Media
from medtune.sources.chest.fusion import fuse, undecided
from medtune.sources.chest.vindr_cxr import CORNERS, NOTHING
from medtune.tasks.chest.samples import Extras, make_samples

SIDE = 4000
GEOMETRY = ImageGeometry(source_size=(SIDE, SIDE), size=(512, 512), frame_size=(512, 512))
MEDIA = Media(kind="image", path="x", width=512, height=512, frames=1, fps=0, sha256="0" * 64)
SETTINGS = [(votes, overlap) for votes in (1, 2, 3) for overlap in (0.1, 0.5)]
SHOWN = (2, 0.5)


def films(table: Path) -> Iterator[Film]:
    """Yield the films of a table, as the reader of VinDr-CXR makes them."""
    groups = defaultdict(list)
    opener = gzip.open if table.suffix == ".gz" else open
    with opener(table, "rt", newline="") as file:
        for row in csv.DictReader(file):
            groups[row["image_id"]].append(row)
    for image, rows in sorted(groups.items()):
        said = {row["class_name"] == NOTHING for row in rows}
        regions = tuple(
            Region(
                kind="abnormality",
                name=row["class_name"],
                box=tuple(float(row[corner]) for corner in CORNERS),
                reader=row["rad_id"],
            )
            for row in rows
            if row["class_name"] != NOTHING
        )
        names = {"source": "vindr", "image_id": image, "study_id": image, "patient_id": image}
        size = {"width": SIDE, "height": SIDE}
        normal = said.pop() if len(said) == 1 else None
        yield Film(**names, **size, split="train", path="x", no_finding=normal, regions=regions)


def main() -> None:
    """Print a row for each setting, and the classes of one of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table", type=Path)
    every = list(films(parser.parse_args().table))
    print("| votes | IoU | pairs of film and class | boxes | films asked | normal | not asked |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for votes, overlap in SETTINGS:
        account, tasks = Account(), Counter()
        for film in every:
            fused = fuse(film, FusionConfig(min_readers=votes, iou=overlap))
            account.fused(film, fused)
            extras = Extras(frozenset(TASKS["vindr_cxr"]), undecided=undecided(film, fused))
            for sample in make_samples(fused, GEOMETRY, MEDIA, "train", extras):
                tasks[sample.task] += 1
                tasks["normal"] += sample.truth.get("findings") == []
        detected, boxes = (
            tasks["abnormality_detection"],
            sum(f.boxes_after for f in account.fusion.values()),
        )
        counts = (tasks["abnormality_grounding"], boxes, detected, tasks["normal"])
        shares = " | ".join(f"{count:,}" for count in (*counts, len(every) - detected))
        print(f"| {votes} | {overlap} | {shares} |")
        if (votes, overlap) == SHOWN:
            shown = account
    print(
        "\n| class | films | films kept | boxes | boxes after |"
        "\n| --- | ---: | ---: | ---: | ---: |"
    )
    for (_, name), one in sorted(shown.fusion.items()):
        counts = (one.films_before, one.films_after, one.boxes_before, one.boxes_after)
        print(f"| {name} | {' | '.join(f'{count:,}' for count in counts)} |")


if __name__ == "__main__":
    main()
