"""What to change so that a stage fits into the memory of a GPU, with the number that would."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medtune.config.training import GrpoConfig, LoraConfig, ModelConfig, OptimizerConfig
from medtune.planning.memory import ShardingPlan, Workload, meta_model, needed

ZERO_PROCESSES = (2, 4, 8)
TOKEN_STEPS = 32  # tokens of a sample are advised to a 32nd


@dataclass(frozen=True)
class Setting:
    """What decides the memory of a stage.

    Attributes:
        name: sft or grpo.
        folder: Model folder, of which the shapes are read.
        model: The model section.
        section: The training section.
        work: What is computed at once.
        sharing: How processes share the model.
        shape: See `meta_model`; of this section's adapters and frozen parts.
        before: The section that the model was trained by before, or None.
    """

    name: str
    folder: Path
    model: ModelConfig
    section: OptimizerConfig
    work: Workload
    sharing: ShardingPlan
    shape: Any
    before: OptimizerConfig | None = None

    def phases(self) -> dict[str, dict[str, int]]:
        """Return bytes by phase and part."""
        return needed(self.shape, self.model, self.section, self.work, self.sharing)

    def peak(self) -> int:
        """Return the bytes of the largest phase."""
        return max(sum(parts.values()) for parts in self.phases().values())


def largest(limit: int, fits: Callable[[int], bool]) -> int:
    """Return the largest number in 1..limit that fits, if smaller ones do, or 0."""
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def _with_rows(setting: Setting, rows: int) -> Setting:
    work = setting.work
    videos = min(rows, work.videos)
    return replace(setting, work=work.model_copy(update={"rows": rows, "videos": videos}))


def _with_rollouts(setting: Setting, groups: int) -> Setting:
    assert isinstance(setting.section, GrpoConfig)
    count = {"rollouts": groups * setting.section.num_generations, "rollout_videos": groups}
    return replace(setting, work=setting.work.model_copy(update=count))


def _with_tokens(setting: Setting, tokens: int) -> Setting:
    work = setting.work
    shorter = {"tokens": tokens, "patches": max(1, work.patches * tokens // work.tokens)}
    return replace(setting, work=work.model_copy(update=shorter))


def changes(setting: Setting, fits: Callable[[Setting], bool]) -> Iterator[tuple[str, Setting]]:
    """Yield what could be changed, in words, and the setting after it; each change alone.

    A number is the largest that fits, or the least possible.
    """
    name, section, work = setting.name, setting.section, setting.work
    if not section.gradient_checkpointing:
        other = section.model_copy(update={"gradient_checkpointing": True})
        yield f"{name}.gradient_checkpointing: true", replace(setting, section=other)
    if work.rows > 1:
        rows = largest(work.rows - 1, lambda n: fits(_with_rows(setting, n))) or 1
        key = f"batch_size: {rows}"
        if getattr(section, "max_tokens_per_batch", None) is not None:
            key = f"max_tokens_per_batch: {rows * work.tokens}"
        yield f"{name}.{key}", _with_rows(setting, rows)
    if isinstance(section, GrpoConfig) and work.rollouts > section.num_generations:
        groups = work.rollouts // section.num_generations - 1
        groups = largest(groups, lambda n: fits(_with_rollouts(setting, n))) or 1
        count = groups * section.num_generations
        yield f"grpo.rollout_batch: {count}", _with_rollouts(setting, groups)
    if section.lora is None:
        other = section.model_copy(update={"lora": LoraConfig(), "freeze": ["vision"]})
        without = work.model_copy(update={"reference": False})
        shape = meta_model(setting.folder, setting.model, other, setting.before)
        words = f"{name}.lora: {{rank: 64}} with freeze: [vision]"
        yield words, replace(setting, section=other, work=without, shape=shape)
    if setting.sharing.zero < 3:
        options = [
            replace(setting, sharing=ShardingPlan(processes=n, zero=3)) for n in ZERO_PROCESSES
        ]
        shared = next((one for one in options if fits(one)), options[-1])
        yield f"ZeRO 3 over {shared.sharing.processes} processes", shared
    unit = max(1, (work.tokens - work.scored) // TOKEN_STEPS)
    short = [work.scored + n * unit for n in range(1, TOKEN_STEPS)]
    found = largest(len(short), lambda n: fits(_with_tokens(setting, short[n - 1])))
    tokens = short[max(found, 1) - 1]
    words = f"no sample above {tokens:,} tokens (now {work.tokens:,}): raise media.stride, "
    yield words + "or lower media.tile_size", _with_tokens(setting, tokens)


def advice(setting: Setting, enough: Callable[[Setting], bool]) -> list[str]:
    """Return changes of which each alone is enough; if none is, the first few that are together."""
    known: dict[str, bool] = {}

    def fits(setting: Setting) -> bool:
        key = repr((setting.section, setting.work, setting.sharing))
        if key not in known:
            known[key] = enough(setting)
        return known[key]

    alone = [words for words, other in changes(setting, fits) if fits(other)]
    if alone:
        return alone
    done: list[str] = []
    while not fits(setting):
        step = next(
            ((w, s) for w, s in changes(setting, fits) if s != setting and w not in done), None
        )
        if step is None:
            return ["nothing that is known here is enough: take a smaller model"]
        done, setting = [*done, step[0]], step[1]
    return [" and ".join(done)]
