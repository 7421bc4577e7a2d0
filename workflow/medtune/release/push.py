"""Upload of an exported folder to a model hub; only by explicit switch."""

import os
from pathlib import Path

from medtune.config.stages import PushStage
from medtune.runtime.console import log
from medtune.runtime.errors import ConfigError, DataError
from medtune.runtime.files import MANIFEST, check_manifest

COMPILED = "__pycache__"


def push(stage: PushStage, folder: Path) -> None:
    """Upload an exported folder to `export.repo`; a new repository is private.

    Args:
        stage: The configuration.
        folder: Folder written by `medtune export` (its manifest is checked).

    Raises:
        ConfigError: `export.push` is false, or the environment has no HF_TOKEN.
        DataError: A file was changed, or one lies there that the export did not write.
    """
    repo = stage.export.repo
    if not stage.export.push or repo is None:
        raise ConfigError("export.push", "is false: nothing is uploaded", "set it, and export.repo")
    token = os.environ.get("HF_TOKEN")
    if not token:
        raise ConfigError("HF_TOKEN", "is not set", "export a token that may write to export.repo")
    manifest = check_manifest(folder / MANIFEST)
    if "rounding" not in manifest:
        raise DataError(folder, "is no exported folder", "give one that `medtune export` wrote")
    known = {*manifest["files"], MANIFEST}
    for path in sorted(folder.rglob("*")):
        if COMPILED in path.parts:  # `predict.py` has run here
            continue
        if path.is_file() and str(path.relative_to(folder)) not in known:
            raise DataError(path, "was not written by the export", "move it away")
    os.environ["HF_HUB_OFFLINE"] = "0"  # before the library reads it
    from huggingface_hub import HfApi

    hub = HfApi(token=token)
    hub.create_repo(repo, private=True, exist_ok=True)
    message, without = f"medtune: {folder.name}", [f"{COMPILED}/*"]
    hub.upload_folder(
        repo_id=repo, folder_path=folder, commit_message=message, ignore_patterns=without
    )
    log(f"uploaded: {folder} to {repo}")
