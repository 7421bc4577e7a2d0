"""Real tables of public sets of films, which ship with torchxrayvision; it is not imported."""

from importlib.util import find_spec
from pathlib import Path

import pytest

_SPEC = find_spec("torchxrayvision")
TABLES = Path(_SPEC.submodule_search_locations[0]) / "data" if _SPEC else Path("none")
needs_tables = pytest.mark.skipif(not TABLES.is_dir(), reason="torchxrayvision is not installed")


def linked(folder: Path, *names: str) -> Path:
    """A folder with links to some of the tables."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).symlink_to(TABLES / name)
    return folder
