"""Reading what models have answered."""

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from medtune.rewards.base import Judged
from medtune.runtime.errors import DataError
from medtune.runtime.files import canonical_json
from medtune.runtime.tables import read_rows


def parsed(judged: Judged) -> dict[str, Any]:
    """Return the columns of a parsed answer: `answer`, JSON in the media frame, and `reason`."""
    if judged.answer is None:
        return {"answer": None, "reason": judged.reason}
    values = asdict(judged.answer)
    plain = {k: sorted(v) if isinstance(v, frozenset) else v for k, v in values.items()}
    return {"answer": canonical_json(plain), "reason": judged.reason}


def prediction_shards(folder: Path) -> list[Path]:
    """Return the tables of a model's folder of predictions, in order.

    Raises:
        DataError: There is none.
    """
    shards = sorted(path for path in folder.glob("*.parquet") if path.stem.isdigit())
    if not shards:
        raise DataError(folder, "holds no predictions", "run `snakemake evaluate`")
    return shards


def read_predictions(folders: Iterable[Path]) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of each model's predictions, shards in order.

    Args:
        folders: One folder for each model, which bears its name.

    Raises:
        DataError: A folder holds no predictions, a table is damaged, or two folders bear one name.
    """
    folders = list(folders)
    names = [folder.name for folder in folders]
    twice = [folder for folder in folders if names.count(folder.name) > 1]
    if twice:
        raise DataError(
            twice[-1], f"bears the same name as {twice[0]}", "a model's folder needs its own"
        )
    return {
        folder.name: [row for shard in prediction_shards(folder) for row in read_rows(shard)]
        for folder in folders
    }
