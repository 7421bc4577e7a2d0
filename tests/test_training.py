"""The trainers see the video, learn from it, and stop when something is wrong."""

import json
import math
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import TINY

import medtune.training  # noqa: F401  (declares operators before transformers is imported)
from medtune.errors import DataError, ModelError, VisionError
from medtune.evaluation.predict import predict
from medtune.files import check_manifest, read_json, sha256
from medtune.geometry import Geometry
from medtune.models.base import base_path, prepare_base
from medtune.models.dialect import DIALECTS
from medtune.models.inputs import encode_sample
from medtune.models.loading import load_model, load_processor
from medtune.rewards.base import RewardError, Term
from medtune.schema import iterate, load_split, to_row
from medtune.sections import (
    EvaluationConfig,
    GrpoConfig,
    LearningRates,
    LoraConfig,
    ModelConfig,
    RewardConfig,
    SftConfig,
    TaskConfig,
)
from medtune.stages import GrpoStage, ModelStage, PredictStage, SftStage
from medtune.tables import read_rows
from medtune.tasks import get_task
from medtune.training import common, grpo
from medtune.training.batches import IGNORED, SftCollator, prompt_batch
from medtune.training.checks import assert_rollout_parity, assert_sees_video, same_grid_pair
from medtune.training.common import Progress, part_of, trainable_model
from medtune.training.evaluation import Answers, chosen
from medtune.training.grpo import VideoGRPOTrainer, train_grpo
from medtune.training.optimizer import parameter_groups
from medtune.training.sft import SFTTrainer, train_sft

SFT_LOSS = SFTTrainer.compute_loss
FAMILIES = ["qwen2_5_vl", "qwen3_vl"]
TASK = get_task(TaskConfig())
SFT = SftConfig(
    evaluate_reward_samples=32,
    learning_rate=2e-3,
    freeze=[],
    batch_size=4,
    gradient_accumulation=1,
    gradient_checkpointing=False,
    log_every=1,
    epochs=3,
    evaluate_every=6,
    decay=0.3,
)
GRPO = GrpoConfig(
    learning_rate=1e-3,
    freeze=[],
    batch_size=8,
    gradient_accumulation=1,
    num_generations=4,
    gradient_checkpointing=False,
    log_every=1,
    weight_decay=0,  # what changes, changes by the reward's gradient
    steps=2,
    max_completion_length=48,
    warmup=0,
)


def model_config(family: str) -> ModelConfig:
    return ModelConfig(family=family, builder="tiny", tiny=TINY)


def sft_stage(family: str, **changes) -> SftStage:
    sft = SFT.model_copy(update=changes)
    return SftStage(task=TaskConfig(), model=model_config(family), sft=sft)


def grpo_stage(family: str, **changes) -> GrpoStage:
    return GrpoStage(
        task=TaskConfig(),
        model=model_config(family),
        reward=RewardConfig(),
        grpo=GRPO.model_copy(update=changes),
    )


@pytest.fixture(scope="session", params=FAMILIES)
def family(request) -> str:
    return request.param


@pytest.fixture(scope="session")
def base(family, dataset: Path, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp(f"training-{family}") / "base"
    stage = ModelStage(task=TaskConfig(), model=model_config(family))
    prepare_base(stage, dataset, folder)
    return folder


@pytest.fixture(scope="session")
def trained(family, base: Path, dataset: Path) -> Path:
    """A model after a few steps of SFT."""
    train_sft(sft_stage(family), base, dataset, base.parent / "sft")
    return base.parent / "sft"


@pytest.fixture(scope="session")
def released(family, base: Path, dataset: Path) -> Path:
    """The base model as others release theirs: bfloat16, and with settings for generation."""
    folder = base.parent / "released"
    shutil.copytree(base, folder)
    load_model(base, model_config(family)).bfloat16().save_pretrained(folder)
    settings = json.loads((folder / "generation_config.json").read_text())
    poison = {"repetition_penalty": 5.0, "no_repeat_ngram_size": 2, "top_k": 1, "min_new_tokens": 9}
    (folder / "generation_config.json").write_text(json.dumps(settings | poison))
    config = ModelConfig(family=family, path=str(folder), dtype="bfloat16")
    prepare_base(ModelStage(task=TaskConfig(), model=config), dataset, folder.parent / "named")
    return folder.parent / "named"


def history(folder: Path) -> list[dict]:
    return json.loads((folder / "history.json").read_text())


def weights(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def test_labels_are_the_answer_token_by_token(base, family, samples, dataset):
    processor = load_processor(base)
    dialect = DIALECTS[family]
    batch = SftCollator(processor, TASK, dialect, dataset)([to_row(s) for s in samples[:5]])
    for row, sample in enumerate(samples[:5]):
        target = TASK.target(sample.truth, Geometry.model_validate(sample.geometry), dialect)
        expected = processor.tokenizer(target + "<|im_end|>")["input_ids"]
        labels = batch["labels"][row]
        assert labels[labels != IGNORED].tolist() == expected
        assert labels[-len(expected) :].tolist() == expected  # at the end, nothing after
        ids = batch["input_ids"][row]
        assert ids[-len(expected) :].tolist() == expected
        assert (labels[ids == processor.video_token_id] == IGNORED).all()
        prompt = encode_sample(processor, sample, TASK.prompt(sample, dialect), dataset)
        kept = ids[batch["attention_mask"][row].bool()]
        assert kept.tolist() == prompt.input_ids.tolist() + expected
    holders = int((batch["mm_token_type_ids"] == 2).sum())
    assert holders * 4 == batch["pixel_values_videos"].shape[0]


def test_lengths_are_known_without_reading_videos(base, family, samples, dataset, tmp_path):
    processor = load_processor(base)
    collator = SftCollator(processor, TASK, DIALECTS[family], dataset)
    blind = SftCollator(processor, TASK, DIALECTS[family], tmp_path)
    assert len({s.media[0].frames % 2 for s in samples}) == 2  # also half a temporal patch
    for sample in samples:
        assert blind.length(sample) == collator([to_row(sample)])["input_ids"].shape[1]


def test_batches_by_budget_train_on_every_sample(
    base, family, dataset, samples, tmp_path, monkeypatch, capsys
):
    seen, inner = [], SftCollator.__call__

    def noted(self, rows):
        batch = inner(self, rows)
        seen.append(([row["id"] for row in rows], batch["input_ids"].numel()))
        return batch

    monkeypatch.setattr(SftCollator, "__call__", noted)
    collator = SftCollator(load_processor(base), TASK, DIALECTS[family], dataset)
    longest = max(collator.length(sample) for sample in samples)
    changes = {"token_budget": 4 * longest, "epochs": 2, "evaluate_every": 100, "patience": None}
    stage = sft_stage(family, **changes)
    train_sft(stage, base, dataset, tmp_path / "a")
    train = {sample.id for sample in samples}
    batches = [(ids, tokens) for ids, tokens in seen if set(ids) <= train]
    steps = len(batches) // 2
    assert len([e for e in history(tmp_path / "a") if "loss" in e]) == 2 * steps
    for epoch in (batches[:steps], batches[steps:]):
        assert sorted(one for ids, _ in epoch for one in ids) == sorted(train)
    assert max(tokens for _, tokens in batches) <= 4 * longest
    assert batches[:steps] != batches[steps:]
    with pytest.raises(DataError, match=f"takes {longest} tokens, more than sft.token_budget"):
        train_sft(sft_stage(family, token_budget=longest - 1), base, dataset, tmp_path / "b")


def test_sft_learns_and_leaves_a_complete_folder(trained: Path, base: Path, family, samples):
    log = history(trained)
    losses = [entry["loss"] for entry in log if "loss" in entry]
    assert len(losses) == math.ceil(3 * len(samples) / 4)  # 3 epochs in batches of 4
    assert losses[-1] < losses[0] - 1
    assert any("eval_loss" in entry for entry in log)
    manifest = check_manifest(trained / "manifest.json")
    assert manifest["config"]["sft"]["learning_rate"] == 2e-3
    assert set(manifest["parents"]) == {
        str(base / "manifest.json"),
        next(key for key in manifest["parents"] if "datasets" in key),
    }
    assert load_model(trained, model_config(family)).dtype == torch.float32


@pytest.mark.parametrize("adapters", [False, True], ids=["weights", "adapters"])
def test_sft_is_reproducible(base: Path, family, dataset: Path, tmp_path: Path, adapters):
    changes = {"lora": LoraConfig(rank=4, alpha=8), "freeze": ["vision"]} if adapters else {}
    stage = sft_stage(family, epochs=0.6, **changes)
    for name in ("a", "b"):
        torch.manual_seed(ord(name))  # what ran before does not matter
        train_sft(stage, base, dataset, tmp_path / name)
    for file in ("model.safetensors", "history.json", "manifest.json"):
        assert sha256(tmp_path / "a" / file) == sha256(tmp_path / "b" / file), file


def test_grpo_updates_every_part_and_logs_its_terms(
    trained: Path, family, dataset: Path, tmp_path: Path, monkeypatch
):
    # A reward that every sampled answer earns differently, so that there is a gradient.
    variety = Term("variety", 1.0, lambda judged: min(1.0, len(set(judged.text)) / 100))
    monkeypatch.setattr(type(TASK), "terms", lambda *_: [variety])
    stage = grpo_stage(family, completions_every=2, gradient_accumulation=2, batch_size=4)
    train_grpo(stage, trained, dataset, tmp_path / "grpo")
    before, after = weights(trained), weights(tmp_path / "grpo")
    changed = {part_of(name) for name in before if not before[name].equal(after[name])}
    assert changed == {"vision", "projector", "language"}
    entry = next(e for e in history(tmp_path / "grpo") if "reward" in e)
    assert 0 < entry["reward"] <= 1
    assert entry["terms/variety/mean"] == pytest.approx(entry["reward"], abs=1e-6)
    assert entry["terms/variety/group_std"] > 0
    assert "entropy" in entry
    manifest = check_manifest(tmp_path / "grpo/manifest.json")
    assert manifest["parents"][str(trained / "manifest.json")] == sha256(trained / "manifest.json")
    assert "completions/step-00002.parquet" in manifest["files"]
    check_completions(tmp_path / "grpo/completions", family, dataset)


def check_completions(folder: Path, family: str, dataset: Path) -> None:
    """Check the table of a step of two groups of four."""
    assert [path.name for path in folder.iterdir()] == ["step-00002.parquet"]
    rows = read_rows(folder / "step-00002.parquet")
    assert len(rows) == 8
    names = ("step", "id", "prompt", "media", "text", "reason", "term_variety", "reward")
    assert tuple(rows[0]) == (*names, "advantage")
    samples = {s.id: s for s in iterate(load_split(dataset, "train"))}
    for group in (rows[:4], rows[4:]):
        sample = samples[group[0]["id"]]
        mean = sum(row["reward"] for row in group) / 4
        for row in group:
            assert (row["id"], row["step"]) == (sample.id, 2)
            assert row["prompt"] == TASK.prompt(sample, DIALECTS[family])
            assert (dataset / row["media"]).is_file()
            assert row["reward"] == row["term_variety"] == min(1, len(set(row["text"])) / 100)
            assert row["advantage"] == pytest.approx(row["reward"] - mean, abs=1e-6)
    assert rows[0]["id"] != rows[4]["id"]


def make_trainer(start: Path, family, dataset: Path, **changes) -> VideoGRPOTrainer:
    stage = grpo_stage(family, **changes)
    processor = load_processor(start)
    dialect = DIALECTS[family]
    return VideoGRPOTrainer(
        model=trainable_model(start, stage.model, stage.grpo),
        reward_funcs=grpo.reward_function(TASK, TASK.terms("default", {}), dialect, 4),
        args=grpo._arguments(stage, processor),
        train_dataset=load_split(dataset, "train").with_transform(grpo.as_prompts),
        processing_class=processor,
        encode=lambda s: encode_sample(processor, s, TASK.prompt(s, dialect), dataset),
        rollout_batch=stage.grpo.rollout_batch,
    )


def groups(samples, count: int) -> list[dict]:
    """Rows of `count` different prompts, each four times, as TRL's sampler gives them."""
    chosen = {s.media[0].frames: s for s in samples}  # videos of different lengths
    return [
        {"prompt": [{"role": "user", "content": s.prompt}], "sample": s}
        for s in list(chosen.values())[:count]
        for _ in range(4)
    ]


def logps(trainer, output, model=None):
    ids = torch.cat([output["prompt_ids"], output["completion_ids"]], dim=1)
    mask = torch.cat([output["prompt_mask"], output["completion_mask"]], dim=1)
    with torch.no_grad():
        return trainer._get_per_token_logps_and_entropies(
            model or trainer.model, ids, mask, output["completion_ids"].shape[1], batch_size=3
        )[0]


def test_the_tower_sees_each_video_once_in_rollout_and_update(trained, family, dataset, samples):
    trainer = make_trainer(trained, family, dataset)
    seen: list[int] = []
    trainer.model.model.visual.register_forward_pre_hook(
        lambda _, arguments: seen.append(len(arguments[0]))
    )
    output = trainer._generate_and_score_completions(groups(samples, 2))
    patches = sum(len(video.vision["pixel_values_videos"]) for video in trainer._videos)
    assert len(trainer._videos) == 2
    assert seen == [patches]
    output["advantages"] = torch.linspace(-1, 1, 8)  # as if the answers differed in reward
    trainer._compute_loss(trainer.model, output).backward()
    assert seen == [patches, patches]
    assert trainer.model.model.visual.patch_embed.proj.weight.grad.abs().max() > 0
    assert "get_video_features" not in vars(trainer.model.model)


def test_shared_videos_give_the_loss_and_gradients_of_single_ones(
    trained, family, dataset, samples
):
    """One batch of two groups, against the same rows scored one by one with their own video."""
    gradients = []
    for size in (8, 1):
        trainer = make_trainer(trained, family, dataset)
        torch.manual_seed(0)
        output = trainer._generate_and_score_completions(groups(samples, 2))
        ids = torch.cat([output["prompt_ids"], output["completion_ids"]], dim=1)
        mask = torch.cat([output["prompt_mask"], output["completion_mask"]], dim=1)
        logps = trainer._get_per_token_logps_and_entropies(
            trainer.model, ids, mask, output["completion_ids"].shape[1], batch_size=size
        )[0]
        (logps * output["completion_mask"]).sum().backward()
        tower = trainer.model.model.visual.named_parameters()
        gradients.append({name: p.grad for name, p in tower if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        assert torch.allclose(gradient, gradients[1][name], rtol=1e-3, atol=1e-4), name


@pytest.mark.parametrize(
    "changes",
    [
        {"importance_sampling": "sequence", "loss_type": "grpo", "epsilon": 3e-4},
        {"mask_truncated": True, "loss_type": "dapo", "epsilon_high": 0.28},
    ],
    ids=["gspo", "dapo"],
)
def test_published_recipes_train(trained, family, dataset, tmp_path, changes):
    train_grpo(grpo_stage(family, **changes, num_iterations=2), trained, dataset, tmp_path / "grpo")
    log = history(tmp_path / "grpo")
    assert len([entry for entry in log if "loss" in entry]) == 2
    assert len([entry for entry in log if "reward" in entry]) == 1  # one rollout, used twice


def test_answers_that_did_not_end_can_be_left_out(trained, family, dataset, samples):
    trainer = make_trainer(trained, family, dataset, mask_truncated=True, max_completion_length=2)
    output = trainer._generate_and_score_completions(groups(samples, 2))
    end = trainer.processing_class.tokenizer.eos_token_id
    ended = (output["completion_ids"] == end).any(dim=1)
    assert not ended.all()
    assert (output["completion_mask"].any(dim=1) == ended).all()


def test_rollouts_in_parts_are_those_of_their_own_videos(trained, family, dataset, samples):
    trainer = make_trainer(trained, family, dataset, rollout_batch=3, temperature=1e-4)
    whole = make_trainer(trained, family, dataset, temperature=1e-4)
    first, second = (
        t._generate_and_score_completions(groups(samples, 2)) for t in (trainer, whole)
    )
    for row in range(8):
        one, other = (
            output["completion_ids"][row][output["completion_mask"][row].bool()]
            for output in (first, second)
        )
        assert one.equal(other)


@pytest.mark.parametrize("beta", [0.0, 0.1])
def test_old_reference_and_update_see_the_video(trained, family, dataset, samples, tmp_path, beta):
    trainer = make_trainer(trained, family, dataset, beta=beta)
    output = trainer._generate_and_score_completions(groups(samples, 2))
    assert output["video_rows"].tolist() == [0] * 4 + [1] * 4
    own = logps(trainer, output)

    # The learner's figures are those of a plain forward pass with the row's own video.
    for row in (0, 5):
        video = trainer._videos[int(output["video_rows"][row])]
        batch = prompt_batch([video], 0)
        length = int(output["completion_mask"][row].sum())
        completion = output["completion_ids"][row, :length]
        batch["input_ids"] = torch.cat([video.input_ids, completion])[None]
        batch["attention_mask"] = torch.ones_like(batch["input_ids"])
        batch["mm_token_type_ids"] = torch.nn.functional.pad(
            batch["mm_token_type_ids"], (0, length)
        )
        with torch.no_grad():
            logits = trainer.model(**batch).logits[0, len(video.input_ids) - 1 : -1]
        plain = logits.log_softmax(-1).gather(1, completion[:, None])[:, 0]
        assert own[row, :length] == pytest.approx(plain, abs=1e-4)

    # A shuffled slice of the batch, as TRL makes it, still meets its own videos.
    order = torch.tensor([6, 1, 4, 3])
    trainer._rows = output["video_rows"][order].tolist()
    part = {
        k: output[k][order]
        for k in ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask")
    }
    assert torch.allclose(logps(trainer, part), own[order], atol=1e-5)

    if beta:
        assert torch.allclose(output["ref_per_token_logps"], own, atol=1e-5)
        reference = trainer.accelerator.unwrap_model(trainer.ref_model)
        trainer._rows = output["video_rows"].tolist()
        assert torch.allclose(logps(trainer, output, reference), own, atol=1e-5)

    # Black frames change every row.
    trainer._rows = output["video_rows"].tolist()
    for video in trainer._videos:
        video.vision["pixel_values_videos"].zero_()
    assert ((logps(trainer, output) - own).abs().max(dim=1).values > 1e-5).all()


def test_placeholders_that_belong_to_another_video_are_refused(
    trained, family, dataset, samples, tmp_path
):
    trainer = make_trainer(trained, family, dataset)
    rows = groups(samples, 2)
    assert rows[0]["sample"].media[0].frames != rows[4]["sample"].media[0].frames
    output = trainer._generate_and_score_completions(rows)
    trainer._rows = [1] * 4 + [0] * 4
    with pytest.raises(AssertionError, match="placeholders and videos disagree"):
        logps(trainer, output)


def test_rollouts_never_hold_placeholders(base, family, dataset, samples, tmp_path):
    """An untrained model would sample them, and then have no pixels for them."""
    trainer = make_trainer(base, family, dataset, temperature=5.0)
    output = trainer._generate_and_score_completions(groups(samples, 2))
    ids = output["completion_ids"][output["completion_mask"].bool()]
    for token in ("<|video_pad|>", "<|image_pad|>", "<|vision_start|>", "<|vision_end|>"):
        assert not (ids == trainer.processing_class.tokenizer.convert_tokens_to_ids(token)).any()


def test_an_error_in_a_reward_stops_the_run(trained, family, dataset, tmp_path, monkeypatch):
    def broken(judged):
        raise ZeroDivisionError("a bug in a term")

    monkeypatch.setattr(type(TASK), "terms", lambda *_: [Term("broken", 1.0, broken)])
    with pytest.raises(RewardError, match="term broken: raised ZeroDivisionError: a bug in a term"):
        train_grpo(grpo_stage(family), trained, dataset, tmp_path / "grpo")
    assert not (tmp_path / "grpo").exists()
    record = read_json(tmp_path / "grpo.failed_reward.json")
    assert record["answers"][0]["id"] in load_split(dataset, "train")["id"]
    assert "in broken" in record["traceback"]


def test_a_diverging_run_stops_and_writes_no_model(base, family, dataset, tmp_path, monkeypatch):
    inner = SftCollator.__call__

    def poisoned(self, rows):
        batch = inner(self, rows)
        batch["pixel_values_videos"][0, 0] = float("nan")
        return batch

    monkeypatch.setattr(SftCollator, "__call__", poisoned)
    with pytest.raises(ModelError, match=r"(loss|grad_norm) is nan"):
        train_sft(sft_stage(family), base, dataset, tmp_path / "sft")
    assert not (tmp_path / "sft").exists()


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
    assert changed == {"language"}
    with pytest.raises(ModelError, match="every part is frozen"):
        trainable_model(
            base,
            stage.model,
            SFT.model_copy(update={"freeze": ["vision", "projector", "language"]}),
        )


def test_evaluation_answers_the_same_samples_and_logs_what_they_are_worth(
    trained, base, family, dataset, tmp_path
):
    log = [entry for entry in history(trained) if "eval_loss" in entry]
    assert [entry["step"] for entry in log] == [6, 12, 13]
    for entry in log:
        terms = {"eval_terms/valid", "eval_terms/iou", "eval_iou", "eval_valid", "eval_peak_error"}
        assert terms <= set(entry)
        assert 0 <= entry["eval_reward"] <= 1
    ids = [f"a/{n}" for n in range(50)]
    first, second = ({ids[i] for i in chosen(ids, 5, seed)} for seed in (1, 2))
    assert len(first) == len(second) == 5
    assert first != second
    assert first == {ids[::-1][i] for i in chosen(ids[::-1], 5, 1)}  # in any order
    assert chosen(ids, 100, 1) == list(range(50))
    # The logged figures are those of the model that was saved.
    val = load_split(dataset, "val")
    processor, model = load_processor(trained), load_model(trained, model_config(family))
    answers = Answers(
        processor=processor,
        task=TASK,
        dialect=DIALECTS[family],
        samples=list(iterate(val)),
        terms=TASK.terms("default", {}),
        root=dataset,
        batch_size=4,
    )
    step = check_manifest(trained / "manifest.json")["step"]
    logged = next(entry for entry in log if entry["step"] == step)
    for name, value in answers.measure(model).items():
        assert logged[name] == pytest.approx(value, abs=1e-6), name


def grouped(model, **changes) -> dict[tuple[float, float], set[str]]:
    """Names of the parameters of every optimiser group, by (rate, weight decay)."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = parameter_groups(model, SFT.model_copy(update=changes))
    return {(g["lr"], g["weight_decay"]): {names[p] for p in g["params"]} for g in groups}


def undecayed(name: str) -> bool:
    return name.endswith("bias") or bool(re.search(r"norm\d?\.|_norm|ln_q", name))


RATES = LearningRates(vision=1e-6, projector=1e-3, language=1e-4)


@pytest.mark.parametrize("adapters", [False, True], ids=["weights", "adapters"])
def test_every_part_has_its_rate(base, family, adapters):
    changes = {"lora": LoraConfig(rank=4, alpha=8), "freeze": ["vision"]} if adapters else {}
    config = SFT.model_copy(update=changes)
    model = trainable_model(base, model_config(family), config)
    found = grouped(model, learning_rates=RATES, weight_decay=0.1)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert set.union(*found.values()) == trained
    assert sum(map(len, found.values())) == len(trained)  # each in one group
    rate = {"vision": 1e-6, "projector": 1e-3, "language": 1e-4}
    for (lr, decay), names in found.items():
        assert {rate[part_of(name)] for name in names} == {lr}
        assert {undecayed(name) for name in names} == {decay == 0}
    expected = {"language", "projector"} | (set() if adapters else {"vision"})
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
    moved = dict.fromkeys(("vision", "projector", "language"), 0.0)
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
        self.encoded, self.merge = encoded, common.merged
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
    """Float32 adapters over a bfloat16 base; then GRPO, with changes too small for bfloat16."""
    model = ModelConfig(family=family, path="released", dtype="bfloat16")
    processor = load_processor(base_path(released))
    prompt = TASK.prompt(samples[0], DIALECTS[family])
    spy = MergeSpy(encode_sample(processor, samples[0], prompt, dataset))
    monkeypatch.setattr(common, "merged", spy)
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
    assert min(spy.lost) > 0.5  # what a bfloat16 sum would have lost
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
        predict(
            stage, trained, dataset, ("greedy", "sampled", "shuffled"), tmp_path / f"{name}.parquet"
        )
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
        predict(
            stage, tmp_path / name, dataset, ("greedy", "sampled"), tmp_path / f"{name}.parquet"
        )
        rows[name] = read_rows(tmp_path / f"{name}.parquet")
    assert rows["shipped"] == rows["clean"]


def test_any_number_that_is_not_finite_stops_the_run():
    progress, state = Progress("test", 1, ()), SimpleNamespace(global_step=7)
    progress.on_log(None, state, None, {"loss": 1.0, "reward": 0.5})
    progress.on_log(None, state, None, {"clip_ratio/low_min": None})  # nothing was in the loss
    for value in (float("nan"), float("inf"), None):
        with pytest.raises(ModelError, match=f"step 7: reward is {value}"):
            progress.on_log(None, state, None, {"loss": 1.0, "reward": value})


def test_a_run_that_diverges_after_the_last_log_entry_writes_no_model(
    base, family, dataset, tmp_path, monkeypatch
):
    stage = sft_stage(family, log_every=1000, epochs=0.6)
    with monkeypatch.context() as patch:
        patch.setattr(SFTTrainer, "compute_loss", nan_in_the_last_step)
        with pytest.raises(ModelError, match="train_loss is nan"):
            train_sft(stage, base, dataset, tmp_path / "sft")
    with monkeypatch.context() as patch:
        patch.setattr(SFTTrainer, "train", break_a_weight)
        with pytest.raises(ModelError, match=r"not written.*NaN or infinite"):
            train_sft(stage, base, dataset, tmp_path / "other")
    assert not (tmp_path / "sft").exists()
    assert not (tmp_path / "other").exists()


def nan_in_the_last_step(trainer, *args, **kwargs):
    loss = SFT_LOSS(trainer, *args, **kwargs)
    last = trainer.state.global_step == trainer.state.max_steps - 1
    return loss + float("nan") if last else loss  # the gradient, and so the weights, stay finite


def break_a_weight(trainer, **_):
    with torch.no_grad():
        next(trainer.model.parameters()).view(-1)[0] = float("inf")


def test_changed_parents_are_refused(trained, family, dataset, tmp_path):
    copy = tmp_path / "sft"
    shutil.copytree(trained, copy)
    (copy / "config.json").write_text((copy / "config.json").read_text() + " ")
    with pytest.raises(DataError, match="changed since"):
        train_grpo(grpo_stage(family), copy, dataset, tmp_path / "grpo")
