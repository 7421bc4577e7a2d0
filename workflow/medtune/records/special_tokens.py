"""Texts that a model's tokenizer reads as control tokens of its chat, known without the model.

In a question, an answer, a report or a name they would end a turn, begin another or ask for pixels
that are not there. The data set is written before any model is at hand; what the model's tokenizer
has beside these is refused when texts are encoded (`medtune.models.inputs.check_texts`).
`<image>` and `<video>` are words to the families that are trained.
"""

import re
from collections.abc import Iterable

from medtune.runtime.errors import DataError

QWEN = (  # Qwen2.5-VL and Qwen3-VL, and LLaVA-OneVision on Qwen2
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
GEMMA = (
    "<bos>",
    "<eos>",
    "<start_of_turn>",
    "<end_of_turn>",
    "<start_of_image>",
    "<end_of_image>",
    "<image_soft_token>",
)
LLAMA = ("<s>", "</s>")  # MAIRA-2 on Vicuna, LLaVA-Med on Mistral
SPECIAL = re.compile("|".join(map(re.escape, (*QWEN, *GEMMA, *LLAMA))))
SHOWN = 20  # ids in an error


def special_in(texts: Iterable[str | None]) -> list[str]:
    """Return the special tokens that texts hold, each once, in order."""
    return list(dict.fromkeys(token for text in texts for token in SPECIAL.findall(text or "")))


class TextCheck:
    """Sees what is written to a data set, and refuses all of it where a text holds a token."""

    def __init__(self) -> None:
        self._refused: list[str] = []

    def see(self, name: str, texts: Iterable[str | None]) -> None:
        """Take in the texts of a sample."""
        if tokens := special_in(texts):
            self._refused.append(f"{name} ({', '.join(tokens)})")

    def end(self) -> None:
        """Refuse the data set if any sample is to be refused.

        Raises:
            DataError: It counts the samples and names the first.
        """
        if self._refused:
            more = len(self._refused) - SHOWN
            raise DataError(
                "data set",
                f"the texts of {len(self._refused)} samples hold special tokens of models: "
                f"{'; '.join(self._refused[:SHOWN])}{f'; and {more} more' if more > 0 else ''}",
                "take them out of the reports, tables or conversations of the source; what is "
                "converted stays as it is",
            )
