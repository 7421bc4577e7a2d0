"""What DVC may record, and what it may send away."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from medtune.config.experiment import Config
from medtune.runtime.errors import ConfigError, DataError
from medtune.runtime.files import read_json
from medtune.runtime.snakemake_records import METADATA, output_of


def check_restricted(config: Config) -> None:
    """Check that `dvc push` would leave here what is restricted, and all that was made of it.

    Raises:
        ConfigError: Something tracked by DVC in the restricted folders of `sources`, or in the
            folder of the experiment, lacks `push: false`.
    """
    roots = [Path(source.root) for source in config.sources if source.restricted]
    if config.films:
        films = [source for source in config.films.sources if source.restricted]
        roots += [Path(folder) for one in films for folder in one.folders]
    if not roots or not Path(".dvc").is_dir():
        return
    from dvc.repo import Repo

    kept = [path.resolve() for path in (*roots, Path("results") / config.experiment)]
    for out in Repo(".").index.outs:
        path = Path(out.fs_path)
        inside = any(path.is_relative_to(one) or one.is_relative_to(path) for one in kept)
        if inside and out.use_cache and out.can_push:
            raise ConfigError(
                out.stage.relpath,
                f"{out} may be pushed, but this experiment has restricted sources",
                "give it `push: false`",
            )


def recorded_files(root: Path) -> dict[str, str]:
    """Return {file: MD5} of a folder as its `.dvc` file says; empty if DVC does not track it.

    Unlike times, these are the same wherever the folder is pulled.
    """
    pointer = root.with_name(f"{root.name}.dvc")
    if not pointer.is_file():
        return {}
    from dvc.repo import Repo

    digest = yaml.safe_load(pointer.read_text())["outs"][0]["md5"]
    listing = Path(Repo(str(root.parent)).cache.local.oid_to_path(digest))
    known = read_json(listing) if listing.exists() else []
    return {str(root / one["relpath"]): one["md5"] for one in known}


def changed_files() -> set[str]:
    """Return all files that differ from what `dvc.lock` says, those that are gone included."""
    command = [sys.executable, "-m", "dvc", "data", "status", "--granular", "--json"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode != 0:
        raise DataError("dvc data status", run.stderr.strip(), "see its message")
    found: dict[str, Any] = json.loads(run.stdout).get("uncommitted", {})
    renamed = [path for both in found.pop("renamed", []) for path in both.values()]
    return {path for paths in found.values() for path in paths} | set(renamed)


def _below(folder: str, files: set[str]) -> set[str]:
    """Return those of some files that are `folder`, or lie in it."""
    return {file for file in files if f"{file}/".startswith(f"{folder}/")}


def check_written() -> None:
    """Check that what differs from `dvc.lock` was written by a job of Snakemake.

    Snakemake would find nothing to do after an accident to a weight or a video, which no rule
    names, and DVC would record it as the result.

    Raises:
        DataError: Something else has changed, added or removed a file.
    """
    lock = Path("dvc.lock")
    changed = changed_files() if lock.exists() else set()
    if not changed:
        return
    done = {output_of(Path(path), METADATA) for path in changed if METADATA in Path(path).parents}
    known = {output_of(path, METADATA) for path in METADATA.rglob("*") if path.is_file()}
    stages = yaml.safe_load(lock.read_text())["stages"].values()
    outs = {out["path"] for stage in stages for out in stage["outs"]} - {str(METADATA)}
    for out in sorted(outs):
        different = _below(out, changed)
        remade = {path for path in different & known if not Path(path).exists()}
        if different and Path(out).exists() and not remade and not _below(out, done):
            raise DataError(
                min(different),
                "differs from what dvc.lock says, and no job has written it",
                f"`dvc checkout {out}` brings the recorded one back; `dvc commit` keeps this one",
            )
