"""What an unfinished shard has done so far, so that a second run goes on after a crash."""

import json
import os
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import BaseModel

from medtune.files import canonical_json

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
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.done: dict[str, R] = {}
        for line in self.path.read_bytes().splitlines() if self.path.is_file() else []:
            try:
                entry = json.loads(line)
                self.done[entry["key"]] = model.model_validate(entry["record"])
            except (ValueError, KeyError, TypeError):  # torn, or of another version
                continue

    def add(self, key: str, record: R) -> None:
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
