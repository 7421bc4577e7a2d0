"""Answers that were generated once, kept so that no crash and no rerun generates them again.

A model has a folder of journals, one for each shard, which all its shards read: the number of
shards may change and the split may grow. A batch is one line, synced before the next one begins;
a torn line is ignored. When a shard's table has been written, its journal forgets the answers of
other weights, engines or code; nothing else is ever removed, and the whole folder may be.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medtune.files import atomic_path, canonical_json

Reply = dict[str, Any]


class AnswerCache:
    """The answers of one model.

    Args:
        folder: The model's folder of journals.
        shard: Which of them is written.
        origin: Hash of what all its answers come from: weights, engine and code.
    """

    def __init__(self, folder: Path, shard: int, origin: str) -> None:
        self.path, self.origin = folder / f"{shard:04d}.jsonl", origin
        self.known: dict[str, Reply] = {}
        for journal in sorted(folder.glob("*.jsonl")):
            for line in journal.read_bytes().splitlines():
                if entry := self._entry(line):
                    self.known |= entry["answers"]

    def _entry(self, line: bytes) -> dict[str, Any] | None:
        """Return what a line says, or None if it is torn or of another origin."""
        try:
            entry: dict[str, Any] = json.loads(line)
        except ValueError:
            return None
        return entry if entry["origin"] == self.origin else None

    def add(self, answers: Mapping[str, Reply]) -> None:
        """Keep the answers of a batch, by key, on disk."""
        self.known |= answers
        text = canonical_json({"origin": self.origin, "answers": dict(answers)})
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # A new line first: the last one may be torn.
        with self.path.open("ab") as file:
            file.write(f"\n{text}\n".encode())
            file.flush()
            os.fsync(file.fileno())

    def tidy(self) -> None:
        """Forget the answers of other origins in the journal of this shard."""
        if self.path.is_file():
            lines = [line for line in self.path.read_bytes().splitlines() if self._entry(line)]
            with atomic_path(self.path) as temporary:
                temporary.write_bytes(b"".join(line + b"\n" for line in lines))
