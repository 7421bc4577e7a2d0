"""SFT: exact labels, batches, evaluation, and a stop when something is wrong."""

import math
from pathlib import Path

import pytest
import torch
from training_stages import TASK, history, model_config, sft_stage

import medtune.training  # noqa: F401  (declares operators before transformers is imported)
from medtune.config.training import LoraConfig
from medtune.models.coordinate_format import COORDINATE_FORMATS
from medtune.models.inputs import encode_sample
from medtune.models.loading import load_model, load_processor
from medtune.records.sample import iterate, load_split, to_row
from medtune.runtime.errors import DataError, ModelError
from medtune.runtime.files import check_manifest, sha256
from medtune.training.batches import IGNORED, SftCollator
from medtune.training.sft import SFTTrainer, train_sft
from medtune.training.validation import ValidationGenerations, chosen

SFT_LOSS = SFTTrainer.compute_loss


def test_labels_are_the_answer_token_by_token(base, family, samples, dataset):
    processor = load_processor(base)
    dialect = COORDINATE_FORMATS[family]
    batch = SftCollator(processor, TASK, dialect, dataset)([to_row(s) for s in samples[:5]])
    for row, sample in enumerate(samples[:5]):
        target = TASK.target(sample, dialect)
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
    collator = SftCollator(processor, TASK, COORDINATE_FORMATS[family], dataset)
    blind = SftCollator(processor, TASK, COORDINATE_FORMATS[family], tmp_path)
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
    collator = SftCollator(load_processor(base), TASK, COORDINATE_FORMATS[family], dataset)
    longest = max(collator.length(sample) for sample in samples)
    changes = {
        "max_tokens_per_batch": 4 * longest,
        "epochs": 2,
        "eval_steps": 100,
        "patience": None,
    }
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
    with pytest.raises(
        DataError, match=f"takes {longest} tokens, more than sft.max_tokens_per_batch"
    ):
        train_sft(
            sft_stage(family, max_tokens_per_batch=longest - 1), base, dataset, tmp_path / "b"
        )


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
    answers = ValidationGenerations(
        collator=SftCollator(processor, TASK, COORDINATE_FORMATS[family], dataset),
        samples=list(iterate(val)),
        terms=TASK.terms("default", {}),
        batch_size=4,
    )
    step = check_manifest(trained / "manifest.json")["step"]
    logged = next(entry for entry in log if entry["step"] == step)
    for name, value in answers.figures(model).items():
        assert logged[name] == pytest.approx(value, abs=1e-6), name


def test_a_run_that_diverges_after_the_last_log_entry_writes_no_model(
    base, family, dataset, tmp_path, monkeypatch
):
    stage = sft_stage(family, logging_steps=1000, epochs=0.6)
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
