"""Samples with an image go the same way as those with a video, also in one batch with them."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from training_stages import (
    SFT,
    TASK,
    as_image,
    changed_dataset,
    groups,
    grpo_stage,
    history,
    make_trainer,
    mixed_dataset,
    model_config,
    sft_stage,
    write_image,
)

from medtune.models.batches import prompt_batch
from medtune.models.coordinate_format import COORDINATE_FORMATS
from medtune.models.inputs import encode_image, encode_sample, read_frames
from medtune.models.loading import load_model, load_processor
from medtune.models.positions import get_rope_index
from medtune.records.sample import Sample, iterate, load_split, to_row
from medtune.runtime.errors import DataError, VisionError
from medtune.runtime.files import sha256
from medtune.training.batches import IGNORED, SftCollator
from medtune.training.grpo import engine_settings, train_grpo
from medtune.training.run import trainable_model
from medtune.training.sft import train_sft
from medtune.training.token_budget import BudgetBatches
from medtune.training.trainable import part_of


@pytest.fixture
def images(samples, tmp_path: Path) -> list[Sample]:
    """Three samples that show made pictures of two sizes instead of their videos."""
    media = [
        write_image(tmp_path / f"{n}.png", n, height, mode=mode)
        for n, (height, mode) in enumerate([(32, "RGB"), (64, "RGB"), (32, "L")])
    ]
    return [as_image(*pair) for pair in zip(samples, media, strict=False)]


@pytest.fixture
def collator(base, family, dataset) -> SftCollator:
    return SftCollator(load_processor(base), TASK, COORDINATE_FORMATS[family], dataset)


def loss(model, batch) -> torch.Tensor:
    """Mean over the answers' tokens."""
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    logits = model(**inputs).logits[:, :-1]
    labels = batch["labels"][:, 1:]
    return torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED
    )


def test_labels_are_the_answer_token_by_token(collator, family, images, samples, dataset):
    rows = [images[0], samples[3], images[1], samples[4], images[2]]
    batch = collator([to_row(s) for s in rows])
    processor, dialect = collator.processor, collator.dialect
    for row, sample in enumerate(rows):
        target = TASK.target(sample, dialect)
        answer = processor.tokenizer(target + "<|im_end|>")["input_ids"]
        prompt = encode_sample(processor, sample, TASK.prompt(sample, dialect), dataset)
        shown, labels = batch["attention_mask"][row].bool(), batch["labels"][row]
        assert batch["input_ids"][row][shown].tolist() == prompt.input_ids.tolist() + answer
        assert labels[shown].tolist() == [IGNORED] * len(prompt.input_ids) + answer
        assert (labels[~shown] == IGNORED).all()
        kind = 1 if sample.media[0].kind == "image" else 2
        types = batch["mm_token_type_ids"][row]
        assert set(types.tolist()) == {0, kind}
        holder = processor.image_token_id if kind == 1 else processor.video_token_id
        assert torch.equal(types == kind, batch["input_ids"][row] == holder)
        if kind == 1:
            media = sample.media[0]
            assert int((types == 1).sum()) == media.height * media.width // 16**2
    assert batch["image_grid_thw"].tolist() == [[1, 4, 6], [1, 8, 6], [1, 4, 6]]
    assert batch["pixel_values"].shape[0] == 24 + 48 + 24
    assert len(batch["video_grid_thw"]) == 2
    assert ("second_per_grid_ts" in batch) == (family == "qwen2_5_vl")


def test_an_image_changes_the_loss_and_trains_every_part(collator, base, family, images):
    model = trainable_model(base, model_config(family), SFT)
    batch = collator([to_row(images[0])])
    own = loss(model, batch)
    own.backward()
    moved = {part_of(name) for name, p in model.named_parameters() if p.grad is not None}
    moved &= {
        part_of(n) for n, p in model.named_parameters() if p.grad is not None and p.grad.any()
    }
    assert moved == {"vision", "projector", "head", "language"}
    other = batch | {"pixel_values": torch.zeros_like(batch["pixel_values"])}
    with torch.no_grad():
        assert abs(float(loss(model, other) - own)) > 1e-4


def test_positions_of_images_are_the_family_s(base, family, images, collator):
    """One temporal patch: what is corrected for videos changes nothing here."""
    model = load_model(base, model_config(family))
    batch = collator([to_row(s) for s in images])
    fields = {n: batch[n] for n in ("input_ids", "mm_token_type_ids", "attention_mask")}
    grid = {"image_grid_thw": batch["image_grid_thw"]}
    theirs = type(model.model).get_rope_index(model.model, **fields, **grid)[0]
    shown = batch["attention_mask"].bool()
    if family == "qwen2_5_vl":
        ours = get_rope_index(model.model, **fields, **grid)[0]
        assert torch.equal(ours[:, shown], theirs[:, shown])
    assert int(theirs[:, shown].max()) < batch["input_ids"].shape[1]


def test_lengths_are_known_without_reading_images(collator, images, tmp_path):
    expected = [collator([to_row(s)])["input_ids"].shape[1] for s in images]
    for path in tmp_path.glob("*.png"):
        path.unlink()
    assert [collator.length(s) for s in images] == expected


def test_images_that_are_not_as_recorded_are_refused(collator, images, tmp_path):
    media = images[0].media[0]
    assert read_frames(media, tmp_path).shape == (1, 32, 48, 3)
    with pytest.raises(DataError, match="the data set says"):
        read_frames(media.model_copy(update={"width": 64}), tmp_path)
    deep = tmp_path / "deep.png"
    Image.fromarray(np.full((32, 48), 40_000, np.uint16)).save(deep)
    recorded = media.model_copy(update={"path": str(deep), "sha256": sha256(deep)})
    with pytest.raises(DataError, match="mode I;16"):
        read_frames(recorded, tmp_path)
    deep.write_bytes(b"no image")
    with pytest.raises(DataError, match="cannot be read as an image"):
        read_frames(recorded.model_copy(update={"sha256": sha256(deep)}), tmp_path)
    with pytest.raises(VisionError, match="multiples of 16"):
        encode_image(collator.processor, "Locate.", np.zeros((1, 40, 48, 3), np.uint8))


IMPOSSIBLE = {
    "no rate": ({"fps": 0.0}, "is a video of 0.0 frames per second"),
    "no number": ({"fps": float("nan")}, "is a video of nan frames per second"),
    "no frame": ({"frames": 0}, "there is nothing to show"),
    "no width": ({"width": -16}, "there is nothing to show"),
    "an image": ({"kind": "image"}, "expected one frame"),
}


@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_impossible_media_are_refused_by_their_file(
    base, family, dataset, samples, collator, tmp_path, case
):
    """Where they are read, where only their length is, and by both trainings."""
    change, words = IMPOSSIBLE[case]
    media = samples[0].media[0].model_copy(update=change)
    expected = re.escape(f"{media.path}: ") + f".*{words}"
    with pytest.raises(DataError, match=expected):
        read_frames(media, dataset)
    with pytest.raises(DataError, match=expected):
        collator.length(as_image(samples[0], media))
    if case != "no rate":
        return

    def spoil(sample, number, split):
        broken = sample.media[0].model_copy(update=change)
        return as_image(sample, broken) if (number, split) == (3, "train") else sample

    data = changed_dataset(dataset, tmp_path / "data", spoil)
    path = list(iterate(load_split(data, "train")))[3].media[0].path
    for train, stage in ((train_sft, sft_stage(family)), (train_grpo, grpo_stage(family, steps=9))):
        with pytest.raises(DataError, match=re.escape(f"{path}: is a video of 0.0 frames")):
            train(stage, base, data, tmp_path / "model")
    with pytest.raises(DataError, match=re.escape(f"{path}: is a video of 0.0 frames")):
        engine_settings(grpo_stage(family), collator.processor, data)


@pytest.fixture
def mixed(dataset, tmp_path) -> Path:
    return mixed_dataset(dataset, tmp_path)


def answer_losses(model, batch) -> torch.Tensor:
    """Loss of every row (rows,), summed over the tokens of its answer."""
    labels = batch.pop("labels")[:, 1:]
    with torch.no_grad():
        logits = model(**batch).logits[:, :-1]
    return torch.nn.functional.cross_entropy(
        logits.transpose(1, 2), labels, ignore_index=IGNORED, reduction="none"
    ).sum(dim=1)


def test_a_sample_s_loss_does_not_depend_on_its_batch(base, family, mixed, record_property):
    """Alone, in a batch by budget, and beside all others; images and videos of many lengths."""
    model = load_model(base, model_config(family))
    collator = SftCollator(load_processor(base), TASK, COORDINATE_FORMATS[family], mixed)
    train = load_split(mixed, "train")
    rows, samples = list(train), list(iterate(train))
    lengths = [collator.length(sample) for sample in samples]
    batches = [*BudgetBatches(lengths, 3 * max(lengths), seed=1), list(range(len(rows)))]
    alone = [float(answer_losses(model, collator([row]))) for row in rows]
    gaps, mixtures = [], 0
    for batch in batches:
        found = answer_losses(model, collator([rows[index] for index in batch]))
        gaps += [abs(float(a) - alone[index]) for a, index in zip(found, batch, strict=True)]
        mixtures += len({samples[index].media[0].kind for index in batch}) == 2
    assert len(gaps) == 2 * len(rows)
    assert mixtures > 1
    assert max(lengths) > min(lengths) + 30
    record_property("largest", max(gaps))
    assert max(gaps) < 1e-4  # of sums of 30 to 160
    assert len({round(one, 3) for one in alone}) > 10


def test_sft_of_images_and_videos(base, family, mixed, tmp_path):
    """From the vision check to the answers of the last evaluation; batches by budget."""
    stage = sft_stage(family, epochs=2, max_tokens_per_batch=500)
    train_sft(stage, base, mixed, tmp_path / "sft")
    losses = [entry["loss"] for entry in history(tmp_path / "sft") if "loss" in entry]
    assert losses[-1] < losses[0]
    assert any("eval_reward" in entry for entry in history(tmp_path / "sft"))


def test_grpo_of_images_and_videos(trained, family, mixed, tmp_path):
    stage = grpo_stage(family, steps=3, batch_size=16)
    train_grpo(stage, trained, mixed, tmp_path / "grpo")
    assert [e["step"] for e in history(tmp_path / "grpo") if "reward" in e] == [1, 2, 3]


@pytest.mark.parametrize("freeze", [[], ["vision", "projector"]], ids=["trained", "frozen"])
def test_every_row_of_a_mixed_rollout_sees_its_own_media(trained, family, mixed, freeze):
    trainer = make_trainer(trained, family, mixed, freeze=freeze)
    rows = groups(list(iterate(load_split(mixed, "train")))[:3], 3, lambda s: s.id)
    assert [row["sample"].media[0].kind for row in rows[::4]] == ["video", "image", "video"]
    output = trainer._generate_and_score_completions(rows)
    assert (trainer._features is not None) == bool(freeze)
    ids = torch.cat([output["prompt_ids"], output["completion_ids"]], dim=1)
    mask = torch.cat([output["prompt_mask"], output["completion_mask"]], dim=1)
    length = output["completion_ids"].shape[1]
    with torch.no_grad():
        own = trainer._get_per_token_logps_and_entropies(trainer.model, ids, mask, length, 5)[0]
        for row in range(12):
            shown = trainer._media[int(output["media_rows"][row])]
            batch = prompt_batch([shown], 0)
            answer = output["completion_ids"][row][output["completion_mask"][row].bool()]
            batch["input_ids"] = torch.cat([shown.input_ids, answer])[None]
            batch["attention_mask"] = torch.ones_like(batch["input_ids"])
            types = torch.cat([shown.mm_token_type_ids, torch.zeros_like(answer)])[None]
            batch["mm_token_type_ids"] = types
            logits = trainer.model(**batch).logits[0, len(shown.input_ids) - 1 : -1]
            plain = logits.log_softmax(-1).gather(1, answer[:, None])[:, 0]
            assert own[row, : len(answer)] == pytest.approx(plain, abs=1e-4)
