"""What is there instead of a file that is missing, for errors that lead on."""

import difflib
import re
from bisect import bisect
from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache
from pathlib import Path

from medtune.records.case import is_junk

SHOWN = 8
# Names this alike are offered as what was meant.
ALIKE = 0.6
COMPARED = 200


def likeliest(name: str, names: Iterable[str], alike: float = ALIKE) -> str | None:
    """Return the name that is most like another one, capitals and punctuation aside, or None."""
    plain = {_plain(other): other for other in sorted(names, reverse=True)}
    found = difflib.get_close_matches(_plain(name), plain, n=1, cutoff=alike)
    return plain[found[0]] if found else None


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", " ", name.casefold()).strip()


def is_missing(path: str) -> bool:
    """Return whether there is no such file; one that cannot be opened is there."""
    try:
        Path(path).stat()
    except FileNotFoundError:
        return True
    except (OSError, ValueError):  # ValueError: a path that cannot be one
        return False
    return False


def whats_there(path: Path, taken: Collection[str] = ()) -> str:
    """Say what is there instead of a file that does not exist, and the likeliest match.

    Where its folder is missing too, the last one above it that exists is described.

    Args:
        path: What was looked for.
        taken: Paths of files that something else was found in.
    """
    if path.is_symlink():
        return f"{path} is a link to {path.readlink()}, which does not exist"
    if path.is_dir():
        return f"{path} is a folder; it holds {entries_of(path)}"
    wanted = path
    while not path.parent.is_dir() and path.parent != path:
        path = path.parent
    entries, used = _entries(path.parent), {Path(one).name for one in taken}
    # Of very many, those that begin alike: comparing each would take long.
    start = max(bisect(entries, path.name) - COMPARED, 0)
    names = [name for name in entries[start : start + 2 * COMPARED] if name not in used]
    alike = [name for name in names if Path(name).suffix.lower() in {path.suffix.lower(), ".nii"}]
    match = alike[0] if used and len(alike) == 1 else likeliest(path.name, names)
    hint = f"; did you mean `{match}`?" if match else ""
    besides = ", besides what was taken," if used else ""
    asked = f" (for {wanted})" if wanted != path else ""
    return f"no `{path.name}`{asked} in {path.parent}, which holds{besides} {_listed(names)}{hint}"


def entries_of(folder: Path) -> str:
    """Return the first names in a folder as text, and how many more there are."""
    return _listed(_entries(folder))


def _listed(names: Sequence[str]) -> str:
    """Return the first names as text, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return (", ".join(names[:SHOWN]) or "nothing") + more


def _entries(folder: Path) -> Sequence[str]:
    """Return the names in a folder, sorted, without those that Finder and archives leave."""
    try:
        return _names(folder, folder.stat().st_mtime_ns)
    except OSError:
        return ()


@lru_cache(maxsize=16)  # one folder may hold the files of many cases
def _names(folder: Path, changed: int) -> tuple[str, ...]:
    names = sorted(one.name for one in folder.iterdir())
    return tuple(name for name in names if not name.startswith(".") and not is_junk(name))
