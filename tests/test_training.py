"""What SFT and GRPO share: checks, parts, adapters, precision, and what comes out."""

import re
import shutil
from types import SimpleNamespace
from typing import get_args

import pytest
import torch
from training_stages import GRPO, SFT, TASK, grpo_stage, model_config, sft_stage, weights

import medtune.training  # noqa: F401  (declares operators before transformers is imported)
from medtune.config.base import Part
from medtune.config.data import TaskConfig
from medtune.config.evaluation import EvaluationConfig
from medtune.config.stages import GrpoStage, ModelStage, PredictStage, SftStage
from medtune.config.training import LearningRates, LoraConfig, ModelConfig, RewardConfig
from medtune.evaluation.predict import predict
from medtune.models.base_reference import base_path
from medtune.models.batches import prompt_batch
from medtune.models.coordinate_format import COORDINATE_FORMATS
from medtune.models.inputs import encode_sample
from medtune.models.loading import load_model, load_processor
from medtune.records.sample import load_split
from medtune.rewards.base import Term
from medtune.runtime.errors import DataError, ModelError, VisionError
from medtune.runtime.tables import read_rows
from medtune.training import result
from medtune.training.base_model import prepare_base
from medtune.training.checks import assert_rollout_parity, assert_sees_video, same_grid_pair
from medtune.training.grpo import train_grpo
from medtune.training.optimizer import parameter_groups
from medtune.training.run import Progress, trainable_model
from medtune.training.sft import train_sft
from medtune.training.trainable import part_of


def test_a_blind_model_is_not_trained(trained, family, dataset, samples, monkeypatch):
    processor = load_processor(trained)
    model = load_model(trained, model_config(family))
    encoded = [encode_sample(processor, s, "Locate.", dataset) for s in samples]
    pair = same_grid_pair(encoded)
    assert assert_sees_video(model, *pair, 0) > 0
    assert assert_rollout_parity(model, encoded[0], 0) < 1e-4
    inner = type(model).forward

    def blind(self, *args, pixel_values_videos=None, **kwargs):
        if pixel_values_videos is not None:
            pixel_values_videos = torch.zeros_like(pixel_values_videos)
        return inner(self, *args, pixel_values_videos=pixel_values_videos, **kwargs)

    monkeypatch.setattr(type(model), "forward", blind)
    with pytest.raises(VisionError, match="same log-probabilities"):
        assert_sees_video(model, *pair, 0)


def test_a_rollout_that_sees_something_else_is_refused(
    trained, family, dataset, samples, monkeypatch
):
    processor = load_processor(trained)
    model = load_model(trained, model_config(family))
    encoded = encode_sample(processor, samples[0], "Locate.", dataset)
    inner = type(model).generate

    def text_only(self, **batch):
        batch["pixel_values_videos"] = torch.randn_like(batch["pixel_values_videos"]) * 3
        return inner(self, **batch)

    monkeypatch.setattr(type(model), "generate", text_only)
    with pytest.raises(VisionError, match="rollout and learner"):
        assert_rollout_parity(model, encoded, 0)


def test_frozen_parts_stay_and_the_rest_learns(base, family, dataset, tmp_path):
    stage = sft_stage(family, epochs=0.3, freeze=["vision", "projector"])
    train_sft(stage, base, dataset, tmp_path / "a")
    before, after = weights(base), weights(tmp_path / "a")
    changed = {part_of(name) for name in before if not before[name].equal(after[name])}
    assert changed == {"language", "head"}
    with pytest.raises(ModelError, match="every part is frozen"):
        trainable_model(
            base,
            stage.model,
            SFT.model_copy(update={"freeze": ["vision", "projector", "head", "language"]}),
        )


def grouped(model, **changes) -> dict[tuple[float, float], set[str]]:
    """Names of the parameters of every optimizer group, by (rate, weight decay)."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = parameter_groups(model, SFT.model_copy(update=changes))
    return {(g["lr"], g["weight_decay"]): {names[p] for p in g["params"]} for g in groups}


def undecayed(name: str) -> bool:
    return name.endswith("bias") or bool(re.search(r"norm\d?\.|_norm|ln_q", name))


RATES = LearningRates(vision=1e-6, projector=1e-3, head=1e-5, language=1e-4)


@pytest.mark.parametrize("adapters", [False, True], ids=["weights", "adapters"])
def test_every_part_has_its_rate(base, family, adapters):
    changes = {"lora": LoraConfig(rank=4, alpha=8), "freeze": ["vision"]} if adapters else {}
    config = SFT.model_copy(update=changes)
    model = trainable_model(base, model_config(family), config)
    found = grouped(model, learning_rates=RATES, weight_decay=0.1)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert set.union(*found.values()) == trained
    assert sum(map(len, found.values())) == len(trained)  # each in one group
    rate = {"vision": 1e-6, "projector": 1e-3, "language": 1e-4, "head": 1e-5}
    for (lr, decay), names in found.items():
        assert {rate[part_of(name)] for name in names} == {lr}
        assert {undecayed(name) for name in names} == {decay == 0}
    expected = {"language", "projector"} | (set() if adapters else {"vision", "head"})
    assert {part_of(name) for name in trained} == expected
    if adapters:
        assert all("lora_" in name for name in found[1e-4, 0.1])
    other = grouped(model, learning_rates=LearningRates(projector=1e-3))
    assert {lr for lr, _ in other} == {1e-3, SFT.learning_rate}


def test_a_part_learns_at_its_rate(base, family, dataset, tmp_path):
    rates = LearningRates(vision=1e-12, projector=1e-3)
    stage = sft_stage(family, epochs=0.3, learning_rates=rates)
    train_sft(stage, base, dataset, tmp_path / "a")
    before, after = weights(base), weights(tmp_path / "a")
    moved = dict.fromkeys(get_args(Part), 0.0)
    for name in before:
        change = float((after[name] - before[name]).abs().max())
        moved[part_of(name)] = max(moved[part_of(name)], change)
    assert moved["vision"] < 1e-8
    assert moved["projector"] > 1e-4
    assert moved["language"] > 1.5 * moved["projector"]  # at 2e-3


def test_adapters_train_and_are_merged(base, family, dataset, tmp_path):
    lora = LoraConfig(rank=4, alpha=8, dropout=0)
    stage = sft_stage(family, epochs=0.6, lora=lora, freeze=["vision"], learning_rate=5e-3)
    train_sft(stage, base, dataset, tmp_path / "a")
    before, after = weights(base), weights(tmp_path / "a")
    assert set(before) == set(after)
    changed = {name for name in before if not before[name].equal(after[name])}
    assert {part_of(name) for name in changed} == {"language", "projector"}
    assert all("proj" in name or "merger" in name for name in changed)
    train_grpo(
        grpo_stage(family, lora=lora, freeze=["vision", "projector"], steps=1, beta=0.05),
        tmp_path / "a",
        dataset,
        tmp_path / "b",
    )
    assert set(weights(tmp_path / "b")) == set(before)


REAL = {  # the switches of config/brain_tumor_3d.yaml
    "freeze": ["vision"],
    "lora": LoraConfig(rank=4, alpha=8, dropout=0.05),
    "gradient_checkpointing": True,
    "gradient_accumulation": 2,
}


class MergeSpy:
    """Keeps, from just before a merge, the adapters' changes and log-probabilities."""

    def __init__(self, encoded) -> None:
        self.encoded, self.merge = encoded, result.merged
        self.deltas, self.logps, self.lost = {}, None, []

    def __call__(self, model):
        trained = {p.dtype for p in model.parameters() if p.requires_grad}
        frozen = {p.dtype for p in model.get_base_model().model.visual.blocks.parameters()}
        assert (trained, frozen) == ({torch.float32}, {torch.bfloat16})
        self.deltas = {}
        for name, module in model.get_base_model().named_modules():
            if hasattr(module, "get_delta_weight"):
                before = module.base_layer.weight.detach().float().clone()
                delta = module.get_delta_weight("default").detach().clone()
                self.deltas[name] = before, delta
                kept = (before + delta).bfloat16().float() - before
                self.lost.append(float((kept - delta).norm() / delta.norm()))
        # The outer forward would switch to bfloat16.
        self.logps = next_token(model.float().eval().get_base_model(), self.encoded)
        for parameter in model.parameters():  # back to where it was, exactly
            if not parameter.requires_grad:
                parameter.data = parameter.data.bfloat16()
        return self.merge(model)

    def check(self, saved) -> None:
        assert torch.allclose(next_token(saved, self.encoded), self.logps, atol=1e-4)
        assert self.deltas
        for name, (before, delta) in self.deltas.items():
            kept = saved.get_submodule(name).weight.detach() - before
            assert delta.norm() > 0
            assert (kept - delta).norm() / delta.norm() < 1e-3, name


def next_token(model, encoded) -> torch.Tensor:
    with torch.no_grad():
        return model(**prompt_batch([encoded], 0)).logits[0, -1].log_softmax(-1)


def test_the_real_configuration_saves_exactly_what_it_trained(
    released, family, dataset, samples, tmp_path, monkeypatch
):
    """Float32 adapters over a bfloat16 base; then GRPO, which goes on with them."""
    model = ModelConfig(family=family, path="released", dtype="bfloat16")
    processor = load_processor(base_path(released))
    prompt = TASK.prompt(samples[0], COORDINATE_FORMATS[family])
    spy = MergeSpy(encode_sample(processor, samples[0], prompt, dataset))
    monkeypatch.setattr(result, "merged", spy)
    variety = Term("variety", 1.0, lambda judged: min(1.0, len(set(judged.text)) / 100))
    monkeypatch.setattr(type(TASK), "terms", lambda *_: [variety])

    sft = SFT.model_copy(update=REAL | {"batch_size": 2, "epochs": 1.0})
    stage = SftStage(task=TaskConfig(), model=model, sft=sft)
    train_sft(stage, released, dataset, tmp_path / "sft")
    spy.check(load_model(tmp_path / "sft", model))

    rl = {"batch_size": 4, "learning_rate": 1e-4, "num_iterations": 2, "steps": 4, "beta": 0.05}
    stage = GrpoStage(
        task=TaskConfig(),
        model=model,
        reward=RewardConfig(),
        grpo=GRPO.model_copy(update=REAL | rl),
    )
    spy.lost.clear()
    train_grpo(stage, tmp_path / "sft", dataset, tmp_path / "grpo")
    spy.check(load_model(tmp_path / "grpo", model))
    assert min(spy.lost) > 0.05  # what a bfloat16 sum would have lost of SFT and GRPO
    assert {value.dtype for value in weights(tmp_path / "grpo").values()} == {torch.float32}


def test_adapters_train_every_projector(released, family, dataset, tmp_path):
    """Qwen3-VL has further ones, for the layers it shows the pixels to directly."""
    model = ModelConfig(family=family, path="released", dtype="bfloat16")
    sft = SFT.model_copy(update=REAL | {"batch_size": 2, "epochs": 0.6})
    before = load_model(base_path(released), model).state_dict()
    stage = SftStage(task=TaskConfig(), model=model, sft=sft)
    train_sft(stage, released, dataset, tmp_path / "sft")
    after = load_model(tmp_path / "sft", model).state_dict()
    projectors = {name for name in before if part_of(name) == "projector"}
    assert any("deepstack" in name for name in projectors) == (family == "qwen3_vl")
    assert all(not before[name].equal(after[name]) for name in projectors)
    assert all(before[name].equal(after[name]) for name in before if part_of(name) == "vision")


def test_predictions_cover_every_case_mode_and_draw(trained, family, dataset, tmp_path):
    stage = PredictStage(
        task=TaskConfig(),
        model=model_config(family),
        evaluation=EvaluationConfig(batch_size=4, max_new_tokens=40, samples=3),
    )
    for name in ("a", "b"):
        modes = ("greedy", "sampled", "shuffled")
        predict(stage, trained, dataset, modes, tmp_path / f"{name}.parquet", tmp_path / name)
    rows = read_rows(tmp_path / "a.parquet")
    assert rows == read_rows(tmp_path / "b.parquet")
    test = load_split(dataset, "test")
    assert len(rows) == len(test) * (1 + 3 + 1)
    assert {row["id"] for row in rows} == set(test["id"])
    assert all(row["video_of"] == row["id"] for row in rows if row["mode"] != "shuffled")
    assert any(row["video_of"] != row["id"] for row in rows if row["mode"] == "shuffled")


def test_answers_do_not_depend_on_shipped_generation_settings(
    base, released, family, dataset, tmp_path
):
    clean = tmp_path / "without"
    shutil.copytree(base_path(released), clean)
    shutil.copy(base / "generation_config.json", clean)
    rows = {}
    for name, folder in (("shipped", base_path(released)), ("clean", clean)):
        config = ModelConfig(family=family, path=str(folder), dtype="bfloat16")
        prepare_base(ModelStage(task=TaskConfig(), model=config), dataset, tmp_path / name)
        stage = PredictStage(
            task=TaskConfig(),
            model=config,
            evaluation=EvaluationConfig(batch_size=4, max_new_tokens=20, samples=2),
        )
        modes, output = ("greedy", "sampled"), tmp_path / f"{name}.parquet"
        predict(stage, tmp_path / name, dataset, modes, output, tmp_path / f"{name}.cache")
        rows[name] = read_rows(tmp_path / f"{name}.parquet")
    assert rows["shipped"] == rows["clean"]


def test_any_number_that_is_not_finite_stops_the_run():
    progress, state = Progress("test", 1, ()), SimpleNamespace(global_step=7)
    progress.on_log(None, state, None, {"loss": 1.0, "reward": 0.5})
    progress.on_log(None, state, None, {"clip_ratio/low_min": None})  # nothing was in the loss
    for value in (float("nan"), float("inf"), None):
        with pytest.raises(ModelError, match=f"step 7: reward is {value}"):
            progress.on_log(None, state, None, {"loss": 1.0, "reward": value})


def test_changed_parents_are_refused(trained, family, dataset, tmp_path):
    copy = tmp_path / "sft"
    shutil.copytree(trained, copy)
    (copy / "config.json").write_text((copy / "config.json").read_text() + " ")
    with pytest.raises(DataError, match="changed since"):
        train_grpo(grpo_stage(family), copy, dataset, tmp_path / "grpo")
