"""Tokens that an experiment adds to the vocabulary of its base model, such as bins of time."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medtune.config.training import ModelConfig
from medtune.models.loading import load_model, load_processor
from medtune.runtime.errors import ModelError

KEY = "model.added_tokens"


def add_tokens(model: Any, processor: Any, texts: Sequence[str]) -> None:
    """Make each text one token of a tokenizer and a row of input and output embeddings.

    A new row is the mean of the rows of the pieces that the tokenizer has split its text into: the
    model goes on reading what it has read there, and the token's logit is the mean of the pieces'.
    A random row, or the untrained one that a padded vocabulary has already, means nothing. Texts of
    the same pieces (`<t12>`, `<t21>`) start out equal. Embeddings grow only if they are too short.

    Raises:
        ModelError: A text is a token already, holds a special token, or cannot become a token.
    """
    import torch
    from tokenizers import AddedToken

    tokenizer = processor.tokenizer
    pieces = [_pieces(tokenizer, text) for text in texts]
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in texts])
    ids = tokenizer.convert_tokens_to_ids(list(texts))
    for text, number in zip(texts, ids, strict=True):
        if tokenizer.encode(text) != [number] or tokenizer.decode([number]) != text:
            raise ModelError(KEY, f"{text!r} is not read back as written", "take ASCII, no spaces")
    if max(ids, default=0) >= model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(max(ids) + 1, mean_resizing=False)
    with torch.no_grad():
        for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
            for number, old in zip(ids, pieces, strict=True):
                layer.weight[number] = layer.weight[old].float().mean(dim=0)


def _pieces(tokenizer: Any, text: str) -> list[int]:
    """Return the tokens that a new token stands for."""
    pieces: list[int] = tokenizer.encode(text)
    if len(pieces) < 2 or text in tokenizer.get_vocab():
        raise ModelError(KEY, f"{text!r} is one token of the base model already", "take it away")
    if set(pieces) & set(tokenizer.all_special_ids):
        raise ModelError(KEY, f"{text!r} holds a special token", "choose another text")
    return pieces


def write_with_tokens(source: Path, target: Path, config: ModelConfig) -> None:
    """Write a model folder again with `model.added_tokens`, in the precision of its files."""
    # The loader of flash attention wants a GPU, which this stage has not.
    model = load_model(source, config.model_copy(update={"attn_implementation": "sdpa"}), "auto")
    processor = load_processor(source)
    add_tokens(model, processor, config.added_tokens)
    model.save_pretrained(target)
    processor.save_pretrained(target)


def added_ids(folder: str | Path, config: ModelConfig) -> list[int]:
    """Return the ids of `model.added_tokens` in a model folder.

    Raises:
        ModelError: The folder lacks one: it was written before.
    """
    if not config.added_tokens:
        return []
    vocabulary = load_processor(folder).tokenizer.get_vocab()
    missing = [text for text in config.added_tokens if text not in vocabulary]
    if missing:
        raise ModelError(folder, f"lacks the added token {missing[0]!r}", "rerun its stage")
    return [vocabulary[text] for text in config.added_tokens]
