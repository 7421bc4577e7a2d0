"""Families that answer about films and are not trained: their prompts, inputs and loading.

They are shown films by their own processors, which resize as they were trained with; only the
families that are trained assert that nothing is resized. Their boxes are fractions, which no resize
changes (see `medtune.models.box_format`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from medtune.config.base import RemoteFamily
from medtune.config.training import AnsweringConfig
from medtune.models.inputs import read_frames
from medtune.models.loading import load_model, load_processor, with_plain_settings
from medtune.models.torchvision_ops import declare_missing_ops
from medtune.records.sample import Media, Sample, Turn
from medtune.runtime.errors import ConfigError, VisionError

IMAGE = "<image>"  # in a question of `QUESTIONS`: where its image stands
# Questions as a family was trained to be asked them, by task; others are asked as everyone is.
# maira2: `processing_maira2.py` of huggingface.co/microsoft/maira-2; the request for a report could
# not be compared with that file and should be, before its scores are believed. chexagent:
# `model_chexagent/chexagent.py` of github.com/Stanford-AIMI/CheXagent.
QUESTIONS = {
    "maira2": {
        "phrase_grounding": f"Given the current frontal image{IMAGE} Repeat the following finding "
        "as a grounded phrase with bounding boxes indicating all locations where it can be seen in "
        "the given chest X-ray image. Finding: {phrase}",
        "report_generation": f"Given the current frontal image only{IMAGE} Provide a description "
        "of the findings in the radiology study in comparison to the prior frontal image. "
        "INDICATION: N/A TECHNIQUE: N/A COMPARISON: N/A",
    },
    "chexagent": {
        "phrase_grounding": "Please locate the following phrase: {phrase}",
        "abnormality_grounding": "Locate areas in the chest X-ray where {name} are present, using "
        "bounding box coordinates",
    },
}
# The chat of LLaVA-Med 1.5: `conv_mistral_instruct` of github.com/microsoft/LLaVA-Med. Conversions
# of it to transformers' classes may lack one.
LLAVA_MED = """\
{% for message in messages %}{% if message['role'] == 'user' %}[INST] \
{% for part in message['content'] %}\
{{ '<image>\n' if part['type'] == 'image' else part['text'] }}{% endfor %} [/INST]\
{% else %} {{ message['content'][0]['text'] }} </s>{% endif %}{% endfor %}"""


@dataclass(frozen=True)
class EncodedImagePrompt:
    """One prompt with its image.

    Attributes:
        input_ids: Token ids (n,), up to the assistant's turn.
        types: (n,) 1 for tokens of the image, where the family's model asks for them.
        vision: The processor's other tensors.
    """

    input_ids: Any
    types: Any | None
    vision: dict[str, Any]


def own_question(family: str, sample: Sample) -> str | None:
    """Return a question as a family was trained to be asked it, or None: as everyone is asked."""
    form = QUESTIONS.get(family, {}).get(sample.task)
    return form.format(**sample.truth) if form and not sample.turns else None


def encode_film(
    processor: Any,
    config: AnsweringConfig,
    prompt: str,
    media: Media,
    root: Path,
    turns: Sequence[Turn] = (),
    square: bool = False,
) -> EncodedImagePrompt:
    """Return the encoded question about a film, after what was said before.

    Args:
        processor: The model's own (of chexagent: its tokenizer).
        config: The model section.
        prompt: The question.
        media: The film.
        root: Its data set's folder.
        turns: Earlier questions about it, and their answers.
        square: Pad the film at right and bottom to a square first.

    Raises:
        VisionError: It is a video.
    """
    if media.kind != "image":
        raise VisionError(media.path, f"{config.family} answers about films alone", "take it away")
    pixels = read_frames(media, root)[0]
    if config.family == "chexagent":
        return _chexagent(processor, prompt, root / media.path, turns)
    picture = Image.fromarray(squared(pixels) if square else pixels)
    if config.family == "maira2":  # as its own processor prepares films before it is called
        picture = ImageOps.autocontrast(picture.convert("L"))
    text, tokenizer = chat_text(processor, config.family, prompt, turns), processor.tokenizer
    begun = bool(tokenizer.bos_token) and text.startswith(tokenizer.bos_token)
    batch = processor(
        text=text, images=[picture], return_tensors="pt", add_special_tokens=not begun
    )
    own = ("input_ids", "attention_mask", "token_type_ids")
    types = batch["token_type_ids"][0] if "token_type_ids" in batch else None
    vision = {name: batch[name] for name in batch if name not in own}
    return EncodedImagePrompt(batch["input_ids"][0], types, vision)


def squared(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return an image (rows, columns, 3) padded at right and bottom to a black square."""
    rows, columns = pixels.shape[:2]
    side = max(rows, columns)
    return np.pad(pixels, ((0, side - rows), (0, side - columns), (0, 0)))


def chat_text(processor: Any, family: str, prompt: str, turns: Sequence[Turn] = ()) -> str:
    """Return the chat of a question up to the assistant's turn, by the model's own template."""
    chat = []
    for turn in turns:
        chat += [_said("user", turn.prompt), _said("assistant", turn.target)]
    chat.append(_said("user", prompt))
    image: dict[str, Any] = {"type": "image"}
    if family == "maira2":  # its template names what an entry lacks
        image |= {"index": 0, "text": None}
    before, _, after = chat[0]["content"][0]["text"].rpartition(IMAGE)
    first = [image, {"type": "text", "text": after}]
    chat[0]["content"] = [{"type": "text", "text": before}, *first] if before else first
    if family == "llava_med":
        template, owner = LLAVA_MED, processor
    else:
        owner = processor if getattr(processor, "chat_template", None) else processor.tokenizer
        template = owner.chat_template
    text: str = owner.apply_chat_template(
        chat, chat_template=template, tokenize=False, add_generation_prompt=True
    )
    return text


def _said(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "content": [{"type": "text", "text": text}]}


def _chexagent(
    tokenizer: Any, prompt: str, path: Path, turns: Sequence[Turn]
) -> EncodedImagePrompt:
    """Return a question to CheXagent 2, whose tokens hold the path of the film.

    As in `model_chexagent/chexagent.py` of github.com/Stanford-AIMI/CheXagent.
    """
    asked = [*(turn.prompt for turn in turns), prompt]
    asked[0] = tokenizer.from_list_format([{"image": str(path)}, {"text": asked[0]}])
    chat = [{"from": "system", "value": "You are a helpful assistant."}]
    for number, question in enumerate(asked):
        chat.append({"from": "human", "value": question})
        chat += [{"from": "gpt", "value": turn.target} for turn in turns[number : number + 1]]
    ids = tokenizer.apply_chat_template(
        chat, add_generation_prompt=True, return_tensors="pt", return_dict=False
    )
    return EncodedImagePrompt(ids[0], None, {})


def film_batch(asked: Sequence[EncodedImagePrompt], pad: int) -> dict[str, Any]:
    """Return model inputs for generation, padded on the left to the longest prompt.

    LLaVA-OneVision cuts films of different shapes into different numbers of tiles; the model knows
    from `image_sizes` how many count.
    """
    import torch

    from medtune.models.batches import pad_left

    batch = {
        "input_ids": pad_left([one.input_ids for one in asked], pad),
        "attention_mask": pad_left([torch.ones_like(one.input_ids) for one in asked], 0),
    }
    if asked[0].types is not None:
        batch["token_type_ids"] = pad_left([one.types for one in asked], 0)
    for name in asked[0].vision:
        tensors = [one.vision[name] for one in asked]
        if tensors[0].dim() == 5:  # films, tiles, colors, rows, columns
            most = max(tensor.shape[1] for tensor in tensors)
            missing = [(0,) * 7 + (most - tensor.shape[1],) for tensor in tensors]
            tensors = list(map(torch.nn.functional.pad, tensors, missing))
        batch[name] = torch.cat(tensors)
    return batch


def placeholders(processor: Any) -> list[int]:
    """Return the tokens that are never sampled: those of images and videos."""
    names = ("image_token_id", "video_token_id", "boi_token_id", "eoi_token_id")
    owners = (processor, getattr(processor, "tokenizer", processor))
    found = {getattr(owner, name, None) for owner in owners for name in names}
    return sorted(token for token in found if token is not None)


def _is_remote(config: AnsweringConfig) -> bool:
    """Return whether a model is loaded by code of its own folder.

    Raises:
        ConfigError: It is, and that is not allowed.
    """
    remote = config.family in get_args(RemoteFamily)
    if remote and not config.remote_code:
        raise ConfigError(
            f"a {config.family}",
            "is loaded by Python code from its own folder, which is not allowed",
            "read that code and set remote_code: true in its entry of evaluation.models",
        )
    return remote


def load_film_processor(path: Path, config: AnsweringConfig) -> Any:
    """Return the model's own processor, of chexagent its tokenizer.

    Raises:
        ConfigError: It needs code of its folder, which is not allowed.
    """
    if not _is_remote(config):
        return load_processor(path)
    declare_missing_ops()
    from transformers import AutoProcessor, AutoTokenizer

    auto = AutoTokenizer if config.family == "chexagent" else AutoProcessor
    return auto.from_pretrained(str(path), trust_remote_code=True)


def load_film_model(path: Path, config: AnsweringConfig) -> Any:
    """Return the model in float32.

    Raises:
        ConfigError: It needs code of its folder, which is not allowed.
    """
    if not _is_remote(config):
        return load_model(path, config)
    declare_missing_ops()
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    auto = AutoModelForImageTextToText if config.family == "llava_med" else AutoModelForCausalLM
    model = auto.from_pretrained(
        str(path), dtype="float32", use_safetensors=True, trust_remote_code=True
    )
    return with_plain_settings(model)
