"""CheXbert: fourteen findings of a report by a fine-tuned BERT.

Smit et al., "CheXbert", EMNLP 2020: a BERT whose [CLS] vector goes to a head per finding, with the
classes blank, positive, negative and uncertain; "No Finding" has the first two.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medtune.metrics.bertscore import LONGEST, encode
from medtune.models.torchvision_ops import declare_missing_ops
from medtune.runtime.errors import ModelError

FINDINGS = (
    *("Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema"),
    *("Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion"),
    *("Pleural Other", "Fracture", "Support Devices", "No Finding"),
)
FIVE = ("Cardiomegaly", "Edema", "Consolidation", "Atelectasis", "Pleural Effusion")
F1_NAMES = ("micro_14", "macro_14", "micro_5", "macro_5")
POSITIVE, UNCERTAIN = 1, 3
WEIGHTS = ("model.safetensors", "chexbert.pth")


class Chexbert:
    """CheXbert in a local folder.

    Args:
        folder: `config.json` and tokenizer of the BERT, and the weights: `model.safetensors`, or
            `chexbert.pth` as its authors publish it, which is read without running code.
        device: `cpu` or `cuda`.
        batch_size: Texts read together.

    Raises:
        ModelError: The folder cannot be read.
    """

    def __init__(self, folder: Path, device: str = "cpu", batch_size: int = 32) -> None:
        import torch

        declare_missing_ops()
        from transformers import AutoConfig, AutoTokenizer, BertModel

        try:
            self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            config = AutoConfig.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError) as error:
            raise ModelError(folder, f"cannot be read ({error})", _REMEDY) from error
        classes = [4] * (len(FINDINGS) - 1) + [2]
        heads = [torch.nn.Linear(config.hidden_size, number) for number in classes]
        bert: Any = BertModel(config)
        # Named as in the published weights.
        network: Any = torch.nn.ModuleDict(
            {"bert": bert, "linear_heads": torch.nn.ModuleList(heads)}
        )
        try:
            network.load_state_dict(_weights(folder))
        except RuntimeError as error:
            raise ModelError(folder, f"the weights do not fit ({error})", _REMEDY) from error
        network.to(device).eval()
        self.bert, self.heads = network["bert"], network["linear_heads"]
        self.batch_size = batch_size

    def read(self, texts: Sequence[str]) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
        """Return which findings texts have (texts, 14), and their [CLS] vectors (texts, width).

        What is uncertain counts as there, as in published figures. An empty text has none, and a
        vector of zeros.
        """
        import torch

        there = np.zeros((len(texts), len(FINDINGS)), dtype=bool)
        vectors = np.zeros((len(texts), self.bert.config.hidden_size), dtype=np.float32)
        asked = [number for number, text in enumerate(texts) if text.strip()]
        for start in range(0, len(asked), self.batch_size):
            chosen = asked[start : start + self.batch_size]
            ids = [self._ids(texts[number]) for number in chosen]
            found = encode(self.bert, ids, self.tokenizer.pad_token_id, -1)
            first = torch.stack([rows[0] for rows in found])
            with torch.no_grad():
                classes = [head(first.to(self.bert.device)).argmax(1).cpu() for head in self.heads]
            told = torch.stack(classes, dim=1).numpy()
            there[chosen] = (told == POSITIVE) | (told == UNCERTAIN)
            vectors[chosen] = first.numpy()
        return there, vectors

    def _ids(self, text: str) -> list[int]:
        plain = " ".join(text.split())
        ids: list[int] = self.tokenizer(plain, truncation=True, max_length=LONGEST)["input_ids"]
        return ids


_REMEDY = f"put config.json, the tokenizer and {' or '.join(WEIGHTS)} of CheXbert there"


def _weights(folder: Path) -> dict[str, Any]:
    """Return the weights by name.

    Raises:
        ModelError: There are none, or they are more than weights.
    """
    import pickle

    import torch
    from safetensors.torch import load_file

    safe, published = (folder / name for name in WEIGHTS)
    if safe.is_file():
        found = load_file(safe)
    elif published.is_file():
        try:
            found = torch.load(published, map_location="cpu", weights_only=True)["model_state_dict"]
        except (pickle.UnpicklingError, KeyError) as error:
            raise ModelError(published, f"holds no weights alone ({error})", _REMEDY) from error
    else:
        raise ModelError(folder, "there are no weights", _REMEDY)
    named = {name.removeprefix("module."): value for name, value in found.items()}
    # Older releases of transformers saved this buffer.
    return {name: v for name, v in named.items() if name != "bert.embeddings.position_ids"}


def compared(model: Chexbert, pairs: Sequence[tuple[str, str]]) -> list[list[int]]:
    """Return, by pair and finding, 1 if the text has it, and 2 more if the reference has it."""
    said, true = (model.read([pair[side] for pair in pairs])[0] for side in (0, 1))
    codes: list[list[int]] = (said + 2 * true).tolist()
    return codes


def counts(findings: Sequence[int]) -> NDArray[np.float64]:
    """Return true positives, false positives and false negatives of a pair's findings: (14, 3).

    Args:
        findings: What `compared` says of the pair.
    """
    return np.stack([np.asarray(findings) == code for code in (3, 1, 2)], axis=-1).astype(float)


def pair_f1(text: str, findings: Sequence[int]) -> float:
    """Return F1 of the 14 findings of a pair, 0..1: 1 if neither has one, 0 of an empty text."""
    hits, false, missed = counts(findings).sum(axis=0).tolist()
    whole = 2 * hits + false + missed
    return float(bool(text.strip())) * (2 * hits / whole if whole else 1.0)


def findings_f1(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return CheXbert F1 of data sets, in the order of `F1_NAMES` (..., 4), 0..1.

    A finding that neither side ever has counts as 0 in a macro mean, as in published figures.

    Args:
        counts: Sums of `counts` over the pairs (..., 14, 3).
    """
    found = []
    for chosen in (FINDINGS, FIVE):
        own = counts[..., [FINDINGS.index(one) for one in chosen], :] * [2.0, 1.0, 1.0]
        own = np.concatenate([own, own.sum(axis=-2, keepdims=True)], axis=-2)
        f1 = own[..., 0] / np.maximum(1.0, own.sum(axis=-1))
        found += [f1[..., -1], f1[..., :-1].mean(axis=-1)]
    return np.stack(found, axis=-1)
