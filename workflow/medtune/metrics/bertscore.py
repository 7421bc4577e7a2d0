"""BERTScore: agreement of two texts by the vectors of their tokens.

Zhang et al., "BERTScore: evaluating text generation with BERT", ICLR 2020: every token is matched
to the most similar one of the other text; recall is the mean cosine over the reference's tokens,
precision over the answer's, and F1 their harmonic mean.
"""

import csv
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from medtune.models.torchvision_ops import declare_missing_ops
from medtune.runtime.errors import ModelError

BASELINE = "baseline.tsv"
LONGEST = 512  # tokens


class BertScore:
    """BERTScore by a model in a local folder.

    Args:
        folder: An encoder that transformers reads, with its tokenizer. If it holds `baseline.tsv`
            (columns LAYER,P,R,F), scores are rescaled so that chance is 0: (F - b) / (1 - b).
        layer: The layer whose vectors are compared.
        device: `cpu` or `cuda`.
        batch_size: Texts read together.
        references: Texts whose inverse document frequencies weigh the tokens; None: all count
            alike, but for the first and the last, which are no words.

    Raises:
        ModelError: The folder cannot be read, or has fewer layers.
    """

    def __init__(
        self,
        folder: Path,
        layer: int = 5,
        device: str = "cpu",
        batch_size: int = 32,
        references: Iterable[str] | None = None,
    ) -> None:
        self.tokenizer, self.model = load_encoder(folder, device)
        if layer > self.model.config.num_hidden_layers:
            raise ModelError(folder, f"has no layer {layer}", "give the folder of another model")
        self.layer, self.batch_size = layer, batch_size
        self.baseline = _baseline(folder / BASELINE, layer)
        self._frequency: tuple[Counter[int], int] | None = None
        if references is not None:
            told = [set(self._ids(text)) for text in references]
            self._frequency = Counter(one for ids in told for one in ids), len(told)

    def f1(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """Return the F1 of (text, reference) pairs; 0 where one of them is empty.

        1 is perfect. Without a baseline it is a cosine, with one it may be negative.
        """
        texts = sorted({text for pair in pairs for text in pair}, key=lambda one: (len(one), one))
        known: dict[str, tuple[Any, Any]] = {}
        for start in range(0, len(texts), self.batch_size):
            batch = texts[start : start + self.batch_size]
            known |= dict(zip(batch, self._embedded(batch), strict=True))
        return [self._pair(known[text], known[reference]) for text, reference in pairs]

    def _pair(self, answer: tuple[Any, Any], reference: tuple[Any, Any]) -> float:
        (a, of_a), (b, of_b) = answer, reference
        if not of_a.sum() or not of_b.sum():
            return 0.0
        cosine = a @ b.T
        precision = float((cosine.max(1).values * of_a).sum() / of_a.sum())
        recall = float((cosine.max(0).values * of_b).sum() / of_b.sum())
        total = precision + recall
        f1 = 2 * precision * recall / total if total else 0.0
        return f1 if self.baseline is None else (f1 - self.baseline) / (1 - self.baseline)

    def _ids(self, text: str) -> list[int]:
        # Byte-level tokenizers write a word differently at the start of a text.
        lead = " " if "Roberta" in type(self.tokenizer).__name__ else ""
        limit = min(LONGEST, self.tokenizer.model_max_length)
        ids: list[int] = self.tokenizer(lead + text.strip(), truncation=True, max_length=limit)[
            "input_ids"
        ]
        return ids

    def _embedded(self, texts: Sequence[str]) -> list[tuple[Any, Any]]:
        """Return the unit vectors (tokens, width) and the weights (tokens) of texts."""
        import torch

        ids = [self._ids(text) for text in texts]
        vectors = encode(self.model, ids, self.tokenizer.pad_token_id, self.layer)
        return [
            (torch.nn.functional.normalize(v, dim=-1), torch.tensor(self._weights(one)))
            for v, one in zip(vectors, ids, strict=True)
        ]

    def _weights(self, ids: Sequence[int]) -> list[float]:
        if self._frequency is None:
            edges = {self.tokenizer.cls_token_id, self.tokenizer.sep_token_id}
            return [float(one not in edges) for one in ids]
        counts, texts = self._frequency
        return [math.log((texts + 1) / (counts[one] + 1)) for one in ids]


def load_encoder(folder: Path, device: str) -> tuple[Any, Any]:
    """Return tokenizer and encoder of a local folder; weights are read without running code.

    Raises:
        ModelError: They cannot be read.
    """
    declare_missing_ops()
    from transformers import AutoModel, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = AutoModel.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ModelError(
            folder, f"cannot be read ({error})", "put an encoder and its tokenizer there"
        ) from error
    return tokenizer, model.to(device).eval()


def encode(model: Any, ids: Sequence[list[int]], padding: int, layer: int) -> list[Any]:
    """Return the vectors (tokens, width) of token ids at a layer, on the CPU."""
    import torch

    width = max(len(one) for one in ids)
    padded = torch.tensor([one + [padding] * (width - len(one)) for one in ids])
    lengths = torch.tensor([len(one) for one in ids])
    seen = (torch.arange(width) < lengths[:, None]).long()
    with torch.no_grad():
        found = model(
            input_ids=padded.to(model.device),
            attention_mask=seen.to(model.device),
            output_hidden_states=True,
        ).hidden_states[layer]
    return [rows[: len(one)].float().cpu() for rows, one in zip(found, ids, strict=True)]


def _baseline(path: Path, layer: int) -> float | None:
    """Return the F1 of unrelated texts at a layer, or None without a file of them.

    Raises:
        ModelError: The file does not tell it.
    """
    if not path.is_file():
        return None
    with path.open(encoding="utf-8") as file:
        rows = {row.get("LAYER"): row.get("F") for row in csv.DictReader(file)}
    try:
        return float(rows[str(layer)] or "")
    except (KeyError, ValueError):
        raise ModelError(
            path, f"tells no F of layer {layer}", "give the file of this model, LAYER,P,R,F"
        ) from None
