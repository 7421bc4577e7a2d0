"""The parts of a model, and which of them are trained: whole, by adapters, or by rows."""

import re
import warnings
from collections.abc import Sequence
from typing import Any

from medtune.config.base import Part
from medtune.config.training import LoraConfig, OptimizerConfig
from medtune.runtime.errors import ModelError

LANGUAGE_LINEAR = r".*language_model.*\.(q|k|v|o|gate|up|down)_proj"
PROJECTORS = ("merger", "deepstack_merger_list")
# A projector as one module; PEFT copies modules, but not the list that holds Qwen3-VL's.
PROJECTOR_MODULE = re.compile(r"\bvisual\.(merger|deepstack_merger_list\.\d+)$")
HEAD = ("embed_tokens", "lm_head")


def part_of(name: str) -> Part:
    """Return the part that a parameter belongs to.

    The head is input embeddings and output layer, which some models tie to one matrix.
    """
    if "visual." in name:
        return "projector" if any(projector in name for projector in PROJECTORS) else "vision"
    return "head" if any(f"{layer}." in name for layer in HEAD) else "language"


def set_trainable(model: Any, optimizer: OptimizerConfig, added: Sequence[int] = ()) -> Any:
    """Return a model, with adapters if wanted, of which what is trained needs gradients.

    Args:
        model: The model.
        optimizer: The training section.
        added: Ids of added tokens, whose rows are trained beside adapters.

    Raises:
        ModelError: The configuration leaves nothing to train.
    """
    import torch

    if optimizer.lora:
        model = _with_adapters(model, optimizer, optimizer.lora, added)
    else:
        for name, parameter in model.named_parameters():
            parameter.requires_grad = part_of(name) not in optimizer.freeze
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trained:
        raise ModelError("freeze", "every part is frozen", "shorten it")
    for parameter in trained:  # PEFT copies a projector in the precision of the base
        parameter.data = parameter.data.float()
    assert all(parameter.dtype == torch.float32 for parameter in trained)
    return model


def _with_adapters(
    model: Any, optimizer: OptimizerConfig, lora: LoraConfig, added: Sequence[int]
) -> Any:
    """Return the model with adapters on its language part, and copies of what else is trained."""
    import peft

    whole = list(HEAD) if lora.train_head else []
    if "projector" not in optimizer.freeze:
        whole += [name for name, _ in model.named_modules() if PROJECTOR_MODULE.search(name)]
    rows = {key: list(added) for key in HEAD} if added and optimizer.trains_rows else None
    model = peft.get_peft_model(
        model,
        peft.LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            target_modules=LANGUAGE_LINEAR,
            modules_to_save=whole or None,
            trainable_token_indices=rows,
            ensure_weight_tying=lora.train_head and model.config.tie_word_embeddings,
        ),
    )
    # TRL's copy of the adapters for the KL, which is neither tied nor trained.
    warnings.filterwarnings("ignore", "You have requested `ensure_weight_tying`", UserWarning)
    if rows:  # TRL's fused head asks for the bias that PEFT's wrapper does not pass on
        model.get_output_embeddings().bias = None
    return model


def keep_reference_exact(model: Any) -> None:
    """Make TRL's copies of what is trained, for the KL, what was trained so far.

    PEFT makes them of the base in its precision, which rounds; TRL 1.16 leaves rows out.
    """
    weights = dict(model.named_parameters())
    for name, copy in weights.items():
        parts = name.split(".")
        if "ref" in parts:
            trained = weights[".".join("default" if part == "ref" else part for part in parts)]
            if parts[-1] == "ref" or copy.dtype != trained.dtype:
                copy.data = trained.data.clone()
