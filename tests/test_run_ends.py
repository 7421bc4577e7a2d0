"""A training that did not do its steps is no success; texts are no control tokens."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from training_stages import (
    TASK,
    changed_dataset,
    grpo_stage,
    make_trainer,
    model_config,
    sft_stage,
)

from medtune.models.generate import generate
from medtune.models.inputs import encode_sample, special_tokens
from medtune.models.loading import load_model, load_processor
from medtune.records.sample import Turn
from medtune.records.special_tokens import TextCheck
from medtune.runtime.errors import ConfigError, DataError, ModelError
from medtune.runtime.files import read_json
from medtune.training import batches
from medtune.training.grpo import check_prompts, train_grpo
from medtune.training.run import why_ended
from medtune.training.sft import train_sft


def state(step: int, losses: list[float]) -> SimpleNamespace:
    history = [{"step": n + 1, "eval_loss": loss} for n, loss in enumerate(losses)]
    return SimpleNamespace(global_step=step, max_steps=9, log_history=history)


def test_the_end_of_a_run_is_told_from_its_middle():
    assert why_ended(state(9, []), None, "sft") == "all 9 steps"
    assert why_ended(state(3, [1.0, 2.0, 3.0]), 2, "sft").startswith("step 3 of 9, stopping early")
    for losses, patience in (([3.0, 2.0, 1.0], 2), ([1.0, 2.0, 3.0], None)):
        with pytest.raises(ModelError, match="ended after step 3 of 9"):
            why_ended(state(3, losses), patience, "sft")


def test_a_sample_that_ends_the_epoch_writes_no_model(base, family, dataset, tmp_path, monkeypatch):
    """Whatever ends a loader early: here a collator that runs out of something."""
    whole = batches.SftCollator.__call__
    calls = []

    def running_out(self, rows):
        calls.append(rows)
        if len(calls) > 3:
            raise StopIteration
        return whole(self, rows)

    monkeypatch.setattr(batches.SftCollator, "__call__", running_out)
    stage = sft_stage(family, epochs=2, eval_generation_samples=0, eval_steps=100)
    with pytest.raises(ModelError, match=r"ended after step \d+ of \d+"):
        train_sft(stage, base, dataset, tmp_path / "sft")
    assert not (tmp_path / "sft").exists()


@pytest.mark.parametrize(
    ("turn", "token"),
    [
        (Turn(prompt="see <|video_pad|>", target="yes"), "<|video_pad|>"),
        (Turn(prompt="look", target="yes <|im_end|> no"), "<|im_end|>"),
    ],
    ids=["question", "answer"],
)
def test_a_special_token_in_a_text_names_its_sample(
    trained, family, dataset, tmp_path, turn, token, monkeypatch
):
    monkeypatch.setattr(TextCheck, "end", lambda self: None)  # another's data set

    def change(sample, number, split):
        first = (split, number) == ("train", 0)
        return sample.model_copy(update={"turns": (turn,)}) if first else sample

    data = changed_dataset(dataset, tmp_path / "data", change)
    expected = rf"tumor_detection_3d: its text holds '{token}'".replace("|", r"\|")
    with pytest.raises(DataError, match=expected):
        train_sft(sft_stage(family, eval_generation_samples=0), trained, data, tmp_path / "sft")
    with pytest.raises(DataError, match=expected):
        train_grpo(grpo_stage(family, steps=12), trained, data, tmp_path / "grpo")


def test_a_special_token_in_a_gold_answer_is_refused(
    trained, family, dataset, samples, monkeypatch
):
    processor = load_processor(trained)
    collator = batches.SftCollator(processor, TASK, None, dataset)
    for token in special_tokens(processor):
        monkeypatch.setattr(type(TASK), "target", lambda *_, token=token: f"No {token} here.")
        with pytest.raises(DataError, match="special token"):
            collator.answer(samples[0])
    monkeypatch.setattr(type(TASK), "target", lambda *_: "An <image> of a <video>, |im_end|.")
    assert collator.answer(samples[0])


def test_fewer_prompts_than_a_step_needs_are_refused_with_the_numbers(
    trained, family, dataset, tmp_path
):
    grpo = grpo_stage(family, batch_size=8, gradient_accumulation=2).grpo
    check_prompts(grpo, 4)
    with pytest.raises(ConfigError, match=r"needs 4 prompts .*, but there are 3"):
        check_prompts(grpo, 3)
    stage = grpo_stage(family, batch_size=8, gradient_accumulation=64)
    with pytest.raises(ConfigError, match=r"lower grpo\.gradient_accumulation"):
        train_grpo(stage, trained, dataset, tmp_path / "grpo")


def test_the_manifest_says_why_training_ended(trained):
    assert read_json(trained / "manifest.json")["ended"].startswith("all ")


def test_rollouts_and_answers_end_at_the_same_tokens(
    trained, family, dataset, samples, tmp_path, monkeypatch
):
    """Qwen's released models declare two ends; rollouts by vLLM: `test_vllm`."""
    folder = tmp_path / "model"
    shutil.copytree(trained, folder)
    processor = load_processor(folder)
    ends = processor.tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_end|>"])
    settings = json.loads((folder / "generation_config.json").read_text())
    declared = json.dumps(settings | {"eos_token_id": ends})
    (folder / "generation_config.json").write_text(declared)
    trainer = make_trainer(folder, family, dataset)
    assert sorted(trainer.eos_token_ids) == sorted(ends)
    model = load_model(folder, model_config(family))
    passed = []

    def generated(**given):
        passed.append(given["eos_token_id"])
        answer = torch.tensor([[40, ends[0], 41]])
        return torch.cat([given["input_ids"], answer], 1)

    monkeypatch.setattr(model, "generate", generated)
    encoded = encode_sample(processor, samples[0], "Locate.", dataset)
    row = generate(model, processor, [encoded], 3)[0]
    assert sorted(passed[0]) == sorted(ends)
    assert (row["ended"], row["tokens"]) == (True, 2)
