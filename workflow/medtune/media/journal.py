"""What an unfinished shard has done so far, so that a second run goes on after a crash."""

from pathlib import Path
from typing import Generic, TypeVar

from pydantic import BaseModel

from medtune.journal import append, entries

R = TypeVar("R", bound=BaseModel)


class Journal(Generic[R]):
    """Records of an unfinished shard, one JSON line each, synced as they are done.

    What cannot be read is ignored. The journal is removed when the shard's table has been written.

    Args:
        table: The shard's table, beside which the journal lies.
        model: What a record is.

    Attributes:
        done: Key -> record. A key names everything that the record was made of.
    """

    def __init__(self, table: Path, model: type[R]) -> None:
        self.path = table.with_name(f".partial-{table.stem}.jsonl")
        self.done: dict[str, R] = {}
        for line in entries(self.path):
            try:
                self.done[line.entry["key"]] = model.model_validate(line.entry["record"])
            except (ValueError, KeyError):  # of another version
                continue

    def add(self, key: str, record: R) -> None:
        """Append a record and sync it to disk."""
        append(self.path, {"key": key, "record": record.model_dump(mode="json")})

    def remove(self) -> None:
        """Forget everything."""
        self.path.unlink(missing_ok=True)
