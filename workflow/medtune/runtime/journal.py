"""Append-only files of JSON lines that survive a kill: a line is synced before the next begins."""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from medtune.runtime.files import canonical_json


class Line(NamedTuple):
    """An entry of a journal, and where its line lies in the file, in bytes."""

    entry: dict[str, Any]
    start: int
    length: int


def append(path: Path, entry: Mapping[str, Any]) -> Line:
    """Append an entry to a journal, on disk when this returns; return where it lies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = canonical_json(dict(entry)).encode()
    with path.open("ab") as file:
        # A new line first: the last one may be torn.
        start = file.tell() + 1
        file.write(b"\n" + text + b"\n")
        file.flush()
        os.fsync(file.fileno())
    return Line(dict(entry), start, len(text))


def entries(path: Path) -> Iterator[Line]:
    """Yield the entries of a journal; torn lines are left out, and no file is an empty one."""
    if not path.is_file():
        return
    start = 0
    with path.open("rb") as file:
        for line in file:
            try:
                entry = json.loads(line)
            except ValueError:
                entry = None
            if isinstance(entry, dict):
                yield Line(entry, start, len(line))
            start += len(line)
