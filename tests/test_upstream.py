"""Faults of the libraries that are worked around, as they are in the installed versions.

Each test asserts a fault. One that fails says that upstream was repaired, and what can go then:

=================  ================================================  ===============================
library            fault                                             worked around in
=================  ================================================  ===============================
TRL                GRPO scores no videos                             training/grpo_trainer.py
TRL                the order of prompts depends on earlier epochs    training/grpo_trainer.py
TRL                rollouts are sampled with dropout                 training/grpo.py
TRL                vLLM keeps features of an old vision tower        training/engine.py
TRL                FSDP2: every process has its own output layer     training/strategy.py
TRL and PEFT       trained rows of the output layer have no bias     training/parts.py
transformers       accumulation takes a mean of means                training/sft.py
transformers       the validation loss is a mean of means            training/sft.py
transformers       a whole Qwen2.5-VL resumes with old weights       training/checkpoints.py
transformers       adapters with a KL resume with old weights        training/checkpoints.py
transformers       norms of Qwen2.5-VL decay                         training/optimizer.py
transformers       positions after and in a video (Qwen2.5-VL)       models/positions.py
transformers       Qwen3-VL's videos stand in two pairs of markers   models/inputs.py
accelerate         the last batches are filled up with repetitions   training/whole_batches.py
accelerate         so are batches of a budget of tokens              training/budget.py
accelerate         FSDP2 on CPUs is quietly something else           training/strategy.py
accelerate, torch  weights saved on the device cpu:0 do not load     training/checkpoints.py
PEFT               adding an adapter in bfloat16 cannot be undone    training/policy_weights.py
PEFT               a list of modules cannot be trained whole         training/parts.py
PEFT               a part trained whole has the base's precision     training/parts.py
TRL and PEFT       so has its copy for the KL, which is rounded      training/parts.py
PEFT, DeepSpeed    ZeRO-3 cannot train the head beside adapters      training/strategy.py
torchvision        a build for CUDA is not imported beside CPU torch models/torchvision_ops.py
=================  ================================================  ===============================

Those of vLLM are in test_vllm.py.
"""

import inspect
import os
import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from accelerate import DistributedType, PartialState
from accelerate.data_loader import BatchSamplerShard
from test_processes import PLANTED, column, launch, needs_deepspeed, qwen3
from torch.utils.data import BatchSampler
from training_stages import TASK, groups, grpo_stage, make_trainer, model_config, sft_stage
from transformers import Trainer
from trl import GRPOTrainer, SFTTrainer
from trl.generation.vllm_generation import VLLMGeneration
from trl.trainer.utils import RepeatSampler

from medtune.config.training import LoraConfig
from medtune.models import torchvision_ops
from medtune.models.base_reference import base_path
from medtune.models.batches import prompt_batch
from medtune.models.coordinate_format import COORDINATE_FORMATS
from medtune.models.inputs import encode_sample, video_metadata
from medtune.models.loading import load_model, load_processor
from medtune.records.sample import load_split
from medtune.training import checkpoints, grpo
from medtune.training.optimizer import decaying
from medtune.training.run import trainable_model
from medtune.training.sft import VideoSFTTrainer, prepare_sft, train_sft
from medtune.training.token_budget import BudgetBatches

qwen2_5 = pytest.mark.parametrize("family", ["qwen2_5_vl"], indirect=True)
SHORT = {"epochs": 0.2, "eval_steps": 100, "eval_generation_samples": 0, "keep_best": False}


def error_of(call: Callable[..., Any], *args: Any, **kwargs: Any) -> str:
    """Return what a call complains of, or nothing."""
    try:
        call(*args, **kwargs)
    except (RuntimeError, TypeError) as error:
        return str(error)
    return ""


def test_trl_s_grpo_scores_no_video():
    score = inspect.signature(GRPOTrainer._get_per_token_logps_and_entropies).parameters
    assert "pixel_values" in score
    assert not [name for name in score if "video" in name], (
        "TRL's GRPO now takes videos: see what of training/grpo_trainer.py is still needed"
    )


def test_trl_s_order_depends_on_the_epochs_before():
    fresh, used = (RepeatSampler(range(50), 1, seed=1) for _ in range(2))
    list(used)
    assert list(fresh) != list(used)
    assert not hasattr(RepeatSampler, "set_epoch"), (
        "TRL's sampler now knows its epoch: remove EpochSampler from training/grpo_trainer.py"
    )


@qwen3
def test_trl_samples_with_dropout(trained, family, dataset, samples):
    lora = LoraConfig(rank=4, alpha=8, dropout=0.5)
    trainer = make_trainer(trained, family, dataset, lora=lora, freeze=["vision"])
    modes = []
    layer = next(m for m in trainer.model.modules() if isinstance(m, torch.nn.Dropout))
    layer.register_forward_pre_hook(lambda module, _: modes.append(module.training))
    trainer.model.train()
    trainer._generate_and_score_completions(groups(samples, 1))
    assert all(modes), (
        "TRL now samples without dropout: see whether training/grpo.py must disable it"
    )
    assert modes


def test_trl_s_sync_with_vllm_leaves_features_of_the_old_tower():
    vllm = MagicMock()
    sync = SimpleNamespace(mode="colocate", enable_sleep_mode=False, accelerator=None, llm=vllm)
    sync._iter_named_params = lambda: [("visual.weight", torch.zeros(1))]
    VLLMGeneration.sync_weights(sync)
    called = [name for name, *_ in vllm.mock_calls]
    assert "reset_prefix_cache" in called
    assert not [name for name in called if "encoder" in name], (
        "TRL now empties vLLM's encoder cache: say so in training/engine.py"
    )


@qwen3
def test_trl_leaves_fsdp2_s_output_layer_apart(family, base, dataset, tmp_path):
    """Without `_gather_head` only the first step is that of one process: its shards are whole."""
    changes = SHORT | {"epochs": 0.6}
    train_sft(sft_stage(family, **changes, batch_size=8), base, dataset, tmp_path / "one")
    stage = sft_stage(family, **changes, strategy="fsdp2")
    done = launch([PLANTED, "fsdp2,bare_head", "sft"], stage, base, dataset, tmp_path / "two")
    assert done.returncode == 0, done.stderr
    one, two = (column(tmp_path / name, "grad_norm") for name in ("one", "two"))
    assert one[0] == pytest.approx(two[0], abs=1e-4)
    assert abs(one[1] - two[1]) > 1e-2, (
        "TRL now gathers it right: remove _gather_head from training/strategy.py"
    )


@qwen3
def test_peft_s_trained_rows_hide_the_bias_that_trl_asks_for(base, family):
    import peft

    config = peft.LoraConfig(target_modules=["q_proj"], trainable_token_indices={"lm_head": [1]})
    model = peft.get_peft_model(load_model(base, model_config(family)), config)
    assert not hasattr(model.get_output_embeddings(), "bias"), (
        "PEFT's wrapper now has a bias: remove `.bias = None` from training/parts.py"
    )


def test_transformers_accumulates_a_mean_of_means(base, family, dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(VideoSFTTrainer, "__init__", SFTTrainer.__init__)
    losses = []
    for rows, passes in ((4, 1), (1, 4)):
        changes = {"batch_size": rows, "gradient_accumulation": passes}
        train_sft(sft_stage(family, **SHORT, **changes), base, dataset, tmp_path / str(rows))
        losses.append(column(tmp_path / str(rows), "loss")[0])
    assert abs(losses[0] - losses[1]) > 1e-3, (
        "transformers now divides by all tokens of a step: remove model_accepts_loss_kwargs from "
        "training/sft.py"
    )


def test_transformers_validates_by_a_mean_of_means(base, family, dataset, monkeypatch):
    trainer, _ = prepare_sft(sft_stage(family, **SHORT, batch_size=1), base, dataset)
    ours = trainer.evaluate()["eval_loss"]
    monkeypatch.delattr(VideoSFTTrainer, "compute_loss")
    assert abs(trainer.evaluate()["eval_loss"] - ours) > 1e-3, (
        "transformers now validates by tokens: remove compute_loss from training/sft.py"
    )


@qwen2_5
def test_transformers_resumes_with_the_old_weights(base, family, dataset, tmp_path):
    trainer, _ = prepare_sft(sft_stage(family, **SHORT), base, dataset)
    saved = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.model.save_pretrained(tmp_path)
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            parameter.add_(1)
    Trainer._load_from_checkpoint(trainer, str(tmp_path))
    lost = [n for n, p in trainer.model.named_parameters() if not p.equal(saved[n])]
    assert lost, (
        "transformers now loads all weights of a checkpoint: remove _load_from_checkpoint from "
        "training/checkpoints.py"
    )


def with_reference(start, family, dataset):
    """A GRPO trainer of adapters over bfloat16 with a KL, as TRL alone makes it, and its stage."""
    lora = {"lora": LoraConfig(rank=4, alpha=8, dropout=0), "freeze": ["vision"], "beta": 0.1}
    stage = grpo_stage(family, **lora)
    model = model_config(family).model_copy(update={"dtype": "bfloat16"})
    policy = trainable_model(base_path(start), model, stage.grpo)
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if ".default." in name:
                parameter.add_(torch.randn(parameter.shape, generator=torch.manual_seed(1)))
    processor = load_processor(base_path(start))
    return GRPOTrainer(
        model=policy,
        args=grpo._arguments(stage, processor),
        reward_funcs=lambda completions, **_: [0.0 for _ in completions],
        train_dataset=load_split(dataset, "train").with_transform(grpo.as_prompts),
        processing_class=processor,
    )


@qwen3
def test_transformers_resumes_adapters_with_the_old_weights(released, family, dataset, tmp_path):
    trainer = with_reference(released, family, dataset)
    trainer.model.save_pretrained(tmp_path)
    trained = {n: p for n, p in trainer.model.named_parameters() if ".default." in n}
    saved = {name: parameter.detach().clone() for name, parameter in trained.items()}
    with torch.no_grad():
        for parameter in trained.values():
            parameter.add_(1)
    Trainer._load_from_checkpoint(trainer, str(tmp_path))
    assert not all(parameter.equal(saved[name]) for name, parameter in trained.items()), (
        "transformers now loads the trained adapters beside others: see what of "
        "_load_from_checkpoint in training/checkpoints.py can go"
    )


@qwen3
def test_trl_rounds_its_copy_of_what_is_trained_whole(released, family, dataset):
    weights = dict(with_reference(released, family, dataset).model.named_parameters())
    copies = {name: value for name, value in weights.items() if ".ref." in name}
    same = [value.equal(weights[n.replace(".ref.", ".default.")]) for n, value in copies.items()]
    assert same
    assert not all(same), (
        "TRL now copies all as it is: see keep_reference_exact in training/parts.py"
    )


@qwen2_5
def test_transformers_decays_norms(base, family):
    model = load_model(base, model_config(family))
    theirs = set(Trainer.get_decay_parameter_names(None, model))
    assert theirs - decaying(model), (
        "transformers now decays no norms: use its get_decay_parameter_names in "
        "training/optimizer.py"
    )


@qwen2_5
@pytest.mark.parametrize("fps", [1.0, 4.0])
def test_transformers_misplaces_a_fast_video_and_what_follows_any(
    base, family, dataset, samples, fps
):
    processor, model = load_processor(base), load_model(base, model_config(family))
    prompt = TASK.prompt(samples[0], COORDINATE_FORMATS[family])
    batch = prompt_batch([encode_sample(processor, samples[0], prompt, dataset)], 0)
    batch["second_per_grid_ts"] = torch.tensor([2 / fps])
    del batch["pixel_values_videos"]
    ours = model.model.get_rope_index(**batch)[0][:, 0]
    theirs = type(model.model).get_rope_index(model.model, **batch)[0][:, 0]
    video = batch["mm_token_type_ids"][0] == 2
    after = int(video.nonzero().max()) + 1
    repaired = "transformers now computes this itself: see what of models/positions.py can go"
    assert not theirs[:, after:].equal(ours[:, after:]), repaired
    assert theirs[:, video].equal(ours[:, video]) == (fps < 2), repaired


@qwen3
def test_transformers_keeps_outer_markers(base, family):
    """The reference (transformers 4.57) and vLLM write one pair around every frame pair."""
    frames = np.zeros((2, 32, 64, 3), np.uint8)
    ids = load_processor(base)(
        text=["<|vision_start|><|video_pad|><|vision_end|>"],
        videos=[frames],
        video_metadata=[video_metadata(2.0, 2)],
    )["input_ids"][0]
    count = load_processor(base).tokenizer.decode(ids).count("<|vision_start|>")
    assert count == 2, (
        "transformers no longer keeps the outer markers: drop the replacement in models/inputs.py"
    )


def test_accelerate_fills_the_last_batches_up_with_repetitions():
    rows = BatchSampler(range(5), 2, drop_last=False)
    found = [row for rank in (0, 1) for batch in BatchSamplerShard(rows, 2, rank) for row in batch]
    assert sorted(set(found)) == list(range(5))
    assert len(found) > 5, "accelerate now repeats no sample: remove training/whole_batches.py"


def test_accelerate_repeats_batches_of_a_budget():
    batches = BudgetBatches([4, 4, 4], 4, 1, rank=0, processes=1)
    found = [
        row for rank in (0, 1) for batch in BatchSamplerShard(batches, 2, rank) for row in batch
    ]
    assert sorted(set(found)) == list(range(3))
    assert len(found) > 3, "accelerate now repeats no batch: deal them by it in training/budget.py"


def test_accelerate_s_device_of_a_process_on_cpus_does_not_load(tmp_path, monkeypatch):
    state = SimpleNamespace(
        device=None, distributed_type=DistributedType.MULTI_CPU, local_process_index=0
    )
    PartialState.set_device(state)
    ours = checkpoints.__name__
    known = torch.serialization._package_registry
    theirs = [one for one in known if getattr(one[2], "__module__", "") != ours]
    assert len(theirs) == len(known) - 1
    monkeypatch.setattr(torch.serialization, "_package_registry", theirs)
    torch.save(torch.ones(1), tmp_path / "saved")
    assert "cpu:0" in error_of(torch.load, tmp_path / "saved", map_location=state.device), (
        "it loads: remove register_package from training/checkpoints.py"
    )


def test_peft_s_merge_in_bfloat16_cannot_be_undone():
    import peft

    config = peft.LoraConfig(target_modules=["0"], init_lora_weights=False)
    model = peft.get_peft_model(torch.nn.Sequential(torch.nn.Linear(16, 16)).bfloat16(), config)
    layer = next(m for n, m in model.named_modules() if n.endswith("base_layer"))
    before = layer.weight.detach().clone()
    model.merge_adapter()
    model.unmerge_adapter()
    assert not before.equal(layer.weight), (
        "PEFT now restores merged weights: see whether policy_weights.py can use merge_adapter"
    )


def test_peft_trains_no_list_of_modules_whole():
    import peft

    model = torch.nn.ModuleDict({"a": torch.nn.Linear(4, 4), "b": torch.nn.ModuleList()})
    config = peft.LoraConfig(target_modules=["a"], modules_to_save=["b"])
    assert "ModuleList" in error_of(peft.get_peft_model, model, config), (
        "PEFT now does: name the list, not its modules, in training/parts.py"
    )


def test_peft_copies_parts_in_the_precision_of_the_base():
    import peft

    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)).bfloat16()
    config = peft.LoraConfig(target_modules=["0"], modules_to_save=["1"])
    trained = [p for p in peft.get_peft_model(model, config).parameters() if p.requires_grad]
    assert {p.dtype for p in trained} == {torch.float32, torch.bfloat16}, (
        "PEFT now trains what it copies in float32: remove .float() from training/parts.py"
    )


@needs_deepspeed
@qwen3
def test_zero3_cannot_train_the_head_beside_adapters(family, base, dataset, tmp_path):
    lora = LoraConfig(rank=4, alpha=8, dropout=0, train_head=True)
    stage = sft_stage(family, **SHORT, lora=lora, freeze=["vision"], strategy="zero3")
    done = launch([PLANTED, "unrefused", "sft"], stage, base, dataset, tmp_path / "sft")
    assert "size of tensor a (0)" in done.stderr, (
        "it starts now: compare it with one process, and see what training/strategy.py must refuse"
    )


# One process that torchrun would start, on CPUs.
ALONE = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "localhost"}


def said(program: str, **environment: str) -> str:
    """Return what a program says in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", program],
        check=False,
        capture_output=True,
        text=True,
        env=os.environ | environment,
    ).stdout


def test_accelerate_runs_something_else_for_fsdp2_on_cpus():
    program = """
from accelerate import Accelerator, FullyShardedDataParallelPlugin
print(Accelerator(cpu=True, fsdp_plugin=FullyShardedDataParallelPlugin(2)).distributed_type)
"""
    assert "MULTI_CPU" in said(program, **ALONE, MASTER_PORT="0"), (
        "accelerate now runs FSDP2 on CPUs: see what of training/strategy.py and tests/planted.py "
        "can go"
    )


@pytest.mark.skipif(
    not torchvision_ops._keep, reason="torchvision loads by itself here: nothing is worked around"
)
def test_torchvision_is_not_imported_beside_another_torch():
    program = """
try:
    import torchvision
except RuntimeError as error:
    print(error)
"""
    assert "torchvision::nms does not exist" in said(program), (
        "torchvision is now imported: remove models/torchvision_ops.py"
    )
