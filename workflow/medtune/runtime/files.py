"""Atomic writing, hashing, and the manifest that every stage leaves behind."""

import copy
import fcntl
import hashlib
import json
import os
import shutil
import socket
import stat
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from medtune.runtime.errors import DataError
from medtune.runtime.fingerprint import code_sha256

MANIFEST = "manifest.json"
HISTORY = "history.json"  # a training stage's log entries
CURVES = "curves.json"  # its numbers, by step
COMPLETIONS = "completions"  # a GRPO stage's tables of rollouts, one per chosen step
VERSIONED = (
    *("medtune", "torch", "transformers", "trl", "peft", "accelerate", "deepspeed"),
    *("datasets", "pyarrow", "numpy", "nibabel", "av", "pydicom", "pillow"),
    *("pylibjpeg-libjpeg", "pylibjpeg-openjpeg", "nltk", "rouge-score"),
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


def share(path: Path) -> None:
    """Give a file the permissions that the umask leaves: some libraries write for their user alone.

    Links, which are another's file too, stay as they are.
    """
    mask = os.umask(0o077)
    os.umask(mask)
    status = path.lstat()
    wanted = 0o666 & ~mask
    if stat.S_ISREG(status.st_mode) and status.st_nlink == 1 and status.st_mode & 0o777 != wanted:
        path.chmod(wanted)


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
        share(temporary)
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
        for written in (*temporary.rglob("*"), temporary):
            share(written)
            sync(written)
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


def manifest_of(output: Path) -> Path:
    """Return the manifest of what a stage has written: itself, or the one beside a single file."""
    if output.name == MANIFEST:
        return output
    return output.with_name(f"{output.stem}.{MANIFEST}")


def write_manifest(
    path: Path,
    files: Iterable[Path],
    config: Mapping[str, Any],
    parents: Iterable[Path] = (),
    *,
    stage: str,
    **facts: Any,
) -> None:
    """Write the manifest of a stage, last of all its files.

    It holds the SHA-256 of every file, the resolved configuration and its hash, the hash of the
    stage's code, the commit, the package versions, the SHA-256 of the parents, and further facts
    about the result.

    Args:
        path: The stage's folder, whose manifest is `manifest.json`, or the manifest itself.
        files: What the stage has written.
        config: The configuration it read.
        parents: What it was made from: manifests of folders, or single files with one beside.
        stage: Name of the stage's verb.
        **facts: Anything else worth keeping.
    """
    path = path / MANIFEST if path.is_dir() else path
    manifest = {
        "stage": stage,
        "files": {str(file.relative_to(path.parent)): sha256(file) for file in sorted(files)},
        "config": dict(config),
        "config_sha256": sha256_text(canonical_json(dict(config))),
        "versions": versions(),
        "commit": git_commit(),
        "code": code_sha256(stage),
        "parents": {str(parent): sha256(parent) for parent in parents},
    }
    write_json(path, facts | manifest)


def check_manifest(path: Path) -> dict[str, Any]:
    """Return a manifest after checking that its files exist and hash to what it says.

    Raises:
        DataError: There is none, or a listed file is missing or was changed since it was written.
    """
    manifest: dict[str, Any] = read_json(path)
    for name, expected in manifest["files"].items():
        file = path.parent / name
        if not file.is_file():
            raise DataError(file, f"listed in {path} but missing", "rerun the stage that wrote it")
        if sha256(file) != expected:
            raise DataError(file, f"changed since {path} was written", "rerun that stage")
    return manifest


def check_parents(parents: Iterable[Path]) -> None:
    """Check the manifests of what a stage is about to read.

    Raises:
        DataError: See `check_manifest`.
    """
    for parent in parents:
        check_manifest(manifest_of(parent))


def is_up_to_date(
    path: Path,
    stage: str,
    config: Mapping[str, Any],
    parents: Sequence[Path],
    unused: Iterable[str] = (),
) -> bool:
    """Return whether what a manifest describes is there, and would be made again just so.

    That is so where Snakemake did not live to see a job's end.

    Args:
        path: The manifest.
        stage: Name of the stage's verb.
        config: The configuration it would read.
        parents: What it would be made from.
        unused: Keys of the configuration, such as `sft.logging_steps`, that may differ.

    Raises:
        DataError: See `check_manifest`.
    """
    if not path.is_file():
        return False
    expected = {
        "config": _without(config, unused),
        "parents": {str(parent): sha256(parent) for parent in parents},
        "code": code_sha256(stage),
        "versions": versions(),
    }
    manifest = read_json(path)
    manifest["config"] = _without(manifest["config"], unused)
    if "codes" in manifest or any(manifest[key] != value for key, value in expected.items()):
        return False
    check_parents(parents)
    check_manifest(path)
    return True


def _without(config: Mapping[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    """Return a configuration without some keys of its sections."""
    lasting = copy.deepcopy(dict(config))
    for key in keys:
        *sections, last = key.split(".")
        inner: Any = lasting
        for section in sections:
            inner = inner.get(section) or {}
        inner.pop(last, None)
    return lasting


@contextmanager
def with_manifest(
    stage: str, config: BaseModel, parents: Sequence[Path], *outputs: Path
) -> Iterator[None]:
    """Check the parents of single files before they are written, and write their manifest after.

    Args:
        stage: Name of the stage's verb.
        config: The configuration it reads.
        parents: What it reads. Folders' manifests are checked by who opens the folders.
        *outputs: What it writes; the first gives the manifest its name.

    Raises:
        DataError: See `check_manifest`.
    """
    check_parents(parent for parent in parents if parent.name != MANIFEST)
    yield
    read = config.model_dump(mode="json")
    write_manifest(manifest_of(outputs[0]), outputs, read, parents, stage=stage)


@contextmanager
def exclusive_lock(output: Path) -> Iterator[None]:
    """Let no other process write `output`; the system lets go however this process ends.

    A job outlives a Snakemake that is killed: the next Snakemake must not run it a second time.

    Raises:
        DataError: Another process does.
    """
    path = output.with_name(f".lock-{output.name}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            taken = os.fstat(file.fileno()).st_nlink == 0  # its former owner has just removed it
        except BlockingIOError:
            taken = True
        except OSError:  # the file system has no locks
            taken = False
        if taken:
            file.seek(0)
            raise DataError(
                output,
                f"is being written by another process ({file.read()})",
                "wait until it is done, or end it; then run again",
            )
        file.truncate(0)
        file.write(f"{os.getpid()} on {socket.gethostname()}")
        file.flush()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
