"""Conversion of one shard of cases, the work of one job.

What was done is kept in a journal: after a crash, or when a case of the shard changed, only cases
are converted that it does not know.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medtune.config.stages import ConvertStage
from medtune.geometry.volume import step_mm
from medtune.media.convert import Converted, convert_case
from medtune.media.headers import SQUARE
from medtune.media.journal import Journal
from medtune.records.case import Volume
from medtune.records.issue import CheckedCase
from medtune.records.volume_files import volume_files
from medtune.runtime.console import log, track
from medtune.runtime.files import canonical_json, sha256, sha256_text
from medtune.runtime.fingerprint import code_sha256
from medtune.runtime.tables import read_records, write_records


def _is_whole(record: Converted, folder: Path) -> bool:
    """Return whether the video of a record is as it was written."""
    video = folder / record.case.source / record.media.path
    return video.is_file() and sha256(video) == record.media.sha256


def _content(checked: CheckedCase) -> dict[str, Any]:
    """Return what a case is made of, whatever its files are called."""
    case = checked.case

    def content(volume: Volume | None) -> list[Any] | None:
        if volume is None:
            return None
        files = [checked.files.get(path) for path in volume_files(volume.path)]
        return [files, volume.channel, volume.nifti_form]

    images = {name: content(volume) for name, volume in case.images.items()}
    masks = [content(case.mask_volume), content(case.brain_volume)]
    return {"case": case.without_files().model_dump(mode="json"), "images": images, "masks": masks}


def convert_shard(stage: ConvertStage, verified: Path, output: Path) -> None:
    """Write the videos of a shard's sound cases, then `output`, the table of the shard.

    Videos go to `<folder of output>/<source>/<case>.mp4`. Nothing but the shard decides what is
    written, so that a fault elsewhere does not convert everything again: cases that only a
    comparison with other shards excludes are converted, and left out of the data set.

    Args:
        stage: The configuration.
        verified: Table written by `verify-shard` for this shard.
        output: The table to write.
    """
    folder = output.parent
    journal = Journal(folder / f".done-{output.stem}.jsonl", Converted)
    code = code_sha256("convert")
    done = {}
    checked = [one for one in read_records(verified, CheckedCase) if not one.has_errors]
    for one in track(checked, "convert cases"):
        inputs = {"case": _content(one), "code": code, "stage": stage.model_dump(mode="json")}
        key = sha256_text(canonical_json(inputs))
        record = journal.done.get(key)
        if record is None or not _is_whole(record, folder):
            target = folder / one.case.source
            record = convert_case(one.case, stage.task, stage.media, target, one.files)
            record = record.model_copy(update={"case": one.case.without_files()})
            journal.add(key, record)
        done[key] = record
    converted = list(done.values())
    write_records(output, converted)
    journal.keep(done)
    say_stretched(converted)


def say_stretched(converted: Sequence[Converted]) -> None:
    """Say which cases are shown with pixels that are far from square."""
    sides = [np.linalg.norm(step_mm(one.geometry), axis=0)[:2] for one in converted]
    odd = [n for n, (x, y) in enumerate(sides) if max(x, y) > SQUARE * min(x, y)]
    if odd:
        width, height = sides[odd[0]]
        log(
            f"warning: {len(odd)} of {len(converted)} cases are shown with pixels far from square, "
            f"such as {converted[odd[0]].case.id} ({width:.2f} x {height:.2f} mm); "
            "choose another `media.tile_size`"
        )
