"""Bytes of GPU memory that one process needs for SFT and GRPO, by part.

Weights, gradients and AdamW's two moments are counted parameter by parameter on a model without
content; ZeRO divides them as in Rajbhandari et al. 2020 (arXiv:1910.02054, section 5). Activations
are counted by running one layer of each kind; see `medtune.planning.activations`. What is not
counted: kernels' workspaces, fragmentation, buffers of communication, weights that ZeRO 3 gathers.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from medtune.config.base import Section
from medtune.config.training import ModelConfig, OptimizerConfig
from medtune.planning.activations import Activations, measure
from medtune.training.origin import base_dtype
from medtune.training.trainable import set_trainable

# Tile of the log-probabilities (tokens x vocabulary) in TRL 1.16's fused head; in generation a
# row's last logits are there about three times.
TILE, LOGIT_COPIES = (4096, 32768), 3


class Workload(Section):
    """What one process computes at once, at its largest.

    Attributes:
        rows: Sequences in one forward pass of the update.
        tokens: Of the longest sequence, padding included.
        scored: Tokens of an answer.
        videos: Different videos in that pass.
        patches: Vision patches of the largest video.
        frames: Temporal patches of it.
        rollouts: Answers generated together; 0: none.
        rollout_videos: Different videos among them.
        reference: Whether a whole copy of the model gives reference log-probabilities.
    """

    rows: int
    tokens: int
    scored: int
    videos: int
    patches: int
    frames: int
    rollouts: int = 0
    rollout_videos: int = 0
    reference: bool = False


class ShardingPlan(Section):
    """How processes share a model: ZeRO stage 0 (whole copies), 2 or 3 among `processes`."""

    processes: int = 1
    zero: int = 0

    def share(self, count: int, stage: int) -> int:
        """Return one process's bytes of what is divided from a ZeRO stage on."""
        return -(-count // self.processes) if self.zero >= stage else count


def meta_model(
    folder: Path,
    config: ModelConfig,
    optimizer: OptimizerConfig,
    before: OptimizerConfig | None = None,
) -> Any:
    """Return the model that is trained, without content, on the meta device; see `base_dtype`."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    shape = AutoConfig.from_pretrained(str(folder))
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(
            shape,
            dtype=getattr(torch, base_dtype(config, optimizer, before)),
            # Flash attention has no kernel for the CPU; sdpa saves the same.
            attn_implementation="eager" if config.attn_implementation == "eager" else "sdpa",
        )
        # Which rows are trained makes no difference.
        return set_trainable(model, optimizer, range(len(config.added_tokens)))


def nbytes(parameters: Any) -> int:
    """Return the bytes of tensors."""
    return sum(one.numel() * one.element_size() for one in parameters)


def states(model: Any, bfloat16: bool, sharing: ShardingPlan, reference: bool) -> dict[str, int]:
    """Return bytes of weights, gradients and optimizer of one process.

    AdamW holds two moments of every trained weight, and a float32 step for every tensor.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    frozen = [p for p in model.parameters() if not p.requires_grad]
    everything = sum(p.numel() for p in model.parameters())
    return {
        "frozen weights": sharing.share(nbytes(frozen), 3),
        "trained weights": sharing.share(nbytes(trained), 3),
        "bfloat16 copies": nbytes(trained) // 2 if bfloat16 else 0,
        "gradients": sharing.share(nbytes(trained), 2),
        "AdamW states": sharing.share(2 * nbytes(trained) + 4 * len(trained), 2),
        "reference model": sharing.share(4 * everything, 3) if reference else 0,
    }


class Layers:
    """The activations of a model's parts.

    Args:
        model: As `meta_model` returns it.
        optimizer: The training section.
        bfloat16: Compute under autocast to bfloat16.
    """

    def __init__(self, model: Any, optimizer: OptimizerConfig, bfloat16: bool) -> None:
        parts = dict(model.named_modules())
        self.text = next(part for name, part in parts.items() if name.endswith("language_model"))
        self.vision = next(part for name, part in parts.items() if name.endswith("visual"))
        self.optimizer, self.bfloat16 = optimizer, bfloat16
        self.compute = 2 if bfloat16 else 4
        head = model.get_output_embeddings().weight
        # In the update: its gradient, in float32, and a copy where PEFT puts trained rows into it.
        self.head = 4 * head.numel() if head.requires_grad else 0
        self.head += 0 if isinstance(head, torch.nn.Parameter) else nbytes([head])

    @property
    def stream(self) -> torch.dtype:
        """Precision of what flows from layer to layer: that of the embedding."""
        kind: torch.dtype = self.text.embed_tokens.weight.dtype
        return kind

    def _measure(self, module: Any, call: Any, gradients: bool = True) -> Activations:
        found = measure(module, call, self.bfloat16, gradients)
        if not self.bfloat16:
            return found
        # Autocast keeps its copies of trained weights for a whole pass: `states` has them.
        copies = nbytes(p for p in module.parameters() if p.requires_grad) // 2
        less = {name: max(0, value - copies) for name, value in found.model_dump().items()}
        return Activations(**less)

    def decoder(self, rows: int, tokens: int, gradients: bool = True) -> Activations:
        """Return the activations of a layer of the language model for (rows, tokens)."""
        config = self.text.config
        head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        kind = self.stream

        def call(layer: Any) -> Any:
            hidden = torch.empty(
                rows, tokens, config.hidden_size, dtype=kind, requires_grad=gradients
            )
            rotary = (torch.empty(rows, tokens, head, dtype=kind),) * 2
            return layer(hidden, position_embeddings=rotary, attention_mask=None)

        return self._measure(self.text.layers[0], call, gradients)

    def block(self, patches: int, frames: int, trained: bool) -> Activations:
        """Return the activations of a block of the vision tower."""
        config, kind = self.vision.config, next(self.vision.parameters()).dtype
        head = config.hidden_size // config.num_heads

        def call(block: Any) -> Any:
            hidden = torch.empty(patches, config.hidden_size, dtype=kind, requires_grad=trained)
            rotary = (torch.empty(patches, head), torch.empty(patches, head))
            # Not a tensor, of which torch would have to know the content.
            ends = np.linspace(0, patches, frames + 1).astype(int)
            return block(hidden, cu_seqlens=ends, position_embeddings=rotary)

        return self._measure(self.vision.blocks[0], call, trained)

    def saved(self, layer: Activations, count: int, entry: int) -> int:
        """Return what is kept of equal layers: all they save, or what enters each of them."""
        return count * (entry if self.optimizer.gradient_checkpointing else layer.saved)

    def update(self, work: Workload) -> dict[str, int]:
        """Return bytes of the activations in the update."""
        config, width = self.text.config, self.stream.itemsize * self.text.config.hidden_size
        layer = self.decoder(work.rows, work.tokens)
        spread = work.rows * work.tokens
        mask = work.rows * work.tokens**2 if work.rows > 1 else 0
        tile = min(TILE[0], spread) * TILE[1] * self.compute
        return {
            "activations": self.saved(layer, config.num_hidden_layers, spread * width),
            "work of one layer": layer.step + mask,
            "vision tower": self._vision(work.videos, work),
            "logits": tile + self.head + 4 * spread * config.hidden_size,
        }

    def rollout(self, work: Workload) -> dict[str, int]:
        """Return bytes of the activations in generation, cached keys and values among them.

        The cache holds keys and values of every layer, prompt and completion.
        """
        config = self.text.config
        head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        prompt = work.tokens - work.scored
        cached = 2 * config.num_hidden_layers * config.num_key_value_heads * head * self.compute
        layer = self.decoder(work.rollouts, prompt, gradients=False)
        return {
            "KV cache": work.rollouts * work.tokens * cached,
            "work of one layer": layer.forward,
            "vision tower": self._vision(work.rollout_videos, work, gradients=False),
            "logits": LOGIT_COPIES * 4 * work.rollouts * config.vocab_size,
        }

    def _vision(self, videos: int, work: Workload, gradients: bool = True) -> int:
        """Return bytes of the vision tower: pixels, one block's work, what is kept if trained."""
        trained = gradients and "vision" not in self.optimizer.freeze
        config, patches = self.vision.config, videos * work.patches
        depth: int = config.depth
        block = self.block(patches, videos * work.frames, trained)
        entry = patches * config.hidden_size * next(self.vision.parameters()).element_size()
        pixels: int = (
            4 * patches * config.in_channels * config.temporal_patch_size * config.patch_size**2
        )
        if not trained:
            return pixels + block.forward
        return pixels + self.saved(block, depth, entry) + block.step


def needed(
    model: Any,
    config: ModelConfig,
    optimizer: OptimizerConfig,
    work: Workload,
    sharing: ShardingPlan,
) -> dict[str, dict[str, int]]:
    """Return the bytes of one process by phase (`update`, and `rollout` in GRPO) and part.

    Args:
        model: As `meta_model` returns it.
        config: The model section.
        optimizer: The training section.
        work: What is computed at once.
        sharing: How processes share the model.
    """
    bfloat16 = config.dtype == "bfloat16"
    layers = Layers(model, optimizer, bfloat16)
    kept = states(model, bfloat16, sharing, work.reference)
    phases = {"update": kept | layers.update(work)}
    if work.rollouts:
        phases["rollout"] = kept | {"gradients": 0} | layers.rollout(work)
    return phases
