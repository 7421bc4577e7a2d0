"""CheXbert: fourteen findings of a report by a fine-tuned BERT.

Smit et al., "CheXbert", EMNLP 2020: a BERT whose [CLS] vector goes to a head per finding, with the
classes blank, positive, negative and uncertain; "No Finding" has the first two.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medtune.errors import ModelError
from medtune.models.torchvision_ops import declare_missing_ops
from medtune.scores.bertscore import LONGEST, encode

FINDINGS = (
    *("Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema"),
    *("Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion"),
    *("Pleural Other", "Fracture", "Support Devices", "No Finding"),
)
FIVE = ("Cardiomegaly", "Edema", "Consolidation", "Atelectasis", "Pleural Effusion")
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


def findings_f1(answered: NDArray[np.bool_], truth: NDArray[np.bool_]) -> dict[str, float]:
    """Return CheXbert F1 of a data set: `micro_14`, `macro_14`, `micro_5`, `macro_5`, 0..1.

    A finding that neither side ever has counts as 0 in a macro mean, as in published figures.

    Args:
        answered: What `Chexbert.read` says of the answers (answers, 14).
        truth: The same of the references.
    """
    found = {}
    for name, chosen in (("14", FINDINGS), ("5", FIVE)):
        columns = [FINDINGS.index(one) for one in chosen]
        a, b = answered[:, columns], truth[:, columns]
        shared, whole = (a & b).sum(axis=0), a.sum(axis=0) + b.sum(axis=0)
        found[f"micro_{name}"] = float(2 * shared.sum() / max(1, whole.sum()))
        found[f"macro_{name}"] = float((2 * shared / np.maximum(1, whole)).mean())
    return found
