"""GRPO: every forward pass sees the video of its row, and the reward is what is learned."""

from pathlib import Path

import pytest
import torch
from training_stages import TASK, groups, grpo_stage, history, make_trainer, weights

import medtune.training  # noqa: F401  (declares operators before transformers is imported)
from medtune.models.batches import prompt_batch
from medtune.models.coordinate_format import COORDINATE_FORMATS
from medtune.records.sample import iterate, load_split
from medtune.rewards.base import RewardError, Term
from medtune.runtime.files import check_manifest, read_json, sha256
from medtune.runtime.tables import read_rows
from medtune.training.grpo import train_grpo
from medtune.training.trainable import part_of


def test_grpo_updates_every_part_and_logs_its_terms(
    trained: Path, family, dataset: Path, tmp_path: Path, monkeypatch
):
    # A reward that every sampled answer earns differently, so that there is a gradient.
    variety = Term("variety", 1.0, lambda judged: min(1.0, len(set(judged.text)) / 100))
    monkeypatch.setattr(type(TASK), "terms", lambda *_: [variety])
    stage = grpo_stage(family, log_completions_steps=2, gradient_accumulation=2, batch_size=4)
    train_grpo(stage, trained, dataset, tmp_path / "grpo")
    before, after = weights(trained), weights(tmp_path / "grpo")
    changed = {part_of(name) for name in before if not before[name].equal(after[name])}
    assert changed == {"vision", "projector", "head", "language"}
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
    names = ("step", "round", "id", "prompt", "media", "text", "reason", "term_variety", "reward")
    assert tuple(rows[0]) == (*names, "advantage")
    samples = {s.id: s for s in iterate(load_split(dataset, "train"))}
    for group in (rows[:4], rows[4:]):
        sample = samples[group[0]["id"]]
        mean = sum(row["reward"] for row in group) / 4
        for row in group:
            assert (row["id"], row["step"]) == (sample.id, 2)
            assert row["prompt"] == TASK.prompt(sample, COORDINATE_FORMATS[family])
            assert (dataset / row["media"]).is_file()
            assert row["reward"] == row["term_variety"] == min(1, len(set(row["text"])) / 100)
            assert row["advantage"] == pytest.approx(row["reward"] - mean, abs=1e-6)
    assert rows[0]["id"] != rows[4]["id"]


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
    patches = sum(len(video.vision["pixel_values_videos"]) for video in trainer._media)
    assert len(trainer._media) == 2
    assert seen == [patches]
    output["advantages"] = torch.linspace(-1, 1, 8)  # as if the answers differed in reward
    trainer._compute_loss(trainer.model, output).backward()
    assert seen == [patches, patches]
    assert trainer.model.model.visual.patch_embed.proj.weight.grad.abs().max() > 0
    assert "get_video_features" not in vars(trainer.model.model)


def test_a_frozen_tower_computes_once_for_rollout_and_updates(trained, family, dataset, samples):
    for limit, passes in ((1.0, 1), (0.0, 3)):
        changes = {"freeze": ["vision", "projector"], "feature_cache_gb": limit}
        trainer = make_trainer(trained, family, dataset, **changes, num_iterations=2)
        seen: list[int] = []
        tower = trainer.model.model.visual
        tower.register_forward_pre_hook(lambda *_, seen=seen: seen.append(1))
        output = trainer._generate_and_score_completions(groups(samples, 2))
        assert "old_per_token_logps" in output
        trainer._compute_loss(trainer.model, output).backward()
        assert len(seen) == passes


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


def test_rollouts_in_parts_are_those_of_their_own_media(trained, family, dataset, samples):
    """They are, draw by draw, also those of a rollout of all at once."""
    trainer = make_trainer(trained, family, dataset, rollout_batch=3)
    whole = make_trainer(trained, family, dataset)
    first, second = (
        t._generate_and_score_completions(groups(samples, 2)) for t in (trainer, whole)
    )
    for row in range(8):
        one, other = (
            output["completion_ids"][row][output["completion_mask"][row].bool()]
            for output in (first, second)
        )
        assert one.equal(other)
    texts = {tuple(row.tolist()) for row in first["completion_ids"][:4]}
    assert len(texts) == 4  # one prompt's answers differ


@pytest.mark.parametrize("beta", [0.0, 0.1])
def test_old_reference_and_update_see_the_video(trained, family, dataset, samples, tmp_path, beta):
    trainer = make_trainer(trained, family, dataset, beta=beta)
    output = trainer._generate_and_score_completions(groups(samples, 2))
    assert output["media_rows"].tolist() == [0] * 4 + [1] * 4
    own = logps(trainer, output)

    # The learner's figures are those of a plain forward pass with the row's own video.
    for row in (0, 5):
        video = trainer._media[int(output["media_rows"][row])]
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
    trainer._rows = output["media_rows"][order].tolist()
    part = {
        k: output[k][order]
        for k in ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask")
    }
    assert torch.allclose(logps(trainer, part), own[order], atol=1e-5)

    if beta:
        assert torch.allclose(output["ref_per_token_logps"], own, atol=1e-5)
        reference = trainer.accelerator.unwrap_model(trainer.ref_model)
        trainer._rows = output["media_rows"].tolist()
        assert torch.allclose(logps(trainer, output, reference), own, atol=1e-5)

    # Black frames change every row.
    trainer._rows = output["media_rows"].tolist()
    for video in trainer._media:
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
    with pytest.raises(AssertionError, match="placeholders and media disagree"):
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
