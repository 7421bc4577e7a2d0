"""Converted cases to the data set of samples, with one split registry."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from medtune.console import say
from medtune.files import MANIFEST, atomic_folder, read_json, write_manifest
from medtune.media.convert import Converted
from medtune.models.dialect import PIXELS
from medtune.schema import SPLITS, Sample, write_dataset
from medtune.splits import assign_splits
from medtune.stages import AnnotateStage
from medtune.tables import read_records, write_rows
from medtune.tasks import get_task


def _sample(converted: Converted, split: str, stage: AnnotateStage, media_root: str) -> Sample:
    task, case = get_task(stage.task), converted.case
    identity = f"{case.id}/{task.name}"
    truth = converted.truth.model_dump(mode="json")
    path = f"{media_root}/{case.source}/{converted.media.path}"
    return Sample(
        id=identity,
        source=case.source,
        case_id=case.case_id,
        patient_id=case.patient_id,
        split=split,
        task=task.name,
        media=[converted.media.model_copy(update={"path": path})],
        prompt=task.question(identity, converted.geometry, converted.meta["modalities"]),
        target=task.target(truth, converted.geometry, PIXELS),
        truth=truth,
        geometry=converted.geometry.model_dump(mode="json"),
        meta=converted.meta,
    )


def annotate(
    stage: AnnotateStage, shards: Sequence[Path], verification: Path, folder: Path
) -> None:
    """Write the data set folder: splits, Arrow, LLaVA JSON and the Seg-Zero view.

    Args:
        stage: The configuration.
        shards: Tables of converted cases.
        verification: Summary of the verification (for cases that share images).
        folder: The data set folder; replaced as a whole.
    """
    converted = [record for shard in shards for record in read_records(shard, Converted)]
    cases = [record.case for record in converted]
    same = read_json(verification)["same_images"]
    splits = assign_splits(cases, stage.splits, stage.seed, same)
    media_root = "../media"
    samples = [_sample(c, splits[c.case.patient_id], stage, media_root) for c in converted]
    samples.sort(key=lambda sample: sample.id)
    with atomic_folder(folder) as temporary:
        write_dataset(samples, temporary)
        rows = [{"patient_id": name, "split": split} for name, split in sorted(splits.items())]
        write_rows(temporary / "splits.parquet", rows)
        files = [path for path in temporary.rglob("*") if path.is_file()]
        write_manifest(temporary, files, stage.model_dump(mode="json"), shards)
    counts: Counter[str] = Counter(sample.split for sample in samples)
    patients = Counter(splits.values())
    for split in SPLITS:
        say(f"{split}: {counts[split]} samples of {patients[split]} patients")
    say(f"data set: {folder / MANIFEST}")
