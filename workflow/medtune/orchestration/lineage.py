"""Where an artifact comes from: its manifest, those of its parents, back to the raw files."""

import os
from collections import defaultdict
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.tree import Tree

from medtune.media.convert import Converted
from medtune.models.base_reference import REFERENCE, base_path
from medtune.records.issue import CheckedCase
from medtune.runtime.errors import DataError
from medtune.runtime.files import (
    MANIFEST,
    canonical_json,
    manifest_of,
    read_json,
    sha256,
    sha256_text,
)
from medtune.runtime.tables import read_records

WIDE = 1000  # a terminal wraps long lines, a file keeps them whole
HOW = ("stage", "config_sha256", "code", "commit")


@dataclass(frozen=True)
class Artifact:
    """Something that a stage has written.

    Attributes:
        path: The file itself; of a folder its manifest.
        manifest: Where its manifest is.
        said: What the manifest says.
        faults: What is missing, or differs from what was recorded.
    """

    path: Path
    manifest: Path
    said: dict[str, Any]
    faults: list[str] = field(default_factory=list)

    @property
    def how(self) -> tuple[str, ...]:
        """How it was made; what was made alike is shown as one."""
        return tuple(self.said[key] for key in HOW)

    @property
    def name(self) -> str:
        """The folder or file, relative to where the user is."""
        return os.path.relpath(self.path.parent if self.path.name == MANIFEST else self.path)

    def parents(self) -> dict[Path, str]:
        """Return the SHA-256 that its parents had, by path."""
        return {_beside(self.manifest, name): sha for name, sha in self.said["parents"].items()}


def _beside(manifest: Path, name: str) -> Path:
    """Return a path that was given where the workflow ran: there is no telling where but by trying.

    The folder of the experiment may have been moved since, or the user be elsewhere.
    """
    tried = [folder / name for folder in manifest.resolve().parents]
    found = next((path for path in tried if path.exists()), None)
    return Path(os.path.relpath(found)) if found else Path(name)


def find_manifest(path: Path) -> Path:
    """Return the manifest of what a stage has written: a folder, or a file in one.

    Raises:
        DataError: There is none.
    """
    if path.name.endswith(MANIFEST) and path.is_file():
        return path
    if path.is_dir() and (path / MANIFEST).is_file():
        return path / MANIFEST
    folders = [] if path.is_dir() else path.resolve().parents
    found = (one for folder in folders for one in sorted(folder.glob(f"*{MANIFEST}")))
    for manifest in [manifest_of(path), *found]:
        if manifest.is_file() and path.resolve() in _contents(manifest.resolve()):
            return manifest
    raise DataError(path, "no stage has recorded it", "give what a stage of medtune has written")


_sha256 = cache(sha256)  # a parent of many is read once


@cache
def _contents(manifest: Path) -> dict[Path, str]:
    """Return the SHA-256 of every file that a manifest vouches for, by path."""
    said = read_json(manifest)
    found = {manifest.parent / name: sha for name, sha in said.get("files", {}).items()}
    if said.get("stage") == "convert":  # the videos, by way of the table that lists them
        for table in list(found):
            whole = table.is_file() and _sha256(table) == found[table]
            for one in read_records(table, Converted) if whole else []:
                video = table.parent / one.case.source / one.media.path
                found[video] = one.media.sha256
    return found


def load_artifact(path: Path, expected: str | None = None) -> Artifact:
    """Return an artifact, with what is wrong about it.

    Args:
        path: The folder or file.
        expected: SHA-256 that it had when something was made from it.

    Raises:
        DataError: No stage has recorded it.
    """
    manifest = find_manifest(path)
    path = manifest if path.is_dir() else path
    said = read_json(manifest)
    lacking = [key for key in (*HOW, "files", "parents") if key not in said]
    if lacking:
        raise DataError(manifest, f"has no {lacking}: another version wrote it", "rerun its stage")
    faults = []
    if expected is not None and _sha256(path) != expected:
        faults.append("changed since it was used")
    files = [manifest.resolve().parent / name for name in said["files"]]
    for file in {path.resolve(), *files} - {manifest.resolve()}:
        if not file.is_file():
            faults.append(f"{file.name} is missing")
        elif _sha256(file) != _contents(manifest.resolve())[file]:
            faults.append(f"{file.name} changed since it was written")
    return Artifact(path, manifest, said, sorted(faults))


class Lineage:
    """The tree of an artifact.

    Args:
        path: The artifact.
        files: Whether raw files are read again and listed.

    Attributes:
        tree: What is shown.
        sound: Whether all is as it was recorded.
    """

    def __init__(self, path: Path, files: bool) -> None:
        self.files, self.sound = files, True
        self.seen: set[Path] = set()
        # Of a video, the raw files of its case alone.
        self.case = f"{path.parent.name}/{path.stem}" if path.suffix == ".mp4" else None
        self.tree = Tree("", hide_root=True)
        self._grow(self.tree, [load_artifact(path)])

    def _grow(self, tree: Tree, artifacts: list[Artifact]) -> None:
        """Add artifacts, those made alike as one branch, and all that they come from."""
        alike: dict[tuple[str, ...], list[Artifact]] = defaultdict(list)
        for one in artifacts:
            alike[one.how].append(one)
        for group in alike.values():
            branch = tree.add(self._label(group))
            for text in sorted({text for one in group for text in one.faults}):
                self._fault(branch, text)
            fresh = [one for one in group if one.path not in self.seen]
            self.seen |= {one.path for one in fresh}
            self._add_sources(branch, fresh)
            parents = {path: sha for one in fresh for path, sha in one.parents().items()}
            self._grow(branch, self._load(branch, parents))

    def _load(self, branch: Tree, parents: dict[Path, str]) -> list[Artifact]:
        """Return the parents that are recorded; what is lost is marked."""
        loaded = []
        for path, sha in sorted(parents.items()):
            try:
                loaded.append(load_artifact(path, sha))
            except DataError as error:
                self._fault(branch, f"{error.where}: {error.found}")
        return loaded

    def _label(self, group: list[Artifact]) -> str:
        """Return the line of artifacts that were made alike."""
        first = group[0]
        stage, config, code, commit = first.how
        rest = f"and {len(group) - 1} more" if len(group) > 1 else _sha256(first.path)[:8]
        above = "  (see above)" if all(one.path in self.seen for one in group) else ""
        how = f"config {config[:8]}  code {code[:8]}  commit {commit[:8]}{commit[40:]}"
        resumed = "  [yellow]its code changed while it trained[/]" if "codes" in first.said else ""
        return f"[bold]{stage}[/]  {escape(first.name)}  {rest}  [dim]{how}[/]{resumed}{above}"

    def _fault(self, branch: Tree, text: str) -> None:
        self.sound = False
        branch.add(f"[bold red]{escape(text)}[/]")

    def _add_sources(self, branch: Tree, artifacts: list[Artifact]) -> None:
        """Add what no stage has written: raw files, and a base model."""
        tables = [one for one in artifacts if one.said["stage"] == "verify_shard"]
        files: dict[Path, str] = {}
        cases = 0
        for table in tables:
            for case in read_records(table.path, CheckedCase):
                if self.case in (None, case.case.id):
                    files |= {_beside(table.manifest, k): v for k, v in case.files.items()}
                    cases += 1
        if tables:
            self._add_raw(branch, cases, files)
        for one in artifacts:
            if (one.path.parent / REFERENCE).is_file():
                try:
                    branch.add(f"[bold]base model[/]  {escape(str(base_path(one.path.parent)))}")
                except DataError as error:
                    self._fault(branch, f"{error.where}: {error.found}")

    def _add_raw(self, branch: Tree, cases: int, files: dict[Path, str]) -> None:
        """Add raw files: how many, a hash of their contents, and what is wrong."""
        digest = sha256_text(canonical_json(sorted(files.values())))[:8]
        leaf = branch.add(f"[bold]raw[/]  {len(files)} files of {cases} cases  {digest}")
        for path, expected in sorted(files.items()):
            if not path.is_file():
                self._fault(leaf, f"{path} is missing")
            elif self.files and sha256(path) != expected:
                self._fault(leaf, f"{path} changed since it was verified")
            elif self.files:
                leaf.add(f"{escape(str(path))}  {expected[:8]}")


def show_lineage(path: Path, files: bool = False) -> bool:
    """Print where an artifact comes from, and return whether all is as it was recorded.

    Args:
        path: A folder or file that a stage has written.
        files: Read the raw files again, and list them.

    Raises:
        DataError: No stage has recorded it.
    """
    _sha256.cache_clear()
    _contents.cache_clear()
    lineage = Lineage(path, files)
    Console(highlight=False, width=WIDE).print(lineage.tree, soft_wrap=True)
    return lineage.sound
