"""The plan: what it predicts is what is measured, and what cannot fit is refused."""

import json
import subprocess
import sys

import pytest
import torch
import yaml
from conftest import MEDIA
from training_stages import GRPO, SFT, TASK, history, model_config
from transformers import AutoConfig, AutoModelForImageTextToText

import medtune.training  # noqa: F401  (declares operators before transformers is imported)
from medtune.config.experiment import parse_config
from medtune.config.stages import SftStage, load_stage, stage_json
from medtune.config.training import LoraConfig
from medtune.models.coordinate_format import COORDINATE_FORMATS
from medtune.models.loading import load_processor
from medtune.models.positions import correct_positions
from medtune.planning import probe as probe_module
from medtune.planning.activations import LiveTensors, activation_bytes
from medtune.planning.memory import Layers, ShardingPlan, Workload, meta_model, nbytes, states
from medtune.planning.plan import GIB, make_plan, refuse, show_time
from medtune.planning.probe import endless, optimizer_step, probe
from medtune.records.sample import to_row
from medtune.runtime.errors import ConfigError, ModelError
from medtune.training import memory_check as longest
from medtune.training.batches import SftCollator
from medtune.training.optimizer import parameter_groups
from medtune.training.run import trainable_model
from medtune.training.sft import prepare_sft
from medtune.training.trainable import set_trainable

LORA = {"lora": LoraConfig(rank=4, alpha=8, dropout=0.0), "freeze": ["vision"]}
HEAD = LORA | {"lora": LoraConfig(rank=4, alpha=8, dropout=0.0, train_head=True)}
FROZEN = {"freeze": ["vision"]}
CHECKPOINTED = {"gradient_checkpointing": True}


def changed(**changes):
    return SFT.model_copy(update=changes)


def fused_loss(model, batch):
    """Return TRL's loss on a model whose head it has fused."""
    return -model(**batch, fused_lm_head=True).log_probs.sum()


def real(base, family, section, dataset, rows):
    """Return a model as it is trained, and a batch."""
    from trl.trainer.utils import add_fused_lm_head

    model = trainable_model(base, model_config(family), section)
    add_fused_lm_head(model.get_base_model() if section.lora else model)
    if section.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    collator = SftCollator(load_processor(base), TASK, COORDINATE_FORMATS[family], dataset)
    return model.train(), collator([to_row(sample) for sample in rows])


@pytest.mark.parametrize(
    "changes", [{}, FROZEN, LORA, HEAD], ids=["all", "frozen vision", "adapters", "head"]
)
def test_weights_gradients_and_optimizer_are_predicted_to_the_byte(
    base, family, dataset, samples, changes
):
    section = changed(**changes)
    model, batch = real(base, family, section, dataset, samples[:1])
    predicted = states(
        meta_model(base, model_config(family), section), False, ShardingPlan(), reference=False
    )
    optimizer = torch.optim.AdamW(parameter_groups(model, section))
    fused_loss(model, batch).backward()
    optimizer.step()
    trained = [p for p in model.parameters() if p.requires_grad]
    assert predicted["trained weights"] == nbytes(trained)
    assert predicted["frozen weights"] == nbytes(
        p for p in model.parameters() if not p.requires_grad
    )
    used = [p for p in trained if p.grad is not None]
    unused = nbytes(p for p in trained if p.grad is None)
    assert predicted["gradients"] == nbytes(p.grad for p in used) + unused
    moments = [value for state in optimizer.state.values() for value in state.values()]
    lost = 2 * unused + 4 * (len(trained) - len(used))
    assert predicted["AdamW states"] == nbytes(moments) + lost


@pytest.fixture(scope="session")
def deep(base, tmp_path_factory):
    """A model of twelve layers, random: in two layers all is beginning and end."""
    folder = tmp_path_factory.mktemp("deep")
    shape = json.loads((base / "config.json").read_text())
    shape["text_config"].pop("layer_types", None)
    shape["text_config"]["num_hidden_layers"] = 12
    (folder / "config.json").write_text(json.dumps(shape))
    return folder


@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize(
    "changes",
    [{}, FROZEN, LORA, CHECKPOINTED, CHECKPOINTED | LORA],
    ids=["all", "frozen vision", "adapters", "checkpointed", "checkpointed adapters"],
)
def test_activations_are_predicted_within_a_fifth(
    base, deep, family, dataset, samples, changes, rows
):
    section = changed(**changes)
    config = AutoConfig.from_pretrained(deep)
    model = set_trainable(AutoModelForImageTextToText.from_config(config), section).train()
    correct_positions(model.get_base_model() if section.lora else model)
    if section.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    collator = SftCollator(load_processor(base), TASK, COORDINATE_FORMATS[family], dataset)
    batch = collator([to_row(sample) for sample in samples[:rows]])
    batch.pop("labels")
    work = work_of(batch)
    layers = Layers(meta_model(deep, model_config(family), section), section, False)
    predicted = layers.update(work)
    backbone = model.base_model.model.model if section.lora else model.model

    def forward():
        return backbone(**batch, use_cache=False).last_hidden_state.sum()

    saved, result = activation_bytes(forward, model)
    result.backward()  # gradients are there: from now on they add up in place
    del result
    with LiveTensors(model) as living:
        forward().backward()
    # Short rows of a tiny model: the weights' own gradients are larger than what is looked at.
    if rows > 1 or not section.gradient_checkpointing:
        found = sum(predicted.values()) - predicted["logits"]
        assert 0.9 * living.peak < found < 1.2 * living.peak
    if not section.gradient_checkpointing and "vision" in section.freeze:
        assert 0.85 * saved < predicted["activations"] < 1.05 * saved


def work_of(batch):
    grids, (rows, tokens) = batch["video_grid_thw"], batch["input_ids"].shape
    patches, frames = int(grids.prod(1).max()), int(grids[:, 0].max())
    return Workload(
        rows=rows, tokens=tokens, scored=tokens, videos=rows, patches=patches, frames=frames
    )


def test_the_head_of_the_update_is_predicted(base, family, dataset, samples):
    """The tile of logits is the largest part here: TRL makes it 32,768 wide for any vocabulary."""
    model, batch = real(base, family, changed(), dataset, samples[:4])
    fused_loss(model, batch).backward()
    with LiveTensors(model) as living:
        fused_loss(model, batch).backward()
    batch.pop("labels")
    layers = Layers(meta_model(base, model_config(family), changed()), changed(), False)
    assert 0.8 < sum(layers.update(work_of(batch)).values()) / living.peak < 1.2


def test_the_cache_of_a_rollout_is_predicted_to_the_byte(base, family, dataset, samples):
    model, batch = real(base, family, changed(), dataset, samples[:1])
    batch.pop("labels")
    with torch.no_grad():
        cache = model.eval()(**batch, use_cache=True).past_key_values
    held = nbytes(t for layer in cache.layers for t in (layer.keys, layer.values))
    work = work_of(batch).model_copy(update={"rollouts": 1, "rollout_videos": 1, "scored": 4})
    layers = Layers(meta_model(base, model_config(family), changed()), changed(), False)
    assert layers.rollout(work)["KV cache"] == held


def test_bfloat16_halves_activations_and_zero_shares_the_states(base, family):
    section = changed(freeze=["vision"])
    model = meta_model(base, model_config(family), section)
    work = Workload(rows=1, tokens=400, scored=20, videos=1, patches=800, frames=8)
    exact, half = (Layers(model, section, b).update(work) for b in (False, True))
    assert 0.4 < half["activations"] / exact["activations"] < 0.8
    whole, two, three = (
        states(model, False, ShardingPlan(processes=4, zero=zero), True) for zero in (0, 2, 3)
    )
    for part in ("gradients", "AdamW states"):
        assert two[part] == three[part] == -(-whole[part] // 4)
    for part in ("frozen weights", "trained weights", "reference model"):
        assert two[part] == whole[part]
        assert three[part] == -(-whole[part] // 4)


@pytest.fixture(scope="session")
def experiment(base, dataset, family, tmp_path_factory):
    """A configuration, and a folder of results with data set and base model."""
    results = tmp_path_factory.mktemp("planned")
    (results / "datasets").symlink_to(dataset)
    (results / "base").symlink_to(base)
    values = {
        "experiment": "a",
        "sources": [{"name": "phantom", "kind": "brats2023_gli", "root": "phantom"}],
        "media": MEDIA.model_dump(mode="json"),
        "model": model_config(family).model_dump(mode="json"),
        "sft": SFT.model_dump(mode="json"),
        "grpo": GRPO.model_dump(mode="json"),
    }
    return parse_config(values), results


def test_a_plan_knows_every_sample_and_step(experiment, trained, samples, base, family, dataset):
    config, results = experiment
    plan = make_plan(config, results, None, ShardingPlan())
    lengths = {
        s.id: SftCollator(load_processor(base), TASK, COORDINATE_FORMATS[family], dataset).length(s)
        for s in samples
    }
    assert plan["samples"]["count"] == len(samples)
    assert plan["samples"]["longest_tokens"] == max(lengths.values())
    assert lengths[plan["samples"]["longest"]] == max(lengths.values())
    assert not plan["samples"]["assumed"]
    done = [entry["step"] for entry in history(trained) if "loss" in entry]
    assert plan["stages"]["sft"]["steps"] == max(done)
    assert plan["stages"]["grpo"]["steps"] == 2
    collator = SftCollator(load_processor(base), TASK, COORDINATE_FORMATS[family], dataset)
    longest = next(s for s in samples if s.id == plan["samples"]["longest"])
    work = plan["stages"]["sft"]["work"]
    grid = collator([to_row(longest)])["video_grid_thw"][0]
    assert work["patches"] == int(grid.prod())
    assert (work["rows"], work["videos"]) == (4, 4)
    rollout = plan["stages"]["grpo"]["work"]
    assert (rollout["rollouts"], rollout["rollout_videos"]) == (8, 2)


def test_without_a_data_set_a_volume_is_assumed(experiment, base, tmp_path):
    config, _ = experiment
    (tmp_path / "base").symlink_to(base)
    plan = make_plan(config, tmp_path, None, ShardingPlan())
    assert plan["samples"]["assumed"]
    assert plan["stages"]["sft"]["steps"] is None
    # 155 frames of 32 x 32 pixels: 78 temporal patches of 4 x 4.
    assert plan["stages"]["sft"]["work"]["patches"] == 78 * 16
    with pytest.raises(ModelError, match=r"base/manifest\.json"):
        make_plan(config, tmp_path / "empty", None, ShardingPlan())


def test_what_cannot_fit_is_refused_with_what_would(experiment, tmp_path):
    config, results = experiment
    fitting = make_plan(config, results, 8 * GIB, ShardingPlan())
    refuse(fitting)
    peak = fitting["stages"]["grpo"]["peak"]
    tight = make_plan(config, results, int(0.8 * peak), ShardingPlan())
    with pytest.raises(ConfigError, match="grpo: cannot fit") as caught:
        refuse(tight)
    advised = [words for words in tight["stages"]["grpo"]["advice"] if "batch_size" in words]
    assert advised, str(caught.value)
    rows = int(advised[0].rsplit(": ", 1)[1])

    def update(rows):
        grpo = config.grpo.model_copy(
            update={"batch_size": rows, "gradient_accumulation": 8 // rows or 1}
        )
        changed = make_plan(config.model_copy(update={"grpo": grpo}), results, None, ShardingPlan())
        return sum(changed["stages"]["grpo"]["bytes"]["update"].values())

    assert update(rows) <= 0.9 * 0.8 * peak < update(rows + 1)


@pytest.mark.parametrize("family", ["qwen2_5_vl"], indirect=True)
def test_the_verb_writes_json_and_stops_with_2(experiment, tmp_path):
    config, results = experiment
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    command = [sys.executable, "-m", "medtune", "plan", "--config", str(path)]
    command += ["--results", str(results), "--json", str(tmp_path / "plan.json")]
    run = subprocess.run(
        [*command, "--gpu-memory", "0.001"], capture_output=True, text=True, check=False
    )
    assert run.returncode == 2, run.stderr
    assert "error: sft: cannot fit" in run.stderr
    assert "nothing that is known here is enough" in run.stderr
    assert "time: not measured (use --probe)" in run.stderr
    assert "Traceback" not in run.stderr
    written = json.loads((tmp_path / "plan.json").read_text())
    assert set(written["stages"]) == {"sft", "grpo"}


def test_the_probe_times_real_steps_the_longest_sample_first(
    experiment, base, dataset, monkeypatch, capsys
):
    config, results = experiment
    seen = []
    tried = longest.try_largest_batch
    monkeypatch.setattr(
        longest, "try_largest_batch", lambda *a, **k: (seen.append("longest"), tried(*a, **k))
    )
    step = probe_module.optimizer_step
    monkeypatch.setattr(probe_module, "optimizer_step", lambda *a: (seen.append("step"), step(*a)))
    before = sorted(path.name for path in results.iterdir())
    measured = probe(config, results)
    assert seen == ["longest", "step", "step", "step"] * 2
    assert sorted(path.name for path in results.iterdir()) == before
    assert all(0 < s < 60 for stage in measured.values() for s in stage["steps"])
    plan = {"stages": {"sft": {"steps": 7200}, "grpo": {"steps": 2}}}
    show_time(plan, {"sft": {"steps": [2.0], "step": 2.0}})
    assert "2 s per step (measured: 2), 4 h 0 min in all" in capsys.readouterr().err


def test_a_probed_step_is_the_trainer_s_own(experiment, base, dataset):
    """AdamW's first step moves a weight by its learning rate, whatever the gradient."""
    config, _ = experiment
    sft = config.sft.model_copy(update={"epochs": 0.05, "warmup_ratio": 0, "decay_ratio": 0})
    config = config.model_copy(update={"sft": sft})
    stage = load_stage(SftStage, stage_json(config, "sft"))
    trainer, _ = prepare_sft(stage, base, dataset)
    trainer.section = sft
    optimizer, batches = trainer.create_optimizer(), endless(trainer)
    before = {name: p.clone() for name, p in trainer.model.named_parameters()}
    optimizer_step(trainer, optimizer, batches)
    moved = {n: (p - before[n]).abs().max().item() for n, p in trainer.model.named_parameters()}
    assert max(moved.values()) == pytest.approx(sft.learning_rate, rel=0.1)
