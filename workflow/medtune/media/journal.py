"""What has been done of a shard, so that a second run goes on after a crash or a change."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import BaseModel

from medtune.runtime.files import canonical_json, write_text
from medtune.runtime.journal import append, entries

R = TypeVar("R", bound=BaseModel)


class Journal(Generic[R]):
    """Records of a shard, one JSON line each, synced as they are done; torn ones are ignored.

    Args:
        path: The journal's file; it need not exist.
        model: What a record is.

    Attributes:
        done: Key -> record. A key names everything that the record was made of.
    """

    def __init__(self, path: Path, model: type[R]) -> None:
        self.path = path
        self.done: dict[str, R] = {}
        for line in entries(self.path):
            try:
                self.done[line.entry["key"]] = model.model_validate(line.entry["record"])
            except (ValueError, KeyError):  # of another version
                continue

    def add(self, key: str, record: R) -> None:
        """Append a record and sync it to disk."""
        append(self.path, _entry(key, record))

    def keep(self, records: Mapping[str, R]) -> None:
        """Forget everything but these."""
        lines = (canonical_json(_entry(key, record)) + "\n" for key, record in records.items())
        write_text(self.path, "".join(lines))


def _entry(key: str, record: BaseModel) -> dict[str, Any]:
    return {"key": key, "record": record.model_dump(mode="json")}
