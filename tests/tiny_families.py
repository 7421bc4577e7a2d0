"""Tiny random models of the families that only answer, made offline from the real classes."""

from importlib import resources
from pathlib import Path

import torch

from medtune.models.tiny import INITIALIZER_RANGE, SPECIAL_TOKENS, train_tokenizer
from medtune.models.torchvision_ops import declare_missing_ops

SIDE, PATCH = 32, 8  # of what the vision tower is shown
VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": SIDE,
    "patch_size": PATCH,
}
TEXT = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 4096,
    "initializer_range": INITIALIZER_RANGE,
}
# As in chat_template.json of huggingface.co/llava-hf/llava-onevision-qwen2-7b-ov-hf.
LLAVA_CHAT = """\
{% for message in messages %}{{ '<|im_start|>' + message['role'] + ' ' }}\
{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>{% endif %}{% endfor %}\
{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ '\n' + part['text'] }}\
{% endif %}{% endfor %}{{ '<|im_end|>' }}{% endfor %}\
{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""
GEMMA_TOKENS = {
    "image_token": "<image_soft_token>",
    "boi_token": "<start_of_image>",
    "eoi_token": "<end_of_image>",
}
TURNS = ["<start_of_turn>", "<end_of_turn>"]


def make_llava_onevision(folder: Path, texts: list[str]) -> None:
    declare_missing_ops()
    import transformers
    from transformers import LlavaOnevisionConfig, LlavaOnevisionProcessor

    tokenizer = train_tokenizer([*texts, LLAVA_CHAT])
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>", "<video>"]})
    image, video = tokenizer.convert_tokens_to_ids(["<image>", "<video>"])
    pinpoints = [[SIDE * rows, SIDE * columns] for rows in (1, 2) for columns in (1, 2, 3)]
    size = {"height": SIDE, "width": SIDE}
    processor = LlavaOnevisionProcessor(
        image_processor=transformers.LlavaOnevisionImageProcessor(
            size=size, image_grid_pinpoints=pinpoints
        ),
        tokenizer=tokenizer,
        video_processor=transformers.LlavaOnevisionVideoProcessor(size=size),
        num_image_tokens=(SIDE // PATCH) ** 2,
        vision_feature_select_strategy="full",
        chat_template=LLAVA_CHAT,
    )
    config = LlavaOnevisionConfig(
        vision_config=VISION | {"model_type": "siglip_vision_model", "vision_use_head": False},
        text_config=TEXT | {"model_type": "qwen2", "vocab_size": len(tokenizer)},
        image_token_index=image,
        video_token_index=video,
        image_grid_pinpoints=pinpoints,
    )
    _write(folder, config, processor, tokenizer.eos_token_id)


def make_gemma3(folder: Path, texts: list[str]) -> None:
    declare_missing_ops()
    from tokenizers.processors import TemplateProcessing
    from transformers import (
        Gemma3Config,
        Gemma3ImageProcessor,
        Gemma3Processor,
        PreTrainedTokenizerFast,
    )

    chat = resources.files("trl").joinpath("chat_templates/gemma3.jinja").read_text()
    trained = train_tokenizer([*texts, chat]).backend_tokenizer
    trained.add_special_tokens(["<bos>", "<eos>", *TURNS, *GEMMA_TOKENS.values()])
    # Gemma's tokenizer begins every text, as its chat template does.
    begin = [("<bos>", trained.token_to_id("<bos>"))]
    trained.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=begin)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=trained,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token=SPECIAL_TOKENS[0],
        extra_special_tokens=GEMMA_TOKENS,
    )
    ids = {name: tokenizer.convert_tokens_to_ids(text) for name, text in GEMMA_TOKENS.items()}
    count = (SIDE // PATCH // 2) ** 2
    processor = Gemma3Processor(
        image_processor=Gemma3ImageProcessor(size={"height": SIDE, "width": SIDE}),
        tokenizer=tokenizer,
        chat_template=chat,
        image_seq_length=count,
    )
    text = TEXT | {
        "vocab_size": len(tokenizer),
        "head_dim": 32,
        "query_pre_attn_scalar": 32,
        "sliding_window": 64,
        "sliding_window_pattern": 2,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = Gemma3Config(
        text_config=text,
        vision_config=VISION,
        mm_tokens_per_image=count,
        image_token_index=ids["image_token"],
        boi_token_index=ids["boi_token"],
        eoi_token_index=ids["eoi_token"],
        initializer_range=INITIALIZER_RANGE,
    )
    ends = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<end_of_turn>")]
    _write(folder, config, processor, ends)


def _write(folder: Path, config, processor, ends: int | list[int]) -> None:
    from transformers import AutoModelForImageTextToText

    torch.manual_seed(1)
    model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
    with torch.no_grad():  # else too faint beside the text to change an answer
        for name, weight in model.named_parameters():
            if "projector" in name:
                weight.normal_(0, 0.5)
    model.generation_config.eos_token_id = ends
    model.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


MAKERS = {"llava_onevision": make_llava_onevision, "gemma3": make_gemma3}
