"""Atomic writing, hashing, and the manifest that every stage leaves behind."""

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from medtune.errors import DataError

MANIFEST = "manifest.json"
HISTORY = "history.json"  # a training stage's log entries
CURVES = "curves.json"  # its numbers, by step
COMPLETIONS = "completions"  # a GRPO stage's tables of rollouts, one per chosen step
VERSIONED = (
    *("medtune", "torch", "transformers", "trl", "peft", "accelerate", "deepspeed"),
    *("datasets", "pyarrow", "numpy", "nibabel", "av"),
)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content as hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_bytes(content: bytes) -> str:
    """Return the SHA-256 of bytes as hex digits."""
    return hashlib.sha256(content).hexdigest()


def sha256_text(text: str) -> str:
    """Return the SHA-256 of a text (UTF-8) as hex digits."""
    return sha256_bytes(text.encode())


def canonical_json(value: Any, indent: int | None = None) -> str:
    """Return JSON with sorted keys and no NaN: equal values give equal bytes."""
    return json.dumps(value, sort_keys=True, indent=indent, allow_nan=False, ensure_ascii=False)


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is synced and renamed to `path`.

    After an error or a kill, `path` is either absent, its old self, or complete: never partial.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix is kept, since writers (PyAV, nibabel) choose the format by it.
    temporary = path.with_name(f".partial-{path.name}")
    temporary.unlink(missing_ok=True)
    try:
        yield temporary
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield an empty temporary folder beside `path`; on success it takes the place of `path`."""
    temporary, old = path.with_name(f".partial-{path.name}"), path.with_name(f".old-{path.name}")
    for leftover in (temporary, old):
        shutil.rmtree(leftover, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                sync(file)
        if path.exists():
            path.replace(old)
        temporary.replace(path)
        sync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write canonical, indented JSON atomically."""
    write_text(path, canonical_json(value, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file; a missing or broken one is a `DataError` that names it."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(path, "the file does not exist", "run the stage that writes it") from None
    except json.JSONDecodeError as error:
        raise DataError(
            path, f"not valid JSON ({error})", "delete it and rerun its stage"
        ) from None


def versions() -> dict[str, str]:
    """Return the versions of the packages that decide what comes out of a stage."""
    found = {}
    for name in VERSIONED:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def git_commit() -> str:
    """Return the commit of the code that runs, with `+` if the tree was modified, or `unknown`."""
    here = Path(__file__).parent
    try:
        commit = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--dirty=+"],
            cwd=here,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit.stdout.strip()


def write_manifest(
    folder: Path,
    files: Iterable[Path],
    config: Mapping[str, Any],
    parents: Iterable[Path] = (),
    **facts: Any,
) -> None:
    """Write `folder/manifest.json`, last of all the files of a stage.

    It holds the SHA-256 of every file, the resolved configuration, the package versions, the
    code's commit, the SHA-256 of the parents' manifests, and further facts about the result.
    """
    listed = {str(file.relative_to(folder)): sha256(file) for file in sorted(files)}
    manifest = {
        "files": listed,
        "config": dict(config),
        "versions": versions(),
        "commit": git_commit(),
        "parents": {str(parent): sha256(parent) for parent in parents},
    }
    write_json(folder / MANIFEST, facts | manifest)


def check_manifest(path: Path) -> dict[str, Any]:
    """Return a manifest after checking that its files exist and hash to what it says.

    Raises:
        DataError: A listed file is missing or was changed since the manifest was written.
    """
    manifest: dict[str, Any] = read_json(path)
    for name, expected in manifest["files"].items():
        file = path.parent / name
        if not file.is_file():
            raise DataError(file, f"listed in {path} but missing", "rerun the stage that wrote it")
        if sha256(file) != expected:
            raise DataError(file, f"changed since {path} was written", "rerun that stage")
    return manifest
