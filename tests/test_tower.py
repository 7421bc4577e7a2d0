"""All processes make the same passes of the vision tower, whatever their batches show."""

import pytest
import torch
from conftest import one_family
from training_stages import TASK, groups, make_trainer, mixed_dataset, model_config

from medtune.models.coordinate_format import COORDINATE_FORMATS
from medtune.models.generate import generate
from medtune.models.loading import load_model, load_processor
from medtune.records.sample import iterate, load_split
from medtune.training import vision_cache as shared_media
from medtune.training.batches import SftCollator


def counted(model) -> list[int]:
    """The passes of a model's tower from now on, as the patches of each."""
    passes: list[int] = []
    tower = next(m for name, m in model.named_modules() if name.endswith("visual"))
    tower.register_forward_pre_hook(lambda _, given: passes.append(len(given[0])))
    return passes


@pytest.fixture
def mixed(dataset, tmp_path):
    return mixed_dataset(dataset, tmp_path)


@pytest.fixture
def by_kind(mixed):
    """Rows of the training split, by what they show."""
    rows = list(load_split(mixed, "train"))
    return {kind: [r for r in rows if r["media"][0]["kind"] == kind] for kind in ("image", "video")}


def test_any_batch_is_one_pass_of_the_features_of_two(base, family, dataset, mixed, by_kind):
    model, reference = (load_model(base, model_config(family)) for _ in range(2))
    collator = SftCollator(load_processor(base), TASK, COORDINATE_FORMATS[family], mixed)
    del reference.model.forward  # as transformers has it
    passes, theirs = counted(model), counted(reference)
    image, video = by_kind["image"][:2], by_kind["video"][:2]
    for rows, calls in ((image, 1), (video, 1), ([video[0], image[0], image[1], video[1]], 2)):
        batch = collator(rows)
        batch.pop("labels")
        ours, expected = model(**batch).logits, reference(**batch).logits
        assert torch.allclose(ours, expected, atol=1e-4)
        patches = sum(batch[n].shape[0] for n in batch if n.startswith("pixel_values"))
        assert passes == [patches]
        assert len(theirs) == calls
        passes.clear()
        theirs.clear()
    assert "get_image_features" not in vars(model.model)
    loss = model(**batch).logits.square().mean()
    loss.backward()
    reference(**batch).logits.square().mean().backward()
    for (name, ours), expected in zip(
        model.named_parameters(), reference.parameters(), strict=True
    ):
        assert torch.allclose(ours.grad, expected.grad, rtol=1e-3, atol=1e-5), name


def test_generation_is_one_pass(trained, family, mixed, by_kind):
    model = load_model(trained, model_config(family))
    collator = SftCollator(load_processor(trained), TASK, COORDINATE_FORMATS[family], mixed)
    passes = counted(model)
    samples = list(iterate(load_split(mixed, "train")))[:2]
    assert {sample.media[0].kind for sample in samples} == {"image", "video"}
    generate(model, collator.processor, [collator.question(s) for s in samples], 8)
    assert len(passes) == 1


@one_family
@pytest.mark.parametrize(("others", "passes"), [(True, 0), (False, 2)])
def test_kept_features_are_taken_by_all_processes_or_by_none(
    trained,
    family,
    mixed,
    monkeypatch,
    others,
    passes,
):
    """This process has kept all of them; another one may not have had the room."""
    trainer = make_trainer(trained, family, mixed, freeze=["vision", "projector"], num_iterations=2)
    rows = groups(list(iterate(load_split(mixed, "train")))[:2], 2, lambda s: s.id)
    seen = counted(trainer.model)
    votes: list[bool] = []

    def two(known: bool) -> list[bool]:
        votes.append(known)
        return [known, others]

    monkeypatch.setattr(shared_media, "all_gather_object", two)
    output = trainer._generate_and_score_completions(rows)
    assert votes == [False, True]  # rollout; old log-probabilities
    assert len(seen) == (1 if others else 2)
    trainer._compute_loss(trainer.model, output)
    assert len(seen) == 1 + passes
