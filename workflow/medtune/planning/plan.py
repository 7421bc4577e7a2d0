"""What an experiment will need, before it runs: tokens, memory of a GPU by part, steps."""

from pathlib import Path
from statistics import median
from typing import Any

from rich.table import Table

from medtune.config.experiment import Config
from medtune.config.stages import SftStage, load_stage, stage_json
from medtune.models.base_reference import base_path
from medtune.models.coordinate_format import COORDINATE_FORMATS
from medtune.models.loading import check_base, load_processor
from medtune.planning.advice import Setting, advice
from medtune.planning.memory import ShardingPlan, Workload, meta_model
from medtune.planning.sizes import Size, assumed_shape, training_sizes
from medtune.records.sample import load_split
from medtune.runtime.console import console, duration, log
from medtune.runtime.errors import ConfigError, ModelError
from medtune.tasks import get_task
from medtune.training.batches import SftCollator
from medtune.training.sft import budget_batches, optimizer_steps

GIB = 2**30
# Share of a GPU's memory left to what is not counted; see `medtune.planning.memory`. An
# assumption, not a measurement.
RESERVE = 0.1


def gpu_bytes() -> int | None:
    """Return the memory of the GPU that is here, or None."""
    import torch

    if not torch.cuda.is_available():
        return None
    return int(torch.cuda.get_device_properties(0).total_memory)


def model_folder(config: Config, results: Path) -> Path:
    """Return the folder of the base model, of which only configuration and processor are read.

    Raises:
        ModelError: It is not there yet.
    """
    if (results / "base").is_dir():
        return base_path(results / "base")
    folder = check_base(config.model) if config.model.path else None
    if folder is None:
        raise ModelError(
            "model", "is not there yet", f"run `snakemake {results}/base/manifest.json` first"
        )
    return folder


def sft_work(config: Config, sizes: list[Size]) -> Workload:
    """Return the largest forward pass of SFT: a batch of the longest sample."""
    longest = max(sizes, key=lambda size: size.tokens)
    budget, rows = config.sft.max_tokens_per_batch, config.sft.batch_size
    if budget is not None:
        rows = max(1, budget // longest.tokens)
    return Workload(
        rows=rows,
        tokens=longest.tokens,
        scored=longest.answer,
        videos=rows,
        patches=longest.patches,
        frames=longest.frames,
    )


def grpo_work(config: Config, sizes: list[Size]) -> Workload:
    """Return the largest rollout and update of GRPO: the longest prompt, longest completions."""
    longest, grpo = max(sizes, key=lambda size: size.prompt), config.grpo
    step = grpo.batch_size * grpo.gradient_accumulation
    rollouts = min(step, grpo.rollout_batch or step)
    return Workload(
        rows=grpo.batch_size,
        tokens=longest.prompt + grpo.max_completion_length,
        scored=grpo.max_completion_length,
        videos=min(grpo.batch_size, step // grpo.num_generations),
        patches=longest.patches,
        frames=longest.frames,
        rollouts=rollouts,
        rollout_videos=grpo.rollout_prompts,
        reference=grpo.beta > 0 and grpo.lora is None,
    )


def sft_steps(config: Config, processor: Any, dataset: Path) -> int | None:
    """Return the optimizer steps of SFT, or None without a data set."""
    if not dataset.is_dir():
        return None
    stage = load_stage(SftStage, stage_json(config, "sft"))
    train = load_split(dataset, "train")
    collator = SftCollator(
        processor, get_task(stage.task), COORDINATE_FORMATS[stage.model.family], dataset
    )
    return optimizer_steps(stage.sft, len(train), budget_batches(stage, collator, train))


def make_plan(
    config: Config, results: Path, gpu_bytes: int | None, sharing: ShardingPlan
) -> dict[str, Any]:
    """Return the plan of an experiment.

    Args:
        config: The configuration.
        results: Folder of the experiment; its data set and base model are used if they are there.
        gpu_bytes: Memory of one GPU; None: nothing is refused.
        sharing: How processes share the model.

    Returns:
        `samples`: how many, and their tokens; `stages`: for sft and grpo the optimizer steps,
        `bytes` by phase and part, `peak`, and, if it does not fit, `advice`.

    Raises:
        ModelError: The base model is not there yet.
    """
    dataset, folder = results / "datasets", model_folder(config, results)
    processor = load_processor(folder)
    sizes = training_sizes(config, processor, dataset)
    longest = max(sizes, key=lambda size: size.tokens)
    stages = {}
    steps = {"sft": sft_steps(config, processor, dataset), "grpo": config.grpo.steps}
    works = {"sft": sft_work(config, sizes), "grpo": grpo_work(config, sizes)}

    def enough(setting: Setting) -> bool:
        return gpu_bytes is None or setting.peak() <= gpu_bytes * (1 - RESERVE)

    for name, work in works.items():
        section = getattr(config, name)
        before = config.sft if name == "grpo" else None
        model = meta_model(folder, config.model, section, before)
        setting = Setting(name, folder, config.model, section, work, sharing, model, before)
        phases = setting.phases()
        stages[name] = {
            "steps": steps[name],
            "work": work.model_dump(),
            "bytes": phases,
            "peak": max(sum(parts.values()) for parts in phases.values()),
            "advice": [] if enough(setting) else advice(setting, enough),
        }
    return {
        "samples": {
            "assumed": not dataset.is_dir(),
            "count": len(sizes),
            "longest": longest.id,
            "longest_tokens": longest.tokens,
            "median_tokens": median(size.tokens for size in sizes),
        },
        "stages": stages,
        "gpu_bytes": gpu_bytes,
        "sharing": sharing.model_dump(),
    }


def show(config: Config, plan: dict[str, Any]) -> None:
    """Print a plan."""
    samples = plan["samples"]
    if samples["assumed"]:
        shape = " x ".join(str(n) for n in assumed_shape(config))
        tokens = f"{samples['longest_tokens']:,} tokens"
        log(f"no data set yet; assumed: {shape} voxels, uncropped: {tokens}")
    else:
        log(
            f"{samples['count']:,} training samples of {samples['median_tokens']:,.0f} tokens "
            f"(median); the longest, {samples['longest']}, has {samples['longest_tokens']:,}"
        )
    columns = [(s, phase) for s, stage in plan["stages"].items() for phase in stage["bytes"]]
    table = Table("GiB of one GPU", *(f"{s} {phase}" for s, phase in columns))
    found = {column: plan["stages"][column[0]]["bytes"][column[1]] for column in columns}
    for part in dict.fromkeys(part for parts in found.values() for part in parts):
        table.add_row(part, *(f"{found[c].get(part, 0) / GIB:.2f}" for c in columns))
    table.add_section()
    table.add_row("together", *(f"{sum(found[c].values()) / GIB:.2f}" for c in columns))
    console.print(table)
    for name, stage in plan["stages"].items():
        steps = "unknown without the data set" if stage["steps"] is None else f"{stage['steps']:,}"
        log(f"{name}: optimizer steps {steps}")
    if plan["gpu_bytes"] is None:
        log("memory: not checked, there is no GPU here (use --gpu-memory)")


def fits(plan: dict[str, Any]) -> bool:
    """Return whether nothing in a plan is too large."""
    return not any(stage["advice"] for stage in plan["stages"].values())


def show_time(plan: dict[str, Any], measured: dict[str, dict[str, Any]]) -> None:
    """Add what a probe measured to a plan, as `time` of its stages, and print it."""
    for name, time in measured.items():
        stage = plan["stages"][name]
        stage["time"] = time
        whole = duration(time["step"] * stage["steps"])
        steps = ", ".join(f"{s:.3g}" for s in time["steps"])
        log(f"{name}: {time['step']:.3g} s per step (measured: {steps}), {whole} in all")


def refuse(plan: dict[str, Any]) -> None:
    """Stop at a stage that cannot fit.

    Raises:
        ConfigError: It names the largest part, and what to change.
    """
    for name, stage in plan["stages"].items():
        if stage["advice"]:
            phase, parts = max(stage["bytes"].items(), key=lambda item: sum(item[1].values()))
            part = max(parts, key=lambda key: parts[key])
            usable = plan["gpu_bytes"] * (1 - RESERVE)
            raise ConfigError(
                name,
                f"cannot fit: its {phase} needs {stage['peak'] / GIB:.1f} GiB of a GPU, most of it "
                f"for {part} ({parts[part] / GIB:.1f} GiB); {usable / GIB:.1f} of "
                f"{plan['gpu_bytes'] / GIB:.1f} GiB can be planned with",
                "\n  or ".join(stage["advice"]),
            )
