"""Answers that were generated once, kept so that no crash and no rerun generates them again.

A model has a folder of journals, one for each shard, which all its shards read: the number of
shards may change and the split may grow. A batch is one line, synced before the next one begins;
a torn line is ignored. When a shard's table has been written, its journal forgets the answers of
other weights, engines or code; nothing else is ever removed, and the whole folder may be.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from medtune.runtime.files import atomic_path, canonical_json
from medtune.runtime.journal import append, entries

Completion = dict[str, Any]


class AnswerCache:
    """The answers of one model.

    Args:
        folder: The model's folder of journals.
        shard: Which of them is written.
        origin: Hash of what all its answers come from: weights, engine and code.
    """

    def __init__(self, folder: Path, shard: int, origin: str) -> None:
        self.path, self.origin = folder / f"{shard:04d}.jsonl", origin
        self.known: dict[str, Completion] = {}
        for journal in sorted(folder.glob("*.jsonl")):
            for entry in self._entries(journal):
                self.known |= entry["answers"]

    def _entries(self, journal: Path) -> Iterator[dict[str, Any]]:
        """Yield what a journal holds of this origin."""
        return (line.entry for line in entries(journal) if line.entry["origin"] == self.origin)

    def add(self, answers: Mapping[str, Completion]) -> None:
        """Keep the answers of a batch, by key, on disk."""
        self.known |= answers
        append(self.path, {"origin": self.origin, "answers": dict(answers)})

    def tidy(self) -> None:
        """Forget the answers of other origins in the journal of this shard."""
        if self.path.is_file():
            kept = "".join(f"{canonical_json(one)}\n" for one in self._entries(self.path))
            with atomic_path(self.path) as temporary:
                temporary.write_text(kept, encoding="utf-8")
