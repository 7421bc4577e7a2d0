"""What is there instead of a file that is missing, for errors that lead on."""

import difflib
import re
from collections.abc import Iterable
from pathlib import Path

SHOWN = 8
# Names this alike are offered as what was meant.
ALIKE = 0.6


def likeliest(name: str, names: Iterable[str]) -> str | None:
    """Return the name that is most like another one, capitals and punctuation aside, or None."""
    plain = {_plain(other): other for other in sorted(names, reverse=True)}
    found = difflib.get_close_matches(_plain(name), plain, n=1, cutoff=ALIKE)
    return plain[found[0]] if found else None


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", " ", name.casefold()).strip()


def whats_there(path: Path) -> str:
    """Say what is there instead of a file that does not exist, and the likeliest match.

    Where its folder is missing too, the last one above it that exists is described.
    """
    if path.is_symlink():
        return f"it is a link to {path.readlink()}, which does not exist"
    if path.is_dir():
        return f"it is a folder that holds {listed(path)}"
    while not path.parent.is_dir() and path.parent != path:
        path = path.parent
    folder, names = path.parent, _entries(path.parent)
    match = likeliest(path.name, names)
    hint = f"; did you mean `{match}`?" if match else ""
    return f"no `{path.name}` in {folder}, which holds {listed(folder)}{hint}"


def listed(folder: Path) -> str:
    """Return the first names in a folder as text, and how many more there are."""
    names = _entries(folder)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more if names else "nothing"


def _entries(folder: Path) -> list[str]:
    """Return the names in a folder, sorted, without those that Finder and archives leave."""
    try:
        return sorted(one.name for one in folder.iterdir() if not one.name.startswith("."))
    except OSError:
        return []
