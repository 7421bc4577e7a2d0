"""Where Snakemake 9 keeps what it knows of an output: a file named by the output's path.

The name is the path in URL-safe base64, cut into folders `@...` where it is long.
"""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from pathlib import Path

METADATA = Path(".snakemake/metadata")
INCOMPLETE = Path(".snakemake/incomplete")
LONGEST = 254


def record_of(output: str, folder: Path) -> Path:
    """Return the record of an output in one of the folders above."""
    name = urlsafe_b64encode(output.encode()).decode()
    parts = [name[start : start + LONGEST] for start in range(0, len(name), LONGEST)]
    return folder.joinpath(*(f"@{part}" for part in parts[:-1]), parts[-1])


def output_of(record: Path, folder: Path) -> str:
    """Return the output that a record in one of the folders above is about."""
    parts = record.relative_to(folder).parts
    return urlsafe_b64decode("".join(part.removeprefix("@") for part in parts)).decode()
