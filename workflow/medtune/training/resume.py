"""Which checkpoint a run goes on from: every changed key names itself, and what follows from it.

A run is told by its configuration, by the content of what it starts from, and by the number of its
processes. A key that does not change the result does not hinder it from going on; any other makes
it another run, which begins anew beside the checkpoints of the old one.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from medtune.config.stages import GrpoStage, SftStage
from medtune.models.base_reference import model_sha256
from medtune.runtime.console import PROCESSES, log
from medtune.runtime.files import (
    MANIFEST,
    canonical_json,
    is_up_to_date,
    read_json,
    sha256,
    sha256_text,
)
from medtune.training.checkpoints import MARKER, Checkpoints, step_of
from medtune.training.validation import stopped_early

Record = dict[str, Any]
NOT_USED, ROUNDING = "not used for the result", "the same to rounding"
CONTENT = "the content is the same"
# Of `sft` and `grpo`: how a run is watched and recorded, or the same sums made otherwise.
HARMLESS = {
    **dict.fromkeys(("step_timeout_minutes", "logging_steps", "save_steps"), NOT_USED),
    **dict.fromkeys(
        ("log_completions_steps", "rollouts.gpu_memory_utilization", "rollouts.server"), NOT_USED
    ),
    **dict.fromkeys(("gradient_checkpointing", "rollout_batch", "feature_cache_gb"), ROUNDING),
}
# What decides which step is the result, if not the last is.
MEASURED = ("eval_steps", "eval_generation_samples")
# How a global batch is divided.
SPLIT = ("batch_size", "gradient_accumulation", "processes")
# Where the model came from, which is compared by its content.
ORIGIN = ("model.path", "model.revision", "model.download", "model.builder", "model.tiny")


def is_finished(stage: SftStage | GrpoStage, output: Path, parents: Sequence[Path]) -> bool:
    """Return whether a finished model is there that this run would make again, and say so.

    Args:
        stage: The configuration; keys that are not used for the result may differ.
        output: The model folder.
        parents: What it would be made from.
    """
    name = "sft" if isinstance(stage, SftStage) else "grpo"
    unused = [f"{name}.{key}" for key, why in HARMLESS.items() if why == NOT_USED]
    if not is_up_to_date(output / MANIFEST, name, stage.model_dump(mode="json"), parents, unused):
        return False
    log(f"{output} is there, of this code, configuration and data; remove it to train it anew")
    (output / MANIFEST).touch()
    return True


class Change(NamedTuple):
    """A key that has changed, whether a run goes on all the same, and why, if that is not plain."""

    key: str
    old: Any
    new: Any
    goes_on: bool
    why: str

    def __str__(self) -> str:
        old, new = (json.dumps(value, ensure_ascii=False) for value in (self.old, self.new))
        return f"`{self.key}` {old} -> {new}"


def record_of(
    stage: SftStage | GrpoStage, start: Path, dataset: Path, tables: Sequence[Path] = ()
) -> Record:
    """Return what a run is told by, as JSON values.

    Args:
        stage: The configuration.
        start: Folder of the model that is trained.
        dataset: Folder of the data set.
        tables: Other files that it depends on.
    """
    files = read_json(dataset / MANIFEST)["files"]
    inputs = {"dataset": sha256_text(canonical_json(files)), "start": model_sha256(start)}
    inputs |= {table.name: sha256(table) for table in tables}
    short = {name: digest[:16] for name, digest in inputs.items()}
    return stage.model_dump(mode="json") | short | {"processes": PROCESSES}


def choose_run(
    stage: type[SftStage | GrpoStage], output: Path, record: Record
) -> tuple[Path, list[str]]:
    """Return the folder of a run's checkpoints, and what has changed since the last one.

    All changes are said, also where they make it another run.

    Args:
        stage: Type of the configuration.
        output: Model folder that the run will write; checkpoints lie beside it.
        record: See `record_of`.
    """
    runs = output.parent / "checkpoints" / output.name
    points = sorted(point for run in runs.glob("*") if (point := Checkpoints(run).newest()))
    changes = {point: changes_since(point, stage, record) for point in points}

    def unlike(point: Path) -> tuple[int, int]:
        return sum(not change.goes_on for change in changes[point]), -step_of(point)

    name = sha256_text(canonical_json(record))[:16]
    if not points:
        return runs / name, []
    nearest = min(points, key=unlike)
    hindered = unlike(nearest)[0] > 0
    for change in changes[nearest]:
        log(f"{change}: {_consequence(change, nearest, hindered)}")
    if not hindered:
        return nearest.parent, [f"step {step_of(nearest)}: {one}" for one in changes[nearest]]
    while runs / name in {point.parent for point in points}:  # its run was changed on its way
        name += "-again"
    return runs / name, []


def _consequence(change: Change, point: Path, hindered: bool) -> str:
    """Return what follows from a change for the run that a checkpoint is of."""
    if change.goes_on:
        return change.why if hindered else f"{change.why}, going on from step {step_of(point)}"
    place = os.path.relpath(point.parent)
    stays = f"this is another run; the checkpoint of the old run stays in {place}"
    return f"{stays} ({change.why})" if change.why else stays


def changes_since(point: Path, stage: type[SftStage | GrpoStage], record: Record) -> list[Change]:
    """Return what has changed since a checkpoint was written, key by key.

    Args:
        point: The checkpoint.
        stage: Type of the configuration; keys that are new since have had their defaults.
        record: What the run is told by now.
    """
    then = read_json(point / MARKER).get("run", {})
    config = {key: value for key, value in then.items() if key in stage.model_fields}
    try:
        old = then | stage.model_validate(config).model_dump(mode="json")
    except ValidationError:
        return [Change("medtune", "another version", "this version", False, "")]
    return [
        Change(key, before, after, *_verdict(key, old, record, point))
        for key, before, after in _differences(old, record)
    ]


def _differences(old: Any, new: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield key, old and new value of what differs, as deep as both are sections."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in dict.fromkeys([*old, *new]):
            yield from _differences(old.get(name), new.get(name), f"{key}.{name}".lstrip("."))
    elif old != new:
        yield key, old, new


def _verdict(key: str, old: Record, new: Record, point: Path) -> tuple[bool, str]:
    """Return whether a run goes on though a key has changed, and why."""
    name = key.removeprefix("sft.").removeprefix("grpo.")
    section = _section(new)
    harmless = HARMLESS.get(name)
    if name in MEASURED and not section.get("keep_best") and section.get("patience") is None:
        harmless = NOT_USED
    if key == "reward.file" and old["reward_sha256"] == new["reward_sha256"] is not None:
        harmless = CONTENT
    if harmless:
        return True, harmless
    if name == "patience":
        late = _reached(point, section["patience"])
        return not late, "it would have stopped before" if late else "not reached"
    if name in SPLIT:
        return _same_batch(old, new)
    if f"{key}.".startswith(tuple(f"{one}." for one in ORIGIN)):
        same = old["start"] == new["start"]
        return same, CONTENT if same else "the model is another"
    return False, ""


def _section(record: Record) -> Mapping[str, Any]:
    section: Mapping[str, Any] = record["sft"] if "sft" in record else record["grpo"]
    return section


def _reached(point: Path, patience: int | None) -> bool:
    """Return whether a run would have stopped before a checkpoint with this patience."""
    history = read_json(point / "trainer_state.json")["log_history"]
    before = [n for n, entry in enumerate(history, start=1) if entry["step"] < step_of(point)]
    return any(stopped_early(history[:n], patience) for n in before)


def _same_batch(old: Record, new: Record) -> tuple[bool, str]:
    """Return whether the steps are the same to rounding, though batches are divided otherwise."""
    before, after = (_global_batch(record) for record in (old, new))
    section = _section(new)
    if before != after:
        return False, f"the global batch of {before} becomes {after}"
    if section["strategy"] != "ddp":
        return False, f"the checkpoint is divided as {section['strategy']} divides the model"
    if section.get("loss_type") == "bnpo" or section.get("dynamic_sampling_rounds"):
        return False, "bnpo and dynamic_sampling_rounds depend on the division"
    same = f"the same global batch of {after}, equal to rounding"
    if "sft" in new and section["lora"] and section["lora"]["dropout"]:
        same += " but for dropout, which draws anew"
    if section.get("rollouts", {}).get("engine", "transformers") != "transformers":
        same += " but for vLLM, which may answer otherwise"
    return True, same


def _global_batch(record: Record) -> int:
    """Return the sequences, or batches by budget, of an optimizer step."""
    section = _section(record)
    rows = 1 if section.get("max_tokens_per_batch") else section["batch_size"]
    return int(rows * section["gradient_accumulation"] * record["processes"])
