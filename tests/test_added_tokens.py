"""Added tokens: one label each, rows that start as stated means, and nothing else that changes."""

import json
import shutil
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from conftest import REAL_DATA
from test_processes import assert_same_trajectory, needs_deepspeed, qwen3, run
from test_resume import Crash, crash_at, same
from training_stages import SFT, TASK, grpo_stage, history, model_config, sft_stage, weights

from medtune.config.data import TaskConfig
from medtune.config.stages import ModelStage
from medtune.config.training import LoraConfig, ModelConfig
from medtune.models.added_tokens import add_tokens
from medtune.models.base_reference import REFERENCE, base_path
from medtune.models.batches import prompt_batch
from medtune.models.coordinate_format import COORDINATE_FORMATS
from medtune.models.inputs import encode_sample
from medtune.models.loading import load_model, load_processor
from medtune.models.tiny import SPECIAL_TOKENS
from medtune.planning.memory import Layers, ShardingPlan, meta_model, nbytes, states
from medtune.records.sample import to_row
from medtune.rewards.base import Term
from medtune.runtime.errors import ConfigError, ModelError
from medtune.training import result, strategy
from medtune.training.base_model import prepare_base
from medtune.training.batches import IGNORED, SftCollator
from medtune.training.grpo import train_grpo
from medtune.training.policy_weights import policy_weights
from medtune.training.result import merged
from medtune.training.run import trainable_model
from medtune.training.sft import train_sft

TOKENS = ["<t1>", "<t12>", "<t21>"]
TABLES = ("model.language_model.embed_tokens.weight", "lm_head.weight")
LORA = {"lora": LoraConfig(rank=4, alpha=8, dropout=0), "freeze": ["vision"]}


def with_tokens(family: str, **changes) -> ModelConfig:
    return model_config(family).model_copy(update={"added_tokens": TOKENS} | changes)


def prepared(config: ModelConfig, dataset: Path, folder: Path) -> Path:
    prepare_base(ModelStage(task=TaskConfig(), model=config), dataset, folder)
    return folder


def named(family: str, path: Path, **changes) -> ModelConfig:
    return with_tokens(family, builder=None, path=str(path), **changes)


def copy_of(base: Path, folder: Path, family: str, rows: int = 0, tied: bool = False) -> Path:
    """A model as others release theirs: with rows to spare, tied, in bfloat16."""
    shutil.copytree(base, folder)
    model = load_model(base, model_config(family))
    if rows:
        model.resize_token_embeddings(rows, mean_resizing=False)
    if tied:
        for config in (model.config, model.config.text_config):
            config.tie_word_embeddings = True
        model.tie_weights()
    model.bfloat16().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def extended(family, dataset, tmp_path_factory) -> Path:
    """The tiny model with tokens."""
    folder = tmp_path_factory.mktemp(f"tokens-{family}") / "base"
    return prepared(with_tokens(family), dataset, folder)


@pytest.fixture(scope="session")
def tied(family, base, dataset, tmp_path_factory) -> Path:
    """A bfloat16 model whose output layer is its input embeddings, with tokens."""
    root = tmp_path_factory.mktemp(f"tied-{family}")
    path = copy_of(base, root / "plain", family, tied=True)
    return prepared(named(family, path), dataset, root / "base")


@pytest.fixture
def bins(monkeypatch) -> None:
    """Let every question and answer hold added tokens."""
    prompt, target = type(TASK).prompt, type(TASK).target
    monkeypatch.setattr(type(TASK), "prompt", lambda *a: prompt(*a) + " <t1> to <t12>, or <t21>?")
    monkeypatch.setattr(type(TASK), "target", lambda *a: "<t1><t21>" + target(*a))


def state(folder: Path, family: str) -> dict[str, torch.Tensor]:
    """The weights by the names of the loaded model, in the precision of the files."""
    return load_model(folder, model_config(family), "auto").state_dict()


def ids_in(folder: Path) -> list[int]:
    return load_processor(folder).tokenizer.convert_tokens_to_ids(TOKENS)


def test_rows_start_as_the_mean_of_their_pieces(base, extended, family):
    old, new = load_processor(base).tokenizer, load_processor(extended).tokenizer
    before, after = state(base, family), state(extended, family)
    rows = len(before[TABLES[0]])
    assert ids_in(extended) == [rows, rows + 1, rows + 2]
    for name, value in before.items():
        assert after[name][: len(value)].equal(value), name
    for text, number in zip(TOKENS, ids_in(extended), strict=True):
        pieces = old.encode(text)
        assert len(pieces) > 2
        for name in TABLES:
            assert torch.allclose(after[name][number], before[name][pieces].mean(0), atol=1e-7)
        assert new.encode(f"a{text}b") == [*new.encode("a"), number, *new.encode("b")]
        assert new.decode(new.encode(f"a {text}, b"), skip_special_tokens=True) == f"a {text}, b"
    assert new.convert_tokens_to_ids(list(SPECIAL_TOKENS)) == list(range(8))
    assert new.all_special_ids == old.all_special_ids
    assert new.encode("<t123>, a <t1 >") == old.encode("<t123>, a <t1 >")
    model = load_model(extended, model_config(family))
    assert model.config.text_config.vocab_size == rows + 3
    assert model.get_output_embeddings().weight.shape[0] == rows + 3


@pytest.mark.parametrize("is_tied", [False, True], ids=["untied", "tied"])
def test_a_padded_vocabulary_keeps_its_size_and_precision(base, family, dataset, tmp_path, is_tied):
    size = len(load_processor(base).tokenizer)
    padded = copy_of(base, tmp_path / "padded", family, rows=size + 64, tied=is_tied)
    folder = prepared(named(family, padded), dataset, tmp_path / "base")
    assert {value.dtype for value in weights(folder).values()} == {torch.bfloat16}
    assert set(weights(folder)) == set(weights(padded))
    assert ("lm_head.weight" in weights(folder)) != is_tied
    before, after = state(padded, family), state(folder, family)
    old = load_processor(base).tokenizer
    new = ids_in(folder)
    assert new == [size, size + 1, size + 2]
    for name, value in before.items():
        if name not in TABLES:
            assert after[name].equal(value)
            continue
        kept = [n for n in range(len(value)) if n not in new]
        assert len(after[name]) == size + 64
        assert after[name][kept].equal(value[kept])
        for text, number in zip(TOKENS, new, strict=True):
            mean = value[old.encode(text)].float().mean(0).bfloat16()
            assert after[name][number].equal(mean)
    assert base_path(folder) == folder
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["base"]["path"] == str(padded)
    assert not (folder / REFERENCE).exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("<|im_end|>", "is one token of the base model already"),
        ("7", "is one token of the base model already"),
        ("<t1><|im_end|>", "holds a special token"),
        ("é<t1>", "is not read back as written"),
    ],
)
def test_texts_that_cannot_become_tokens_are_refused(family, dataset, tmp_path, text, words):
    config = with_tokens(family, added_tokens=["<t2>", text])
    with pytest.raises(ModelError, match=words):
        prepared(config, dataset, tmp_path / "base")
    assert not (tmp_path / "base").exists()


def test_a_model_without_the_tokens_is_not_trained(base, family):
    with pytest.raises(ModelError, match="lacks the added token '<t1>'"):
        trainable_model(base, with_tokens(family), SFT)


def test_a_token_in_question_and_answer_is_one(extended, family, samples, dataset, bins):
    processor, dialect = load_processor(extended), COORDINATE_FORMATS[family]
    collator = SftCollator(processor, TASK, dialect, dataset)
    batch = collator([to_row(sample) for sample in samples[:3]])
    new = ids_in(extended)
    for ids, labels in zip(batch["input_ids"], batch["labels"], strict=True):
        answer = labels[labels != IGNORED].tolist()
        assert answer[:2] == [new[0], new[2]]
        assert not set(answer[2:]) & set(new)
        asked = ids[: -len(answer)].tolist()
        assert [asked.count(number) for number in new] == [1, 1, 1]
        assert (ids == processor.video_token_id).any()
    for sample in samples[:3]:
        assert collator.length(sample) == collator([to_row(sample)])["input_ids"].shape[1]


def logits(model, encoded) -> torch.Tensor:
    with torch.no_grad():
        return model(**prompt_batch([encoded], 0)).logits[0]


class Noted:
    """Notes what an adapter model computes just before it is merged."""

    def __init__(self, monkeypatch, encoded) -> None:
        self.encoded, self.logits, self.handed = encoded, None, {}
        monkeypatch.setattr(result, "merged", self)

    def __call__(self, model):
        model = model.float().eval()  # as `merged` does
        self.logits = logits(model.get_base_model(), self.encoded)
        handed = policy_weights(model, lambda _: nullcontext())
        self.handed = {name: value.clone() for name, value in handed}
        return merged(model)

    def check(self, folder: Path, family: str) -> None:
        found = load_model(folder, model_config(family))
        assert torch.allclose(logits(found, self.encoded), self.logits, atol=1e-4)
        own = dict(found.named_parameters())
        assert set(self.handed) == set(own)
        for name, value in self.handed.items():
            assert torch.allclose(value, own[name], atol=1e-6), name


def check_kl(folder: Path) -> None:
    """The reference is what GRPO starts from, and stays it."""
    first, second = (entry["kl"] for entry in history(folder) if "kl" in entry)
    assert abs(first) < 1e-6
    assert second > 1e-4


def train_both(folder, dataset, output, sample, model, changes, monkeypatch) -> None:
    """Train SFT from a folder, then GRPO with a KL, each checked as its adapters are merged."""
    family = model.family
    asked = TASK.prompt(sample, COORDINATE_FORMATS[family])
    processor = load_processor(base_path(folder))
    noted = Noted(monkeypatch, encode_sample(processor, sample, asked, dataset))
    variety = Term("variety", 1.0, lambda judged: min(1.0, len(set(judged.text)) / 50))
    monkeypatch.setattr(type(TASK), "terms", lambda *_: [variety])
    changes = changes | {"weight_decay": 0}
    sft = sft_stage(family, epochs=0.6, eval_generation_samples=0, **changes)
    train_sft(sft.model_copy(update={"model": model}), folder, dataset, output / "sft")
    noted.check(output / "sft", family)
    grpo = grpo_stage(family, beta=0.05, max_completion_length=16, **changes)
    grpo = grpo.model_copy(update={"model": model})
    train_grpo(grpo, output / "sft", dataset, output / "grpo")
    noted.check(output / "grpo", family)
    check_kl(output / "grpo")


@pytest.mark.parametrize("start", ["extended", "tied"])
def test_beside_adapters_the_new_rows_alone_are_trained(
    start, family, dataset, samples, tmp_path, bins, monkeypatch, request
):
    """In SFT and in GRPO with a KL, for which TRL copies the adapters."""
    folder = request.getfixturevalue(start)
    # In bfloat16 the trained rows are float32 over a base that is not.
    model = with_tokens(family, dtype="bfloat16" if start == "tied" else "float32")
    changes = LORA | {"learning_rate": 5e-3}
    train_both(folder, dataset, tmp_path, samples[0], model, changes, monkeypatch)
    new = ids_in(folder)
    states = [state(path, family) for path in (folder, tmp_path / "sft", tmp_path / "grpo")]
    for before, after in pairwise(states):
        for name in TABLES:
            changed = (after[name] != before[name]).any(dim=1).nonzero().flatten().tolist()
            assert changed == new, name
        assert before[TABLES[0]].equal(before[TABLES[1]]) == (start == "tied")


def test_a_head_that_is_frozen_keeps_the_new_rows(extended, family):
    section = SFT.model_copy(update=LORA | {"freeze": ["vision", "head"]})
    model = trainable_model(extended, with_tokens(family), section)
    assert not any("token" in n for n, p in model.named_parameters() if p.requires_grad)


@pytest.mark.parametrize("start", ["extended", "tied"])
def test_the_plan_counts_trained_rows(start, family, request):
    folder, section = request.getfixturevalue(start), SFT.model_copy(update=LORA)
    model = trainable_model(folder, with_tokens(family), section)
    shape = meta_model(folder, with_tokens(family), section)
    assert states(shape, False, ShardingPlan(), False) == states(
        model, False, ShardingPlan(), False
    )
    table = model.get_output_embeddings().weight
    assert Layers(shape, section, False).head == 4 * table.numel() + nbytes([table])


def test_without_adapters_all_rows_are_trained(extended, family, dataset, tmp_path, bins):
    stage = sft_stage(family, epochs=0.3, eval_generation_samples=0)
    stage = stage.model_copy(update={"model": with_tokens(family)})
    train_sft(stage, extended, dataset, tmp_path / "sft")
    before, after = state(extended, family), state(tmp_path / "sft", family)
    for name in TABLES:
        moved = (after[name] != before[name]).any(dim=1)
        assert moved[ids_in(extended)].all()
        assert moved.sum() > len(moved) / 2


def test_a_run_with_trained_rows_goes_on_exactly(extended, family, dataset, tmp_path, bins):
    changes = {"epochs": 0.9, "save_steps": 1, "eval_generation_samples": 0}
    stage = sft_stage(family, **changes, **LORA).model_copy(update={"model": with_tokens(family)})
    train_sft(stage, extended, dataset, tmp_path / "whole")
    with pytest.MonkeyPatch.context() as patch:
        crash_at(patch, 2, half_written=False)
        with pytest.raises(Crash):
            train_sft(stage, extended, dataset, tmp_path / "cut/whole")
    train_sft(stage, extended, dataset, tmp_path / "cut/whole")
    same(tmp_path / "whole", tmp_path / "cut/whole")


@qwen3
@pytest.mark.long
@pytest.mark.parametrize("strategy", ["ddp", pytest.param("zero2", marks=needs_deepspeed)])
def test_two_processes_train_rows_like_one(extended, family, dataset, tmp_path, strategy):
    changes = LORA | {"epochs": 2, "learning_rate": 1e-3, "keep_best": False}
    one, two = (
        sft_stage(family, eval_generation_samples=0, **changes, **more).model_copy(
            update={"model": with_tokens(family)}
        )
        for more in ({"batch_size": 8}, {"strategy": strategy})
    )
    train_sft(one, extended, dataset, tmp_path / "one")
    run("sft", two, extended, dataset, tmp_path / "two")
    assert_same_trajectory(tmp_path, ("loss", "grad_norm"), 5)
    before, after = state(extended, family)[TABLES[1]], state(tmp_path / "two", family)[TABLES[1]]
    assert (after != before).any(dim=1).nonzero().flatten().tolist() == ids_in(extended)


@pytest.mark.parametrize("name", ["zero3", "zero3_offload", "fsdp2"])
@pytest.mark.parametrize("head", [False, True], ids=["rows", "head"])
def test_shards_of_the_head_are_refused(monkeypatch, name, head):
    monkeypatch.setenv("LOCAL_RANK", "0")
    section = SFT.model_copy(update=LORA | {"strategy": name, "lora": LoraConfig(train_head=head)})
    model = model_config("qwen3_vl") if head else with_tokens("qwen3_vl")
    with pytest.raises(ConfigError, match="cannot train the head beside adapters"):
        strategy.strategy_arguments(section, model)


@pytest.mark.skipif(not REAL_DATA.is_dir(), reason=f"real inputs are not at {REAL_DATA}")
@pytest.mark.parametrize(
    "rows", [151936, pytest.param(152064, marks=pytest.mark.long)]
)  # of the released models
def test_a_released_vocabulary_has_room(rows):
    processor = load_processor(REAL_DATA / "tokenizer/qwen2_5_vl_processor")
    model = SmallModel(rows)
    pieces = [processor.tokenizer.encode(f"<t{second}>") for second in range(200)]
    before = model.head.weight.detach().clone()
    add_tokens(model, processor, [f"<t{second}>" for second in range(200)])
    assert model.head.num_embeddings == rows
    after = model.head.weight.detach()
    new = list(range(151665, 151865))
    assert processor.tokenizer.encode("<|im_start|><t7><|video_pad|>") == [151644, 151672, 151656]
    assert after[new].allclose(torch.stack([before[ids].mean(0) for ids in pieces]), atol=1e-6)
    assert [n for n in range(rows) if not after[n].equal(before[n])] == new
    with pytest.raises(ModelError, match="already"):
        add_tokens(model, processor, ["<t7>"])


class SmallModel:
    """The head of a model, narrow."""

    def __init__(self, rows: int) -> None:
        self.head = torch.nn.Embedding(rows, 2)

    def get_input_embeddings(self) -> torch.nn.Embedding:
        return self.head

    get_output_embeddings = get_input_embeddings
