"""Tiny Qwen2.5-VL and Qwen3-VL from their real classes, built offline, for demo and tests.

Configuration, processor, chat template and special tokens are the families' own; only the sizes
and the vocabulary are small.
"""

from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Any

from medtune.config.base import Family
from medtune.config.training import ModelConfig, TinyConfig
from medtune.models.added_tokens import add_tokens
from medtune.models.torchvision_ops import declare_missing_ops

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
VOCABULARY = 1200
THETA = {"qwen2_5_vl": 10.0, "qwen3_vl": 10000.0}


def chat_template(family: Family) -> str:
    """Return a family's chat template, as shipped with TRL."""
    return resources.files("trl").joinpath("chat_templates", f"{family}.jinja").read_text()


def train_tokenizer(texts: Iterable[str]) -> Any:
    """Return a byte-level BPE tokenizer that makes numbers and recurring phrases single tokens.

    Words are not split from each other, so a whole sentence of a prompt becomes one token and
    the sequence is mostly video, as in a real prompt of a real video.

    Args:
        texts: Prompts and answers; the vocabulary is learned from them.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r" ?\p{N}{1,3}|[^\p{N}]+?(?= ?\p{N}|$)"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    numbers = " " + " ".join(str(n) for n in range(100))
    tokenizer.train_from_iterator([*texts, *[numbers] * 10], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL_TOKENS[3:]),
        padding_side="left",
    )


def _rope(family: Family, head: int, theta: float | None) -> dict[str, Any]:
    """Rotary parameters with the family's proportions of time, height and width frequencies."""
    half = head // 2
    time = half // 4
    section = [time, (half - time) // 2, half - time - (half - time) // 2]
    rope: dict[str, Any] = {
        "rope_type": "default",
        "rope_theta": theta or THETA[family],
        "mrope_section": section,
    }
    return rope | ({"mrope_interleaved": True} if family == "qwen3_vl" else {})


INITIALIZER_RANGE = 0.1


def tiny_config(family: Family, tiny: TinyConfig, tokenizer: Any) -> Any:
    """Return the family's real configuration class with tiny sizes."""
    declare_missing_ops()
    from transformers import Qwen2_5_VLConfig, Qwen3VLConfig

    head = tiny.hidden_size // tiny.heads
    text: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": tiny.hidden_size,
        "intermediate_size": tiny.mlp_size,
        "num_hidden_layers": tiny.layers,
        "num_attention_heads": tiny.heads,
        "num_key_value_heads": tiny.heads,
        "max_position_embeddings": 4096,
        "initializer_range": INITIALIZER_RANGE,
        "rope_parameters": _rope(family, head, tiny.rope_theta),
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision: dict[str, Any] = {
        "depth": tiny.vision_layers,
        "hidden_size": tiny.vision_size,
        "intermediate_size": 2 * tiny.vision_size,
        "num_heads": 4,
        "patch_size": tiny.patch_size,
        "out_hidden_size": tiny.hidden_size,
        "initializer_range": INITIALIZER_RANGE,
    }
    names = {
        "image_token_id": "<|image_pad|>",
        "video_token_id": "<|video_pad|>",
        "vision_start_token_id": "<|vision_start|>",
        "vision_end_token_id": "<|vision_end|>",
    }
    ids = {key: tokenizer.convert_tokens_to_ids(token) for key, token in names.items()}
    if family == "qwen2_5_vl":
        vision |= {
            "fullatt_block_indexes": list(range(tiny.vision_layers)),
            "window_size": 14 * tiny.patch_size,
            "tokens_per_second": 2,
        }
        return Qwen2_5_VLConfig(text_config=text, vision_config=vision, **ids)
    text["head_dim"] = head
    vision |= {"deepstack_visual_indexes": [0], "num_position_embeddings": 64}
    return Qwen3VLConfig(text_config=text, vision_config=vision, **ids)


def tiny_processor(family: Family, tiny: TinyConfig, tokenizer: Any) -> Any:
    """Return the family's real processor around a small tokenizer and patch size."""
    declare_missing_ops()
    import transformers
    from transformers import Qwen2VLImageProcessor

    merged = 2 * tiny.patch_size
    size = {"shortest_edge": merged**2, "longest_edge": 4096 * merged**2}
    sizes = {"patch_size": tiny.patch_size, "temporal_patch_size": 2, "merge_size": 2, "size": size}
    video, processor = {
        "qwen2_5_vl": (transformers.Qwen2VLVideoProcessor, transformers.Qwen2_5_VLProcessor),
        "qwen3_vl": (transformers.Qwen3VLVideoProcessor, transformers.Qwen3VLProcessor),
    }[family]
    return processor(
        image_processor=Qwen2VLImageProcessor(**sizes),
        tokenizer=tokenizer,
        video_processor=video(**sizes, do_sample_frames=False),
        chat_template=chat_template(family),
    )


def build_tiny(folder: Path, model_config: ModelConfig, texts: Iterable[str], seed: int) -> int:
    """Write a tiny random model with its processor to a folder; return its parameter count."""
    import torch
    from transformers import AutoModelForImageTextToText

    family, tiny = model_config.family, model_config.tiny
    tokenizer = train_tokenizer(texts)
    config = tiny_config(family, tiny, tokenizer)
    torch.manual_seed(seed)
    model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    processor = tiny_processor(family, tiny, tokenizer)
    add_tokens(model, processor, model_config.added_tokens)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return int(model.num_parameters())
