"""Conversion of one shard of cases, the work of one job; after a crash it goes on where it was."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

from medtune.console import track
from medtune.files import canonical_json, read_json, sha256, sha256_text
from medtune.media.convert import Converted, convert_case
from medtune.sources.base import Case
from medtune.sources.check import CheckedCase
from medtune.stages import ConvertStage
from medtune.tables import read_records, write_records


class Journal:
    """Converted cases of an unfinished shard, one JSON line each, synced as they are done.

    A line is used again only for the same case, files and configuration; a torn last line is
    ignored. The journal is removed when the shard's table has been written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.done: dict[str, Converted] = {}
        for line in path.read_bytes().splitlines() if path.is_file() else []:
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:
                continue
            self.done[entry["key"]] = Converted.model_validate(entry["record"])

    def find(self, key: str, folder: Path) -> Converted | None:
        """Return what was recorded under a key, if its video is still whole."""
        record = self.done.get(key)
        if record is None:
            return None
        video = folder / record.case.source / record.media.path
        whole = video.is_file() and sha256(video) == record.media.sha256
        return record if whole else None

    def add(self, key: str, record: Converted) -> None:
        """Append a record and sync it to disk."""
        text = canonical_json({"key": key, "record": record.model_dump(mode="json")})
        # A new line first: the last one may be torn.
        with self.path.open("ab") as file:
            file.write(f"\n{text}\n".encode())
            file.flush()
            os.fsync(file.fileno())

    def remove(self) -> None:
        """Forget everything."""
        self.path.unlink(missing_ok=True)


def convert_shard(
    stage: ConvertStage, cases: Sequence[Case], verified: Path, summary: Path, output: Path
) -> None:
    """Write the videos of a shard's accepted cases, then `output`, the table of the shard.

    Videos go to `<folder of output>/<source>/<case>.mp4`.

    Args:
        stage: The configuration.
        cases: The cases of the shard.
        verified: Table written by `verify-shard` for this shard.
        summary: Summary written by `findings`.
        output: The table to write.
    """
    accepted = set(read_json(summary)["accepted"])
    hashes = {case.case: case.files for case in read_records(verified, CheckedCase)}
    folder = output.parent
    folder.mkdir(parents=True, exist_ok=True)
    journal = Journal(folder / f".partial-{output.stem}.jsonl")
    converted = []
    for case in track([case for case in cases if case.id in accepted], "convert cases"):
        inputs = {"case": case.model_dump(mode="json"), "files": hashes[case.id]}
        key = sha256_text(canonical_json(inputs | {"stage": stage.model_dump(mode="json")}))
        record = journal.find(key, folder)
        if record is None:
            record = convert_case(
                case, stage.task, stage.media, folder / case.source, hashes[case.id]
            )
            journal.add(key, record)
        converted.append(record)
    write_records(output, converted)
    journal.remove()
