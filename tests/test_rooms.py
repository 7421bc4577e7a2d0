"""The package's folders: each imports only what stands before it."""

import ast
from pathlib import Path

import pytest

from medtune.runtime.fingerprint import PACKAGE

# What others use comes first.
ROOMS = (
    *("runtime", "geometry", "config", "records", "llm", "media", "sources", "models", "metrics"),
    *("rewards", "tasks", "texts", "dataset", "orchestration", "training", "evaluation"),
    *("planning", "reporting", "release", "api", "cli", "__main__"),
)


def imported(path: Path) -> set[str]:
    """Return the rooms that a module imports from, anywhere in its code."""
    modules = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules |= {f"{node.module}.{alias.name}" for alias in node.names}
    parts = [module.split(".") for module in modules]
    return {names[1] for names in parts if names[0] == "medtune" and len(names) > 1}


def climbing(package: Path) -> list[str]:
    """Return the imports of rooms that stand later."""
    found = []
    for path in sorted(package.rglob("*.py")):
        room = path.relative_to(package).parts[0].removesuffix(".py")
        later = ROOMS[ROOMS.index(room) + 1 :] if room != "__init__" else ROOMS
        found += [f"{path.relative_to(package)} -> {name}" for name in imported(path) & {*later}]
    return found


def test_imports_point_one_way():
    assert climbing(PACKAGE) == []


def test_every_folder_has_its_place_and_no_module_lies_loose():
    folders = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()}
    loose = {path.stem for path in PACKAGE.glob("*.py")}
    assert loose == {"__init__", "__main__", "api"}
    assert folders | loose == {*ROOMS, "__init__"}


@pytest.mark.parametrize(
    "code",
    [
        "from medtune.cli import main",
        "import medtune.training.sft",
        "from medtune import api",
        "def f():\n    from medtune.tasks.base import Task",
    ],
)
def test_an_import_that_climbs_is_seen(tmp_path, code):
    (tmp_path / "runtime").mkdir()
    (tmp_path / "runtime/files.py").write_text(code)
    assert len(climbing(tmp_path)) == 1
