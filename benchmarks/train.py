"""Speed of SFT and GRPO by phase, and of GRPO on videos against TRL's own on images.

    python benchmarks/train.py [--engine vllm] [--rounds 3] [--steps 6] [--frames 16] [--side 64]
    python benchmarks/train.py --size 3b --frames 155 --side 448 --peak-tflops 989    # on a GPU

155 frames of 448 x 448 pixels are a BraTS volume of 20,000 vision tokens. Weights are random and
answers therefore of full length; learning is not measured. Each figure is a median over the steps
of all rounds, the first step of a round left out. The settings take turns within a round, so that
other load on the machine meets all alike, and the comparison is of medians within a round. Tokens
are those of all sequences, prompts and answers, padding left out. "Data kept" encodes each video
once; TRL's images are always in memory.

MFU is that of the update: model FLOPs / (seconds x peak). A sequence of s tokens takes
6 N s + 6 L d s^2 FLOPs in the language model (Chowdhery et al. 2022, arXiv:2204.02311, appendix B;
causal attention counts half), with its N weights, embeddings and head left out, L layers and width
d. Where adapters alone are trained it is 4 N s, since most weights get no gradient. A trained
vision tower takes 6 Nv FLOPs per patch, its attention left out, a frozen one 2 Nv in SFT and none
in GRPO, where its features are those of the rollout. Recomputed activations do not count.
"""

import argparse
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
from train_setup import TASK, Setup, check_machine, make_dataset, make_model
from transformers import PrinterCallback, TrainerCallback
from trl import GRPOTrainer

from medtune.config.training import RolloutConfig
from medtune.models.coordinate_format import COORDINATE_FORMATS
from medtune.models.inputs import encode_sample, read_frames
from medtune.models.loading import load_processor
from medtune.records.sample import load_split
from medtune.runtime.errors import ModelError
from medtune.tasks import get_task
from medtune.training import batches, grpo
from medtune.training.checkpoints import Checkpoints
from medtune.training.grpo_rewards import reward_function
from medtune.training.run import trainable_model
from medtune.training.sft import prepare_sft
from medtune.training.timing import METHODS, Phases
from medtune.training.trainable import part_of
from medtune.training.validation import EarlyStopping

Row = dict[str, float]  # a step: seconds by phase, `wall`, `cpu`, `tokens`, `samples`
PHASES = ("data", "sync", "rollout", "reward", "logps", "update", "other")
PATIENTS = 5  # for each sequence of a step: four steps are an epoch
SKIPPED = 1  # steps of a round: caches and allocators fill


class Meter(TrainerCallback):  # type: ignore[misc]
    """Collects a row for every step of a trainer whose rollouts or batches count tokens."""

    def __init__(self, trainer: Any, group: int) -> None:
        self.rows: list[Row] = []
        self.group = group if hasattr(trainer, "num_generations") else 1
        self.phases, self.trainer, self.sequences = Phases(), trainer, list[int]()
        for method, name in METHODS.items():
            if hasattr(trainer, method):
                setattr(trainer, method, self.phases.timed(getattr(trainer, method), name))
        inner = trainer.training_step

        def step(model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            if isinstance(inputs, dict):  # of SFT; GRPO makes its batch within the step
                self.sequences += inputs["attention_mask"].sum(dim=1).tolist()
            return inner(model, inputs, *args, **kwargs)

        trainer.training_step = step
        if hasattr(trainer, "_generate_and_score_completions"):
            score = trainer._generate_and_score_completions

            def rollout(inputs: Any) -> Any:
                output = score(inputs)
                masks = (output["prompt_mask"], output["completion_mask"])
                self.sequences += sum(mask.sum(dim=1) for mask in masks).tolist()
                return output

            trainer._generate_and_score_completions = rollout

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Begin to count, unless the end of the step before did."""
        if not self.rows:
            self.start = time.perf_counter(), self.processor()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Keep the row of a step."""
        self.phases.book()
        now = time.perf_counter(), self.processor()
        row = {"wall": now[0] - self.start[0], "cpu": now[1] - self.start[1]}
        row |= {"tokens": sum(self.sequences), "squares": sum(n * n for n in self.sequences)}
        count = len(self.sequences)
        row |= {"samples": count, "videos": count / self.group} | dict(self.phases.seconds)
        self.rows.append(row)
        self.phases.seconds.clear()
        self.sequences.clear()
        self.start = now

    @staticmethod
    def processor() -> float:
        """Return the seconds of processor time of this process so far, all threads."""
        times = os.times()
        return times.user + times.system


@contextmanager
def read_once(known: dict[str, Any]) -> Iterator[None]:
    """Let encoded prompts be kept in `known`: training without data loading."""

    def encode(processor: Any, sample: Any, prompt: str, root: Path) -> Any:
        if sample.id not in known:
            known[sample.id] = encode_sample(processor, sample, prompt, root)
        return known[sample.id]

    with (
        patch.object(grpo, "encode_sample", encode),
        patch.object(batches, "encode_sample", encode),
    ):
        yield


def with_images(dataset: Path, family: str) -> Any:
    """Return TRL's rows, with an image for each two frames of the video, in memory."""
    from PIL import Image

    known: dict[str, list[Any]] = {}
    task = get_task(TASK)

    def rows(table: dict[str, list[Any]]) -> dict[str, list[Any]]:
        """Return TRL's columns for a batch of Arrow rows."""
        found = grpo.as_prompts(table)
        for sample in found["sample"]:
            if sample.id not in known:
                frames = read_frames(sample.media[0], dataset)[::2]
                known[sample.id] = [Image.fromarray(frame) for frame in frames]
        asked = [task.prompt(sample, COORDINATE_FORMATS[family]) for sample in found["sample"]]
        prompts = [[{"role": "user", "content": text}] for text in asked]
        return found | {"prompt": prompts, "images": [known[s.id] for s in found["sample"]]}

    return load_split(dataset, "train").with_transform(rows)


class Bench:
    """Makes trainers and measures them.

    Args:
        setup: What is measured.
        folder: For everything that is written.
        steps: Optimizer steps of a round, the first of which does not count.
    """

    def __init__(self, setup: Setup, folder: Path, steps: int) -> None:
        self.setup, self.steps, self.engine = setup, steps + SKIPPED, None
        self.dataset = make_dataset(setup, folder, PATIENTS * setup.rows)
        self.model = make_model(setup, self.dataset, folder / "model")

    def sft(self) -> list[Row]:
        """Measure SFT."""
        stage = self.setup.sft(self.model)
        trainer, _ = prepare_sft(stage, self.model, self.dataset)
        trainer.section = stage.sft
        trainer.remove_callback(EarlyStopping)
        return self._run(trainer)

    def grpo(self, engine: str = "transformers") -> list[Row]:
        """Measure GRPO on videos."""
        changes = {"rollouts": RolloutConfig(engine=engine)}
        stage = self.setup.grpo(self.model, self.steps, **changes)
        if engine == "vllm" and self.engine is None:  # starts once
            self.engine = grpo.vllm_engine(stage, self.model, self.dataset)
        with patch.object(grpo, "_engine", lambda *_: self.engine if engine == "vllm" else None):
            trainer, _ = grpo.prepare_grpo(stage, self.model, self.dataset, self.model, None)
        trainer.section = stage.grpo
        return self._run(trainer)

    def images(self) -> list[Row]:
        """Measure TRL's own GRPO, on images of as many tokens."""
        stage, family = self.setup.grpo(self.model, self.steps), self.setup.family
        processor, task = load_processor(self.model), get_task(TASK)
        terms = task.terms("default", {})
        trainer = GRPOTrainer(
            args=grpo._arguments(stage, processor),
            model=trainable_model(self.model, stage.model, stage.grpo),
            reward_funcs=reward_function(task, terms, COORDINATE_FORMATS[family], self.setup.group),
            train_dataset=with_images(self.dataset, family),
            processing_class=processor,
        )
        return self._run(trainer)

    def _run(self, trainer: Any) -> list[Row]:
        trainer.remove_callback(PrinterCallback)
        trainer.args.save_strategy = trainer.args.eval_strategy = "no"
        trainer.args.max_steps = self.steps
        trainer.checkpoints = Checkpoints(self.model)  # none is written
        meter = Meter(trainer, self.setup.group)
        trainer.add_callback(meter)
        trainer.train()
        return meter.rows[SKIPPED:]


def flops(setup: Setup, model: Any, row: Row) -> float:
    """Return the model FLOPs of the update of a step; see the head of this file."""
    sizes: dict[str, int] = defaultdict(int)
    for name, parameter in model.named_parameters():
        if not any(word in name for word in ("embed_tokens", "lm_head", "lora_")):
            sizes["language" if part_of(name) == "language" else "vision"] += parameter.numel()
    text = model.config.text_config
    whole, sft = setup.size == "tiny", row["videos"] == row["samples"]
    per_weight = 6 if whole else 4
    language = per_weight * sizes["language"] * row["tokens"]
    language += 6 * text.num_hidden_layers * text.hidden_size * row["squares"]
    patches = -(-setup.frames // 2) * (setup.side // setup.tiny.patch_size) ** 2
    per_patch = 6 if whole else 2 if sft else 0
    return language + per_patch * sizes["vision"] * patches * row["videos"]


def table(
    found: dict[str, list[Row]], peak: float | None, model_flops: Callable[[Row], float]
) -> str:
    """Return the medians as a Markdown table, one line per setting."""
    phases = [p for p in PHASES if any(p in row for rows in found.values() for row in rows)]
    head = ["setting", "s/step", "CPU s/step", "samples/s", "tokens/step", "tokens/s"]
    head += ["CPU ms/1000 tokens", *phases, *(["MFU of the update"] if peak else [])]
    lines = [head, ["---", *["---:"] * (len(head) - 1)]]
    for name, rows in found.items():
        wall, cpu, tokens = (median(row[key] for row in rows) for key in ("wall", "cpu", "tokens"))
        samples = median(row["samples"] / row["wall"] for row in rows)
        line = [name, f"{wall:.3f}", f"{cpu:.3f}", f"{samples:.1f}", f"{tokens:.0f}"]
        line += [f"{median(row['tokens'] / row['wall'] for row in rows):.0f}"]
        line += [f"{median(1e6 * row['cpu'] / row['tokens'] for row in rows):.0f}"]
        line += [f"{median(row.get(phase, 0.0) for row in rows):.3f}" for phase in phases]
        if peak:
            used = (model_flops(row) / row["update"] for row in rows)
            line.append(f"{median(used) / (1e12 * peak):.1%}")
        lines.append(line)
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def batched(rows: list[Row], size: int) -> list[list[Row]]:
    """Return the rows of each round."""
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def main() -> None:
    """Measure and print everything."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--family", default="qwen2_5_vl", choices=list(COORDINATE_FORMATS))
    parser.add_argument("--size", default="tiny", choices=["tiny", "3b"])
    parser.add_argument("--engine", default="transformers", choices=["transformers", "vllm"])
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--side", type=int, default=64, help="pixels")
    parser.add_argument("--rows", type=int, default=16, help="sequences per step")
    parser.add_argument("--group", type=int, default=8, help="answers to a prompt")
    parser.add_argument("--answer", type=int, default=32, help="longest answer in tokens")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peak-tflops", type=float, help="of the GPU, in the precision computed")
    given = parser.parse_args()
    setup = Setup(**{name: getattr(given, name) for name in Setup.__dataclass_fields__})
    with tempfile.TemporaryDirectory() as folder:
        try:
            check_machine(setup, Path(folder) / "shape")
        except ModelError as error:
            raise SystemExit(str(error)) from None
        measure(Bench(setup, Path(folder), given.steps), given)


def measure(bench: Bench, given: argparse.Namespace) -> None:
    """Let the settings take turns, and print their medians."""
    settings: dict[str, tuple[Callable[[], list[Row]], bool]] = {
        "SFT": (bench.sft, False),
        "SFT, data kept": (bench.sft, True),
        "GRPO": (bench.grpo, False),
        "GRPO, data kept": (bench.grpo, True),
        "TRL's GRPO on images": (bench.images, True),
    }
    if given.engine == "vllm":
        settings["GRPO, vLLM, data kept"] = (lambda: bench.grpo("vllm"), True)
    found: dict[str, list[Row]] = defaultdict(list)
    known: dict[str, Any] = {}
    for _ in range(given.rounds):
        for name, (run, kept) in settings.items():
            with read_once(known) if kept else nullcontext():
                found[name] += run()
    stage = bench.setup.grpo(bench.model, 1)
    model = trainable_model(bench.model, stage.model, stage.grpo)
    print(table(found, given.peak_tflops, partial(flops, bench.setup, model)))
    for key in ("wall", "cpu"):
        ours, theirs = (
            [
                median(row[key] / row["tokens"] for row in rows)
                for rows in batched(found[name], given.steps)
            ]
            for name in ("GRPO, data kept", "TRL's GRPO on images")
        )
        ratios = sorted(one / other for one, other in zip(ours, theirs, strict=True))
        print(
            f"{key} per token, GRPO on video / TRL on images: {median(ratios):.2f} "
            f"({ratios[0]:.2f} to {ratios[-1]:.2f} over {given.rounds} rounds)"
        )
    if torch.cuda.is_available():
        print(f"peak memory of torch: {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")


if __name__ == "__main__":
    main()
