"""Converted cases to the data set of samples, with one split registry."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from medtune.config.data import TaskConfig
from medtune.config.stages import AnnotateStage
from medtune.media.convert import Converted
from medtune.models.coordinate_format import PIXELS
from medtune.records.sample import INFER, SPLITS, Sample, write_dataset
from medtune.runtime.console import log
from medtune.runtime.files import MANIFEST, atomic_folder, read_json, write_manifest
from medtune.runtime.tables import read_records, write_rows
from medtune.sources.splits import assign_splits, audit
from medtune.tasks.brain.tumor_detection_3d import TumorDetection3D


def make_sample(converted: Converted, split: str, config: TaskConfig, media: str) -> Sample:
    """Return the sample of a converted case.

    Args:
        converted: The case.
        split: Its split.
        config: The task section.
        media: Folder of the sources' media, relative to the data set.
    """
    task, case = TumorDetection3D(config), converted.case
    identity = f"{case.id}/{task.name}"
    truth = converted.truth.model_dump(mode="json") if converted.truth else {}
    path = f"{media}/{case.source}/{converted.media.path}"
    sample = Sample(
        id=identity,
        source=case.source,
        case_id=case.case_id,
        patient_id=case.patient_id,
        split=split,
        task=task.name,
        media=[converted.media.model_copy(update={"path": path})],
        prompt=task.question(identity, converted.geometry, converted.meta["modalities"]),
        target=None,
        truth=truth,
        geometry=converted.geometry.model_dump(mode="json"),
        meta=converted.meta,
    )
    return sample.model_copy(update={"target": task.target(sample, PIXELS)}) if truth else sample


def annotate(
    stage: AnnotateStage, shards: Sequence[Path], verification: Path, folder: Path
) -> None:
    """Write the data set folder: splits and samples, as Arrow.

    Cases without a mask have no truth; they are written to a split of their own, for inference.

    Args:
        stage: The configuration.
        shards: Tables of converted cases.
        verification: Summary of the verification (for cases that share images).
        folder: The data set folder; replaced as a whole.
    """
    summary = read_json(verification)
    accepted = set(summary["accepted"])
    everything = [record for shard in shards for record in read_records(shard, Converted)]
    converted = [record for record in everything if record.case.id in accepted]
    known = [record for record in converted if record.truth]
    same = summary["same_images"]
    volumes = {record.case.id: record.meta["volume_ml"] for record in known}
    cases = [record.case for record in known]
    splits = assign_splits(cases, stage.splits, stage.seed, same, volumes)
    media = os.path.relpath(shards[0].parent, folder)
    samples = [
        make_sample(
            record, splits[record.case.patient_id] if record.truth else INFER, stage.task, media
        )
        for record in converted
    ]
    samples.sort(key=lambda sample: sample.id)
    chosen = {f"{sample.source}/{sample.case_id}": sample.split for sample in samples}
    audit({s: [case for case in cases if chosen[case.id] == s] for s in SPLITS}, same)
    with atomic_folder(folder) as temporary:
        write_dataset(samples, temporary)
        rows = [{"patient_id": name, "split": split} for name, split in sorted(splits.items())]
        write_rows(temporary / "splits.parquet", rows)
        files = [path for path in temporary.rglob("*") if path.is_file()]
        config, parents = stage.model_dump(mode="json"), [*shards, verification]
        write_manifest(temporary, files, config, parents, stage="annotate")
    _summarize(samples)
    log(f"data set: {folder / MANIFEST}")


def _summarize(samples: Sequence[Sample]) -> None:
    counts: Counter[str] = Counter(sample.split for sample in samples)
    for split in (*SPLITS, INFER):
        own = {sample.patient_id for sample in samples if sample.split == split}
        if split != INFER or own:
            log(f"{split}: {counts[split]} samples of {len(own)} patients")
    for split in SPLITS:
        if not counts[split]:
            log(f"warning: the {split} split is empty")
