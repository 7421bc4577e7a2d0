"""Conversion of one shard of cases, the work of one job; after a crash it goes on where it was."""

from pathlib import Path

from medtune.console import track
from medtune.files import canonical_json, read_json, sha256, sha256_text
from medtune.fingerprint import code_sha256
from medtune.journal import append, entries
from medtune.media.convert import Converted, convert_case
from medtune.sources.check import CheckedCase
from medtune.stages import ConvertStage
from medtune.tables import read_records, write_records


class Journal:
    """Converted cases of an unfinished shard, one JSON line each, synced as they are done.

    A line is used again only for the same case, files, configuration and code; what cannot be read
    is ignored. The journal is removed when the shard's table has been written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.done: dict[str, Converted] = {}
        for line in entries(path):
            try:
                self.done[line.entry["key"]] = Converted.model_validate(line.entry["record"])
            except (ValueError, KeyError):  # of another version
                continue

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
        append(self.path, {"key": key, "record": record.model_dump(mode="json")})

    def remove(self) -> None:
        """Forget everything."""
        self.path.unlink(missing_ok=True)


def convert_shard(stage: ConvertStage, verified: Path, summary: Path, output: Path) -> None:
    """Write the videos of a shard's sound cases, then `output`, the table of the shard.

    Videos go to `<folder of output>/<source>/<case>.mp4`. Nothing but the shard decides what is
    written, so that a fault elsewhere does not convert everything again: cases that only a
    comparison with other shards excludes are converted, and left out of the data set.

    Args:
        stage: The configuration.
        verified: Table written by `verify-shard` for this shard.
        summary: Summary written by `findings`; that it exists says that the run may go on.
        output: The table to write.
    """
    read_json(summary)
    folder = output.parent
    folder.mkdir(parents=True, exist_ok=True)
    journal, code = Journal(folder / f".partial-{output.stem}.jsonl"), code_sha256("convert")
    converted = []
    checked = [one for one in read_records(verified, CheckedCase) if not one.has_errors]
    for one in track(checked, "convert cases"):
        inputs = {"case": one.case.model_dump(mode="json"), "files": one.files, "code": code}
        key = sha256_text(canonical_json(inputs | {"stage": stage.model_dump(mode="json")}))
        record = journal.find(key, folder)
        if record is None:
            target = folder / one.case.source
            record = convert_case(one.case, stage.task, stage.media, target, one.files)
            journal.add(key, record)
        converted.append(record)
    write_records(output, converted)
    journal.remove()
