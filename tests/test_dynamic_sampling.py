"""Groups that teach nothing are replaced by others, a bounded number of times."""

import pytest
import torch
from training_stages import TASK, groups, grpo_stage, history, make_trainer, weights

from medtune.config.training import GrpoConfig
from medtune.records.sample import iterate, load_split
from medtune.rewards.base import Term
from medtune.runtime.files import sha256_text
from medtune.runtime.tables import read_rows
from medtune.training.dynamic_sampling import zero_variance
from medtune.training.grpo import train_grpo


def is_dull(sample_id: str) -> bool:
    return int(sha256_text(sample_id)[:8], 16) % 3 > 0


def varied(judged) -> float:
    return int(sha256_text(judged.text)[:8], 16) / 2**32


DULL = Term("dull", 1.0, lambda judged: 0.5 if is_dull(judged.sample.id) else varied(judged))
ALL_DULL = Term("dull", 1.0, lambda _: 0.5)


def test_groups_without_a_difference_are_found():
    advantages = torch.tensor([0.0, 0.0, 0.1, -0.1, 1e-9, -1e-9])
    assert zero_variance(advantages, 2).tolist() == [True, False, True]


@pytest.mark.parametrize("beta", [0.0, 0.1])
def test_dull_groups_are_replaced_with_all_that_belongs_to_them(trained, family, dataset, beta):
    samples = list(iterate(load_split(dataset, "train")))
    dull = [s for s in samples if is_dull(s.id)]
    bright = [s for s in samples if not is_dull(s.id)]
    rows = groups([dull[0], bright[0]], 2, lambda s: s.id)
    trainer = make_trainer(trained, family, dataset, [DULL], dynamic_sampling_rounds=20, beta=beta)
    output = trainer._generate_and_score_completions(rows)
    assert not zero_variance(output["advantages"], 4).any()
    shown = [trainer._table[4 * int(r)]["id"] for r in output["media_rows"][::4]]
    assert shown[0] not in (dull[0].id, bright[0].id)
    assert shown[1] == bright[0].id

    # Rows, masks, media and reference belong together: the reference is the model itself here.
    plain = make_trainer(trained, family, dataset, [DULL], beta=0.1)
    by_id = {s.id: s for s in samples}
    again = plain._generate_and_score_completions(
        groups([by_id[n] for n in shown], 2, lambda s: s.id)
    )
    for name in ("prompt_ids", "completion_ids"):
        mask = name.replace("ids", "mask")
        for row in range(8):
            one, other = (o[name][row][o[mask][row].bool()] for o in (output, again))
            assert one.equal(other), name
    if beta:
        kept = [o["ref_per_token_logps"][o["completion_mask"].bool()] for o in (output, again)]
        assert torch.allclose(*kept, atol=1e-5)
    assert int(output["num_items_in_batch"]) == int(output["completion_mask"].sum())
    assert torch.allclose(output["advantages"], again["advantages"], atol=1e-6)


def test_rounds_are_bounded_and_what_is_left_is_logged(
    trained, family, dataset, tmp_path, monkeypatch
):
    monkeypatch.setattr(type(TASK), "terms", lambda *_: [ALL_DULL])
    train_grpo(
        grpo_stage(family, dynamic_sampling_rounds=2, log_completions_steps=1),
        trained,
        dataset,
        tmp_path / "a",
    )
    entry = next(e for e in history(tmp_path / "a") if "reward" in e)
    assert entry["resampling/left_without_difference"] == 1
    assert entry["resampling/prompts"] == 6
    quiet = grpo_stage(family, dynamic_sampling_rounds=2, log_completions_steps=0)
    train_grpo(quiet, trained, dataset, tmp_path / "quiet")
    assert history(tmp_path / "quiet")[0]["resampling/prompts"] == 6
    rows = read_rows(tmp_path / "a/completions/step-00001.parquet")
    assert [row["round"] for row in rows] == [0] * 8 + [1] * 8 + [2] * 8
    assert len({row["id"] for row in rows}) == 6
    before, after = weights(trained), weights(tmp_path / "a")
    assert all(before[name].equal(after[name]) for name in before)  # there was nothing to learn


def test_which_prompts_come_in_follows_from_the_seed(
    trained, family, dataset, tmp_path, monkeypatch
):
    monkeypatch.setattr(type(TASK), "terms", lambda *_: [DULL])
    stage = grpo_stage(family, dynamic_sampling_rounds=3, log_completions_steps=1)
    for name in ("a", "b"):
        train_grpo(stage, trained, dataset, tmp_path / name)
    tables = [read_rows(tmp_path / n / "completions/step-00002.parquet") for n in ("a", "b")]
    assert tables[0] == tables[1]
    assert history(tmp_path / "a") == history(tmp_path / "b")


def test_scaling_by_the_whole_batch_is_refused():
    with pytest.raises(ValueError, match="scale by group or none"):
        GrpoConfig(dynamic_sampling_rounds=1, scale_rewards="batch")
