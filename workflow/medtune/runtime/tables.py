"""Parquet tables of typed records; nested fields are stored as JSON text."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel

from medtune.runtime.errors import DataError
from medtune.runtime.files import atomic_path, canonical_json

R = TypeVar("R", bound=BaseModel)


def write_rows(
    path: Path, rows: Sequence[Mapping[str, Any]], schema: pa.Schema | None = None
) -> None:
    """Write flat rows atomically; equal rows give equal bytes.

    Args:
        path: Parquet file.
        rows: The rows.
        schema: Columns and types; None: those of the rows, of which there must be one.
    """
    with atomic_path(path) as temporary:
        pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), temporary)


def read_rows(path: Path, start: int = 0, count: int | None = None) -> list[dict[str, Any]]:
    """Return the rows of a Parquet file, or `count` of them from `start` on.

    Raises:
        DataError: The file is missing or damaged.
    """
    try:
        rows: list[dict[str, Any]] = pq.read_table(path).slice(start, count).to_pylist()
    except FileNotFoundError:
        raise DataError(path, "the table does not exist", "run the stage that writes it") from None
    except pa.ArrowInvalid as error:
        raise DataError(path, f"is no Parquet table ({error})", "rerun its stage") from None
    return rows


def write_records(path: Path, records: Sequence[BaseModel]) -> None:
    """Write records of one model as a table, one column per field."""
    rows = []
    for record in records:
        values = record.model_dump(mode="json")
        rows.append(
            {k: canonical_json(v) if isinstance(v, dict | list) else v for k, v in values.items()}
        )
    write_rows(path, rows)


def read_records(path: Path, model: type[R], start: int = 0, count: int | None = None) -> list[R]:
    """Return the records of a table written by `write_records`, or some of them."""
    texts = {
        name for name, field in model.model_fields.items() if field.annotation in (str, str | None)
    }

    def parsed(key: str, value: Any) -> Any:
        nested = key not in texts and isinstance(value, str) and value[:1] in ("{", "[")
        return json.loads(value) if nested else value

    return [
        model.model_validate({key: parsed(key, value) for key, value in row.items()})
        for row in read_rows(path, start, count)
    ]
