"""GRPO starts from exactly the weights that SFT has trained, also by adapters and in bfloat16."""

import shutil
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from conftest import one_family
from test_changed_keys import crash
from test_processes import column, varied
from test_resume import same
from training_stages import TASK, grpo_stage, sft_stage, weights

from medtune.config.training import LoraConfig
from medtune.evaluation.engines import exact
from medtune.models.base_reference import base_path
from medtune.models.coordinate_format import COORDINATE_FORMATS
from medtune.models.loading import load_model
from medtune.records.sample import to_row
from medtune.training import run as common
from medtune.training.batches import IGNORED, SftCollator
from medtune.training.grpo import prepare_grpo, train_grpo
from medtune.training.origin import Origin, base_dtype, from_origin, origin_of
from medtune.training.policy_weights import policy_weights
from medtune.training.run import trainable_model
from medtune.training.sft import train_sft

LORA = {"lora": LoraConfig(rank=4, alpha=8, dropout=0), "freeze": ["vision"]}
WHOLE = lambda _: nullcontext()  # noqa: E731
SFT = LORA | {"epochs": 2, "eval_generation_samples": 0, "keep_best": False}


def in_bfloat16(stage):
    model = stage.model.model_copy(update={"dtype": "bfloat16"})
    return stage.model_copy(update={"model": model})


def answer_logps(trainer, model, sample, dataset):
    """The log-probability of every token of a gold answer, computed as in training."""
    dialect = COORDINATE_FORMATS[model.config.model_type]
    batch = SftCollator(trainer.processing_class, TASK, dialect, dataset)([to_row(sample)])
    labels = batch.pop("labels")[0, 1:]
    learned = labels != IGNORED
    with torch.no_grad(), trainer.accelerator.autocast():
        logits = model.eval()(**batch).logits[0, :-1][learned].float()
    return logits.log_softmax(-1).gather(1, labels[learned, None])[:, 0]


@pytest.fixture(scope="module")
def adapted(family, released, dataset, samples, tmp_path_factory):
    """SFT by adapters on a base in bfloat16: its folder, and how the trainer's model answers."""
    folder, found, save = tmp_path_factory.mktemp("chain") / "sft", [], common.save_result

    def noted(trainer, *others):
        found.append(answer_logps(trainer, trainer.model, samples[0], dataset))
        save(trainer, *others)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(common, "save_result", noted)
        train_sft(in_bfloat16(sft_stage(family, **SFT)), released, dataset, folder)
    return SimpleNamespace(folder=folder, logps=found[0])


@one_family
def test_grpo_begins_with_the_log_probabilities_of_sft(
    adapted, family, dataset, samples, tmp_path, capsys
):
    stage = in_bfloat16(grpo_stage(family, **LORA))
    trainer, _ = prepare_grpo(stage, adapted.folder, dataset, tmp_path / "grpo", None)
    assert f"start: {adapted.folder} in bfloat16: its adapters go on" in capsys.readouterr().err

    def difference(model) -> float:
        return float(
            (answer_logps(trainer, model, samples[0], dataset) - adapted.logps).abs().max()
        )

    merged = Origin(adapted.folder, None, "bfloat16")
    rounded = difference(from_origin(merged, stage.model, stage.grpo))
    now = difference(trainer.model)
    print(
        f"log-probabilities at step 0: adapters go on {now:.3g}, merged and rounded {rounded:.3g}"
    )
    assert now == 0
    assert rounded > 1e-3


def assert_is_evaluated(model, folder, config) -> None:
    """A model has the weights that evaluation loads, to the bit."""
    evaluated = load_model(folder, exact(config)).state_dict()
    begun = {name: value.float() for name, value in policy_weights(model, WHOLE)}
    assert len(begun) > 20
    assert all(value.equal(evaluated[name]) for name, value in begun.items())


@one_family
def test_evaluation_loads_the_weights_that_grpo_begins_with(adapted, family):
    stage = in_bfloat16(grpo_stage(family, **LORA))
    model = trainable_model(adapted.folder, stage.model, stage.grpo)
    assert_is_evaluated(model, adapted.folder, stage.model)


@one_family
@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"lora": LoraConfig(rank=8, alpha=8)}, "its adapters differ in lora.rank"),
        ({"freeze": ["vision", "projector"]}, "its adapters differ in freeze: projector"),
        ({}, "is not what its adapters were trained on"),
    ],
    ids=["rank", "projector", "base"],
)
def test_where_adapters_cannot_go_on_the_merged_weights_are_not_rounded(
    adapted, family, tmp_path, capsys, changes, word
):
    folder = shutil.copytree(adapted.folder, tmp_path / "sft")
    if not changes:
        record = folder / "adapters/trained_on.json"
        record.write_text(record.read_text().replace('"sha256": "', '"sha256": "0'))
    stage = in_bfloat16(grpo_stage(family, **LORA | changes))
    model = trainable_model(folder, stage.model, stage.grpo)
    said = capsys.readouterr().err
    assert f"start: {folder} in float32: " in said
    assert word in said
    assert_is_evaluated(model, folder, stage.model)


@one_family
def test_a_model_that_was_trained_whole_is_not_rounded_under_adapters(
    family, trained, released, capsys
):
    stage = in_bfloat16(grpo_stage(family, **LORA))
    model = trainable_model(trained, stage.model, stage.grpo)
    assert "in float32: it was trained without adapters" in capsys.readouterr().err
    assert_is_evaluated(model, trained, stage.model)
    source = base_path(released)  # of a released model bfloat16 is all there is
    assert origin_of(source, stage.model, stage.grpo) == Origin(source, None, "bfloat16")


@one_family
def test_grpo_over_adapters_goes_on_exactly_and_others_go_on_from_it(
    adapted, family, dataset, samples, tmp_path
):
    changes = LORA | {"steps": 3, "max_completion_length": 12, "beta": 0.04}
    stage = in_bfloat16(varied(family, tmp_path, **changes, save_steps=1))
    train_grpo(stage, adapted.folder, dataset, tmp_path / "whole")
    assert column(tmp_path / "whole", "kl")[0] == 0  # the reference is the SFT model
    assert max(column(tmp_path / "whole", "kl")) > 0
    crash(train_grpo, stage, adapted.folder, dataset, tmp_path / "cut/whole", 2)
    train_grpo(stage, adapted.folder, dataset, tmp_path / "cut/whole")
    same(tmp_path / "whole", tmp_path / "cut/whole")
    model = trainable_model(tmp_path / "whole", stage.model, stage.grpo)
    assert_is_evaluated(model, tmp_path / "whole", stage.model)
    before, after = weights(adapted.folder), weights(tmp_path / "whole")
    assert any(not before[name].equal(value) for name, value in after.items())


@pytest.mark.parametrize(
    ("sft", "expected"),
    [(LORA, "bfloat16"), (LORA | {"lora": LoraConfig(rank=8)}, "float32"), ({}, "float32")],
    ids=["same", "rank", "whole"],
)
def test_the_plan_knows_in_what_the_frozen_weights_are_held(sft, expected):
    stage = in_bfloat16(grpo_stage("qwen3_vl", **LORA))
    assert base_dtype(stage.model, stage.grpo, sft_stage("qwen3_vl", **sft).sft) == expected
    assert base_dtype(stage.model, stage.grpo) == "bfloat16"
