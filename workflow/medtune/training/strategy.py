"""How the processes of a training share the work: whole copies of the model, or shards of it.

Each takes its part of every batch. With `ddp` each holds model and optimizer whole; `zero2` shards
gradients and optimizer, `zero3` and `fsdp2` the weights too (Rajbhandari et al., arXiv:1910.02054),
and `zero3_offload` keeps its shards in host memory. The steps are the same, to rounding.
"""

import importlib.util
import os
import warnings
from functools import partial
from typing import Any

import torch
from accelerate import DistributedType

from medtune.config.training import ModelConfig, OptimizerConfig, Strategy
from medtune.runtime.console import PROCESSES
from medtune.runtime.errors import ConfigError

ZERO_STAGES: dict[Strategy, int] = {"zero2": 2, "zero3": 3, "zero3_offload": 3}
KEY = "strategy"
GPUS = torch.cuda.is_available()


def strategy_arguments(config: OptimizerConfig, model: ModelConfig) -> dict[str, Any]:
    """Return the trainer's arguments for a strategy; some replace those of one process.

    Raises:
        ConfigError: The strategy cannot run here.
    """
    strategy, bf16 = config.strategy, model.dtype == "bfloat16"
    if strategy == "ddp":
        return {}
    if "LOCAL_RANK" not in os.environ:
        raise ConfigError(
            KEY,
            f"{strategy} shares the model among processes, and torchrun did not start this one",
            "start with torchrun, see docs/training.md, or set it to ddp",
        )
    _refuse_what_fails(config, model)
    if strategy == "fsdp2":
        if not GPUS:
            raise ConfigError(
                KEY, "fsdp2 needs GPUs: accelerate would quietly run ddp here", "set it to ddp"
            )
        return {"fsdp": True, "fsdp_config": {"version": 2}}
    if importlib.util.find_spec("deepspeed") is None:
        raise ConfigError(KEY, f"{strategy} needs DeepSpeed", "run `make deepspeed`")
    warnings.filterwarnings("ignore", "`torch.distributed.", FutureWarning)  # at every step
    if not GPUS:  # accelerate does it with GPUs only
        import deepspeed

        deepspeed.init_distributed("gloo", auto_mpi_discovery=False, verbose=False)
    # DeepSpeed's own bf16 would round the trained weights; its autocast leaves them in float32.
    return {"deepspeed": deepspeed_config(strategy, bf16), "bf16": False}


def _refuse_what_fails(config: OptimizerConfig, model: ModelConfig) -> None:
    """Refuse what the libraries would fail at, or do wrongly, after the start."""
    strategy = config.strategy
    rows = config.trains_rows and bool(model.added_tokens)
    if strategy != "zero2" and (rows or (config.lora and config.lora.train_head)):
        found = f"{strategy} cannot train the head beside adapters (PEFT 0.21), or rows of it"
        raise ConfigError(KEY, found, "set it to ddp or zero2")
    if ZERO_STAGES.get(strategy) == 3 and config.lora and model.dtype == "bfloat16":
        found = f"{strategy} cannot gather adapters over a bfloat16 model (DeepSpeed 0.19)"
        raise ConfigError(KEY, found, "set it to zero2, or model.dtype to float32")


def deepspeed_config(strategy: Strategy, bf16: bool) -> dict[str, Any]:
    """Return DeepSpeed's configuration; "auto" is filled in by the trainer."""
    zero: dict[str, Any] = {"stage": ZERO_STAGES[strategy], "reduce_bucket_size": "auto"}
    if zero["stage"] == 3:
        zero |= {
            "stage3_prefetch_bucket_size": "auto",
            "stage3_param_persistence_threshold": "auto",
            # In float32, whatever the name says: the precision of the weights.
            "stage3_gather_16bit_weights_on_model_save": True,
        }
    if strategy == "zero3_offload":
        place = {"device": "cpu", "pin_memory": GPUS}
        zero |= {"offload_optimizer": place, "offload_param": place}
    return {
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "zero_optimization": zero,
        "zero_force_ds_cpu_optimizer": False,  # torch's AdamW, as in the other strategies
        "bf16": {"enabled": False},
        "torch_autocast": {"enabled": bf16, "dtype": "bfloat16"},
    }


def settle_strategy(trainer: Any, strategy: Strategy, model: ModelConfig) -> None:
    """Check that the strategy is what runs, and complete what its libraries leave undone.

    Raises:
        ConfigError: Another one runs.
    """
    accelerator = trainer.accelerator
    runs = {
        DistributedType.NO: "ddp",
        DistributedType.MULTI_CPU: "ddp",
        DistributedType.MULTI_GPU: "ddp",
        DistributedType.FSDP: "fsdp2",
        DistributedType.DEEPSPEED: "zero",
    }.get(accelerator.distributed_type, "another")
    if runs == "zero":
        plugin = accelerator.state.deepspeed_plugin
        offload = "_offload" if plugin.hf_ds_config.is_offload() else ""
        runs = f"zero{plugin.zero_stage}{offload}"
    if runs != strategy or accelerator.num_processes != PROCESSES:
        raise ConfigError(
            KEY,
            f"{runs} runs in {accelerator.num_processes} processes, expected {strategy} in "
            f"{PROCESSES}",
            "start with torchrun, see docs/training.md, or choose another strategy",
        )
    if strategy in ZERO_STAGES and model.dtype == "bfloat16":  # accelerate leaves it to the engine
        device = accelerator.device.type
        # A cached cast of a weight would outlast its shards.
        accelerator.autocast = partial(
            torch.autocast, device, dtype=torch.bfloat16, cache_enabled=False
        )
    if strategy == "fsdp2":
        trainer.model.register_forward_pre_hook(_gather_head)


def _gather_head(model: Any, _: Any) -> None:
    """Gather the weights of the output layer, whose forward TRL's fused head goes past.

    TRL 1.16 would gather them itself, but leave their gradients as each process has them.
    """
    head = model.get_output_embeddings()
    if hasattr(head, "unshard"):
        head.unshard()


def forget_sharding() -> None:
    """Let models that are loaded from now on be whole."""
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    unset_hf_deepspeed_config()


def sizes(model: Any) -> tuple[int, int]:
    """Return how many numbers are trained, and how many there are, of a model sharded or not."""
    counts = [(getattr(p, "ds_numel", p.numel()), p.requires_grad) for p in model.parameters()]
    return sum(n for n, trained in counts if trained), sum(n for n, _ in counts)
