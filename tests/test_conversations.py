"""Several turns about one video, and sources mixed by weights."""

from collections import Counter
from itertools import chain
from pathlib import Path

import pytest
import torch
from training_stages import TASK, changed_dataset, groups, grpo_stage, make_trainer, sft_stage

from medtune.dataset.mixing import mixed
from medtune.dataset.views import ask, llava_record
from medtune.models.coordinate_format import COORDINATE_FORMATS, PIXELS
from medtune.models.inputs import encode_sample
from medtune.models.loading import load_processor
from medtune.records.sample import (
    Turn,
    from_row,
    iterate,
    load_split,
    to_row,
)
from medtune.runtime.errors import ConfigError, VisionError
from medtune.training.batches import IGNORED, SftCollator
from medtune.training.sft import prepare_sft, train_sft

TURNS = (
    Turn(prompt="Which modality is this?", target="T2 FLAIR."),
    Turn(prompt="Is there a lesion?", target="Yes, 1."),
)


@pytest.fixture
def talk(samples):
    """A sample whose question comes after two others."""
    return samples[0].model_copy(update={"turns": TURNS})


@pytest.fixture
def collator(base, family, dataset) -> SftCollator:
    return SftCollator(load_processor(base), TASK, COORDINATE_FORMATS[family], dataset)


def test_a_conversation_survives_the_data_set(talk, dataset: Path):
    assert from_row(to_row(talk)) == talk
    record = llava_record(ask(talk, TASK, PIXELS, dataset))["conversations"]
    assert [turn["from"] for turn in record] == ["human", "gpt"] * 3
    assert record[0]["value"] == "<video>\nWhich modality is this?"
    assert [turn["value"] for turn in record[1:5:2]] == ["T2 FLAIR.", "Yes, 1."]
    assert sum("<video>" in turn["value"] for turn in record) == 1


def test_labels_are_all_answers_token_by_token(collator, talk, samples, family, dataset):
    batch = collator([to_row(talk), to_row(samples[1])])
    processor, dialect = collator.processor, collator.dialect
    target = TASK.target(talk, dialect)
    said = [*(turn.target for turn in TURNS), target]
    expected = [processor.tokenizer(text + "<|im_end|>")["input_ids"] for text in said]
    labels = batch["labels"][0]
    assert labels[labels != IGNORED].tolist() == list(chain(*expected))
    runs, inside = 0, False
    for label in labels.tolist():
        runs += label != IGNORED and not inside
        inside = label != IGNORED
    assert runs == 3
    chosen = labels != IGNORED
    assert torch.equal(labels[chosen], batch["input_ids"][0][chosen])
    assert collator.learned(talk) == int(chosen.sum())
    assert collator.length(talk) == int(batch["attention_mask"][0].sum())


def test_tokens_are_those_of_the_whole_chat(collator, talk, dataset):
    """The reference: the processor's own expansion and tokenization of the chat as one text."""
    processor = collator.processor
    encoded = collator.question(talk)
    alone = encode_sample(processor, talk.model_copy(update={"turns": ()}), "x", dataset)
    text = encoded.shown.text
    assert text.count("<|video_pad|>") == 1
    assert text.count("<|im_start|>assistant\n") == 3
    first = processor.tokenizer.decode(alone.input_ids)
    start, end = first.index("<|vision_start|>"), first.rindex("<|vision_end|>")
    shown = first[start : end + len("<|vision_end|>")]
    wrapped = "<|vision_start|><|video_pad|><|vision_end|>"
    if wrapped not in text:  # Qwen3-VL: time stamps come before the first marker
        shown = first[first.index("<|im_start|>user\n") + 17 : end + len("<|vision_end|>")]
        wrapped = "<|video_pad|>"
    whole = processor.tokenizer(text.replace(wrapped, shown))["input_ids"]
    assert encoded.input_ids.tolist() == whole
    assert len(encoded.mm_token_type_ids) == len(encoded.assistant_mask) == len(whole)


def test_a_template_that_rewrites_earlier_turns_is_refused(collator, talk, monkeypatch):
    inner = collator.processor.apply_chat_template

    def rewrites(chat, **kwargs):
        return inner(chat, **kwargs).replace("T2 FLAIR.", f"T2 FLAIR, {len(chat)}.")

    monkeypatch.setattr(collator.processor, "apply_chat_template", rewrites)
    with pytest.raises(VisionError, match="changes earlier turns"):
        collator.question(talk)


@pytest.fixture
def conversations(dataset, tmp_path) -> Path:
    """A data set folder of two sources; every second sample is a conversation."""

    def change(sample, number, _):
        turns = TURNS[: number % 3]
        return sample.model_copy(update={"turns": turns, "source": "chat" if turns else "plain"})

    return changed_dataset(dataset, tmp_path / "datasets", change)


def test_conversations_are_trained_on(base, trained, family, conversations, tmp_path):
    train_sft(sft_stage(family, epochs=1), base, conversations, tmp_path / "sft")
    talks = [s for s in iterate(load_split(conversations, "train")) if s.turns]
    trainer = make_trainer(trained, family, conversations)
    output = trainer._generate_and_score_completions(groups(talks, 2, lambda s: s.id))
    texts = trainer.processing_class.batch_decode(output["prompt_ids"])
    assert all("Which modality is this?" in text and "T2 FLAIR." in text for text in texts)


def test_sources_come_as_often_as_their_weights_say(conversations):
    train = load_split(conversations, "train")
    before = Counter(train["source"][:])
    assert mixed(train, {}, 1) is train
    after = Counter(mixed(train, {"plain": 2, "chat": 0.5}, 1)["source"][:])
    assert after["plain"] == 2 * before["plain"]
    assert 0 < after["chat"] < before["chat"]
    ids = [mixed(train, {"chat": 0.5}, seed)["id"][:] for seed in (1, 1, 2)]
    assert ids[0] == ids[1] != ids[2]
    with pytest.raises(ConfigError, match="it has: chat, plain"):
        mixed(train, {"xray": 2.0}, 1)
    only = train.filter(lambda row: row["source"] == "chat", keep_in_memory=True)
    with pytest.raises(ConfigError, match="no sample is left"):
        mixed(only, {"chat": 1e-9}, 1)


def test_a_mixed_run_has_as_many_steps_as_samples(base, family, conversations):
    stages = [sft_stage(family, dataset_weights=mix, epochs=1) for mix in ({}, {"plain": 3.0})]
    steps = [prepare_sft(stage, base, conversations)[0].args.max_steps for stage in stages]
    plain = Counter(load_split(conversations, "train")["source"][:])["plain"]
    assert steps[1] * 4 >= steps[0] * 4 + 2 * plain - 4
    assert grpo_stage(family, dataset_weights={"plain": 3.0}).grpo.dataset_weights == {"plain": 3.0}
