"""Answers of a language model, kept so that no crash and no rerun asks for them again.

A folder holds one journal for each table that is written; all are read, one is appended to. A key
is the hash of all that decides an answer. Only answers are kept, no questions.
"""

import asyncio
import json
from collections import defaultdict
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

from medtune.llm.client import Completion
from medtune.runtime.journal import Line, append, entries


class Place(NamedTuple):
    """Where an answer lies: a shard's answers are not held in memory."""

    path: Path
    start: int
    length: int


class CompletionCache:
    """The answers of a folder.

    Args:
        folder: The folder of journals.
        name: Of the journal that is written; no two processes may write one.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.path = folder / f"{name}.jsonl"
        self._places: dict[str, Place] = {}
        self._asking: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        # Its own last: two jobs at once may have asked one question, and each keeps its answer.
        for journal in sorted(folder.glob("*.jsonl"), key=lambda one: (one == self.path, one)):
            for line in entries(journal):
                self._note(journal, line)

    def _note(self, journal: Path, line: Line) -> None:
        self._places[line.entry["key"]] = Place(journal, line.start, line.length)

    def find(self, key: str) -> Completion | None:
        """Return the answer that is kept under a key, or None."""
        place = self._places.get(key)
        if place is None:
            return None
        with place.path.open("rb") as file:
            file.seek(place.start)
            return Completion.model_validate(json.loads(file.read(place.length))["reply"])

    async def get(
        self, key: str, ask: Callable[[], Awaitable[Completion]]
    ) -> tuple[Completion, bool]:
        """Return the answer to a question, and whether it was kept already.

        Of those who need the same one at once, one asks.

        Args:
            key: Of the question.
            ask: Asks it.
        """
        async with self._asking[key]:
            kept = self.find(key)
            if kept is not None:
                return kept, True
            reply = await ask()
            self._note(self.path, append(self.path, {"key": key, "reply": reply.model_dump()}))
            return reply, False
