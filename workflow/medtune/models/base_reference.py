"""Which model folder a folder stands for: itself, or the base model that its `base.json` names."""

from pathlib import Path

from medtune.runtime.errors import DataError
from medtune.runtime.files import (
    CURVES,
    HISTORY,
    MANIFEST,
    canonical_json,
    read_json,
    sha256,
    sha256_text,
)

REFERENCE = "base.json"


# Configuration, processor, tokenizer, code and weights of a model folder; not its pictures and
# readme.
MODEL_FILES = (".json", ".jinja", ".txt", ".model", ".py", ".safetensors")


LOGS = (HISTORY, CURVES)


def _model_hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of the files of a model folder that decide what it computes."""
    files = [path for path in sorted(folder.iterdir()) if path.suffix in MODEL_FILES]
    return {path.name: sha256(path) for path in files}


def model_sha256(folder: Path) -> str:
    """Return a hash of what the model of a folder computes; logs of its training count nothing.

    Args:
        folder: Any model folder; a manifest that it has is believed, and so was to be checked.
    """
    named = next((folder / n for n in (REFERENCE, MANIFEST) if (folder / n).is_file()), None)
    files = read_json(named)["files"] if named else _model_hashes(folder)
    kept = {n: s for n, s in files.items() if Path(n).suffix in MODEL_FILES and n not in LOGS}
    return sha256_text(canonical_json(kept))


def base_path(folder: Path) -> Path:
    """Return the model folder that a folder written above, or by training, stands for.

    Raises:
        DataError: A file of the model that `base.json` names was changed, added or removed.
    """
    reference = folder / REFERENCE
    if not reference.is_file():
        return folder
    named = read_json(reference)
    path, expected = Path(named["path"]), named["files"]
    found = _model_hashes(path) if path.is_dir() else {}
    changed = sorted(dict(found.items() ^ expected.items()))
    if changed:
        raise DataError(
            path / changed[0],
            f"changed, appeared or vanished since {reference} recorded it",
            f"restore it, or delete {folder} and rerun its stage",
        )
    return path
