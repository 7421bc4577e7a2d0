"""Does a change of code change a result? Records what two small experiments give, and compares.

    python benchmarks/golden.py record|compare FILE.json [--keep FOLDER]

The demo and the chest miniature run from nothing to the report, as small as the tests run them. The
record holds a hash for every column of every data set and table and for every key of a JSON column,
for every image and video, two for every model, and the metrics. `--keep` keeps the runs in a new
folder. Another CPU or torch gives other weights: record on the machine on which you compare.
"""

import argparse
import hashlib
import itertools
import json
import os
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # the order of sums, and so the weights, depends on threads
sys.path.append(str(Path(__file__).parents[1] / "tests"))

import datasets
import pyarrow.parquet as pq
import torch
import yaml
from chest_data import write_chest_data
from llm_server import LlmServer
from small_experiment import small_config, snakemake
from test_films_workflow import film_config

Record = dict[str, str]
FILES = ("*.jpg", "*.mp4", "*.png", "datasets/llava_*.json")
TABLES = ("datasets/*.parquet", "predictions/*/????.parquet", "completions/*.parquet")
# Of large parts of metrics.json the place among their keys that names the metric.
AT = {"comparisons": 2, "corpus": 3, "corpus_comparisons": 3, "groups": 5, "blind": 2, "models": 3}


def short_hash(value: bytes | list[Any]) -> str:
    """Return 16 hex digits of the SHA-256 of bytes, or of values as canonical JSON."""
    if not isinstance(value, bytes):
        value = json.dumps(value, sort_keys=True, default=short_hash).encode()
    return hashlib.sha256(value).hexdigest()[:16]


def rows_record(name: str, rows: list[dict[str, Any]]) -> Record:
    """Return the number of rows and a hash per column, and per key of columns of JSON objects."""
    record = {f"{name}: rows": str(len(rows))}
    for column in rows[0] if rows else ():
        values = [row[column] for row in rows]
        if all(isinstance(value, str) and value[:1] in ("{", "[") for value in values):
            values = [json.loads(value) for value in values]
        record[f"{name}: {column}"] = short_hash(values)
        for key in sorted({key for value in values if isinstance(value, dict) for key in value}):
            present = [[place, v[key]] for place, v in enumerate(values) if key in v]
            record[f"{name}: {column}.{key}"] = short_hash(present)
    return record


def model_record(name: str, folder: Path) -> Record:
    """Return a hash of a model's tensors with their names, and one that new names leave equal."""
    tensors = []
    for path in folder.glob("*.safetensors"):
        content = path.read_bytes()
        start = 8 + int.from_bytes(content[:8], "little")  # the format: size, JSON, data
        for key, entry in json.loads(content[8:start]).items():
            if key != "__metadata__":
                first, end = (start + offset for offset in entry["data_offsets"])
                tensors.append(
                    [key, entry["dtype"], entry["shape"], short_hash(content[first:end])]
                )
    values = sorted((entry[1:] for entry in tensors), key=json.dumps)
    return {f"{name}: tensors": short_hash(sorted(tensors)), f"{name}: values": short_hash(values)}


def leaves(value: Any, *keys: str) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield the plain values of a JSON value, exactly, with their keys."""
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(inner, *keys, str(key))
    else:
        yield keys, repr(value)


def metrics_record(metrics: dict[str, Any]) -> Record:
    """Return the metrics; of large parts a hash per model and mode, and one per metric."""
    record, grouped = {}, defaultdict(list)
    for keys, value in leaves(metrics):
        place = AT.get(keys[0])
        if place is None:
            record[f"metrics: {'/'.join(keys)}"] = value
        else:
            grouped[f"metrics: {'/'.join(keys[: min(place, 3)])}"].append([keys, value])
            others = keys[:place] + keys[place + 1 :]  # a metric of another name keeps its hash
            grouped[f"metrics: {keys[0]} of {keys[place]}"].append([others, value])
    return record | {name: short_hash(sorted(values)) for name, values in grouped.items()}


def results_record(results: Path) -> Record:
    """Return the record of an experiment's folder; names are relative to it."""
    record = metrics_record(json.loads((results / "eval/metrics.json").read_text()))
    for path in sorted(results.rglob("*")):
        name, folder = path.relative_to(results), path.parent.relative_to(results)
        if path.name == "dataset_info.json":
            rows = datasets.load_from_disk(str(path.parent)).with_format("arrow")[:].to_pylist()
            record |= rows_record(f"rows: {folder}", rows)
        elif path.suffix == ".safetensors":
            record |= model_record(f"models: {folder}", path.parent)
        elif any(name.match(pattern) for pattern in FILES):
            record[f"files: {name}"] = short_hash(path.read_bytes())
        elif any(name.match(pattern) for pattern in TABLES):
            record |= rows_record(f"tables: {name}", pq.read_table(path).to_pylist())
    return record


def run(folder: Path) -> Record:
    """Run both experiments below a new folder and return their record."""
    record = {"machine: torch": f"{torch.__version__} {torch.backends.cpu.get_cpu_capability()}"}
    (folder / "demo").mkdir(parents=True)
    small_config(folder / "demo")
    data = write_chest_data(folder / "chest/data", patients=8, seed=0)
    with LlmServer() as server:
        (folder / "chest/config.yaml").write_text(yaml.safe_dump(film_config(data, server.url)))
        for name in ("demo", "chest"):
            finished = snakemake(folder / name)
            if finished.returncode:
                sys.exit(f"{name} failed:\n{finished.stderr[-4000:]}")
            results = results_record(folder / name / "results" / name)
            record |= {f"{name}: {key}": value for key, value in results.items()}
    return record


def differences(old: Record, new: Record) -> Iterator[str]:
    """Yield a line per entry that is missing, new or other, a group per kind of result."""
    names = sorted(name for name in old | new if old.get(name) != new.get(name))
    for heading, group in itertools.groupby(names, lambda name: name.rsplit(": ", 1)[0]):
        yield heading
        for name in group:
            kind = "missing" if name not in new else "new" if name not in old else "other"
            values = " -> ".join(record[name] for record in (old, new) if name in record)
            yield f"  {kind:8}{name.removeprefix(heading)[2:]}  {values}"


def main() -> None:
    """Record or compare; the exit code is 1 where something differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=["record", "compare"])
    parser.add_argument("file", type=Path)
    parser.add_argument("--keep", type=Path, help="a new folder for what ran")
    arguments = parser.parse_args()
    old = json.loads(arguments.file.read_text()) if arguments.action == "compare" else {}
    with tempfile.TemporaryDirectory() as temporary:
        new = run((arguments.keep or Path(temporary)).absolute())
    if arguments.action == "record":
        arguments.file.write_text(json.dumps(new, indent=0, sort_keys=True) + "\n")
        return
    lines = [*differences(old, new)]
    print("\n".join(lines) or f"all {len(new)} entries are equal")
    sys.exit(bool(lines))


if __name__ == "__main__":
    main()
