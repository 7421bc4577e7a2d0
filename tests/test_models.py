"""What a model sees: placeholders, patches, positions and rates, for both families."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import REAL_DATA, TINY

import medtune.training  # noqa: F401  (declares operators before transformers is imported)
from medtune.config.data import TaskConfig
from medtune.config.stages import ModelStage
from medtune.config.training import ModelConfig
from medtune.models.base_reference import base_path
from medtune.models.batches import prompt_batch
from medtune.models.inputs import encode_prompt, encode_sample
from medtune.models.loading import check_base, load_model, load_processor
from medtune.models.positions import get_rope_index, vision_positions
from medtune.models.tiny import SPECIAL_TOKENS, chat_template, train_tokenizer
from medtune.runtime.errors import DataError, ModelError, VisionError
from medtune.runtime.files import check_manifest
from medtune.training.base_model import prepare_base

FAMILIES = ["qwen2_5_vl", "qwen3_vl"]


def stage(family: str) -> ModelStage:
    return ModelStage(
        task=TaskConfig(), model=ModelConfig(family=family, builder="tiny", tiny=TINY)
    )


@pytest.fixture(scope="session", params=FAMILIES)
def family(request) -> str:
    return request.param


@pytest.fixture(scope="session")
def base(family: str, dataset: Path, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp(family) / "base"
    prepare_base(stage(family), dataset, folder)
    return folder


@pytest.fixture(scope="session")
def processor(base: Path):
    return load_processor(base)


@pytest.fixture
def model(base: Path, family: str):
    return load_model(base, stage(family).model)


def video(count=6, height=32, width=64, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (count, height, width, 3), dtype=np.uint8)


def test_the_tiny_model_is_the_family_s_real_class(base: Path, model, processor, family, dataset):
    assert (
        type(model).__name__
        == {
            "qwen2_5_vl": "Qwen2_5_VLForConditionalGeneration",
            "qwen3_vl": "Qwen3VLForConditionalGeneration",
        }[family]
    )
    assert processor.chat_template == chat_template(family)
    assert model.dtype == torch.float32
    assert check_manifest(base / "manifest.json")["config"]["model"]["family"] == family
    first = {p.name: p.read_bytes() for p in base.iterdir()}
    prepare_base(stage(family), dataset, base)
    assert first == {p.name: p.read_bytes() for p in base.iterdir()}


def test_placeholders_equal_feature_rows_and_the_model_uses_them(processor, model):
    encoded = encode_prompt(processor, "Locate the tumor.", video(), 2.0)
    holders = int((encoded.input_ids == processor.video_token_id).sum())
    assert encoded.vision["video_grid_thw"].tolist() == [[3, 4, 8]]
    assert holders == 3 * 2 * 4 == int((encoded.mm_token_type_ids == 2).sum())
    with torch.no_grad():
        features = model.get_video_features(
            encoded.vision["pixel_values_videos"], encoded.vision["video_grid_thw"]
        ).pooler_output
    assert sum(len(part) for part in features) == holders
    other = encode_prompt(processor, "Locate the tumor.", video(seed=1), 2.0)
    batches = [prompt_batch([one], processor.tokenizer.pad_token_id) for one in (encoded, other)]
    with torch.no_grad():
        first, second = (model(**batch).logits[0, -1] for batch in batches)
    assert not torch.allclose(first, second)


def test_an_odd_number_of_frames_is_allowed(processor):
    encoded = encode_prompt(processor, "Locate.", video(count=5), 2.0)
    assert encoded.vision["video_grid_thw"][0, 0] == 3


def test_frames_that_would_be_resized_are_refused(processor):
    with pytest.raises(VisionError, match="multiples of"):
        encode_prompt(processor, "Locate.", video(height=40), 2.0)


def test_a_wrong_rate_changes_what_the_model_sees(processor, family):
    right, wrong = (encode_prompt(processor, "Locate.", video(), fps) for fps in (2.0, 1.0))
    if family == "qwen2_5_vl":
        assert right.vision["second_per_grid_ts"].tolist() == [1.0]
        assert wrong.vision["second_per_grid_ts"].tolist() == [2.0]
    else:
        text = processor.tokenizer.decode(right.input_ids)
        assert "<0.2 seconds>" in text
        assert processor.tokenizer.decode(wrong.input_ids) != text


def test_padding_does_not_change_a_prompt(processor, model):
    short = encode_prompt(processor, "Locate.", video(), 2.0)
    long = encode_prompt(processor, "Locate the whole tumor, please.", video(seed=2), 2.0)
    pad = processor.tokenizer.pad_token_id
    with torch.no_grad():
        alone = model(**prompt_batch([short], pad)).logits[0, -1]
        together = model(**prompt_batch([short, long], pad)).logits[0, -1]
    assert torch.allclose(alone, together, atol=1e-5)


def test_qwen3_frames_stand_in_their_own_markers(samples, processor, family):
    """As the reference processor (transformers 4.57) and vLLM write it."""
    encoded = encode_prompt(processor, "Locate.", video(count=2), 2.0)
    text = processor.tokenizer.decode(encoded.input_ids)
    pads = "<|video_pad|>" * 8
    if family == "qwen3_vl":
        assert f"user\n<0.2 seconds><|vision_start|>{pads}<|vision_end|>Locate." in text
    else:
        assert f"user\n<|vision_start|>{pads}<|vision_end|>Locate." in text


def test_positions_by_hand():
    # 2 temporal patches 3 positions apart, 1 x 2 tokens each.
    assert vision_positions((2, 2, 4), 2, 3.0, 10).tolist() == [
        [10, 10, 13, 13],
        [10, 10, 10, 10],
        [10, 11, 10, 11],
    ]
    assert vision_positions((3, 2, 2), 2, 0.5, 0)[0].tolist() == [0, 0, 1]


@pytest.mark.parametrize("fps", [2.0, 4.0])
def test_text_after_a_video_starts_after_its_last_moment(dataset, samples, fps, tmp_path):
    prepare_base(stage("qwen2_5_vl"), dataset, tmp_path / "base")
    processor = load_processor(tmp_path / "base")
    model = load_model(tmp_path / "base", stage("qwen2_5_vl").model)
    encoded = encode_prompt(processor, "Locate.", video(count=12), fps)
    batch = prompt_batch([encoded], processor.tokenizer.pad_token_id)
    arguments = {
        k: batch[k]
        for k in (
            "input_ids",
            "mm_token_type_ids",
            "video_grid_thw",
            "second_per_grid_ts",
            "attention_mask",
        )
    }
    positions, delta = model.model.get_rope_index(**arguments)
    types = encoded.mm_token_type_ids.tolist()
    first, last = types.index(2), len(types) - 1 - types[::-1].index(2)
    shown = positions[:, 0, first : last + 1]
    assert shown[0].max() - shown[0].min() == int(5 * 2 * (2 / fps))
    assert (positions[:, 0, last + 1] == shown.max() + 1).all()
    assert int(delta) == int(positions.max()) + 1 - len(types)
    ours, _ = get_rope_index(model.model, **arguments)
    assert ours.equal(positions)


def test_tokenizer_round_trips_and_numbers_are_single_tokens(samples):
    texts = [s.prompt for s in samples] + [s.target for s in samples]
    tokenizer = train_tokenizer(texts)
    for text in [*texts, "<think>a</think> é 12345 -0.5"]:
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    for number in range(100):
        assert len(tokenizer(f" {number}")["input_ids"]) == 1
    assert [tokenizer.convert_tokens_to_ids(t) for t in SPECIAL_TOKENS] == list(range(8))


def test_unusable_model_folders_are_explained(base: Path, tmp_path: Path, family):
    def config(path) -> ModelConfig:
        return ModelConfig(family=family, path=str(path))

    assert check_base(config(base)) == base
    with pytest.raises(ModelError, match="no such model folder"):
        check_base(config(tmp_path / "none"))
    with pytest.raises(ModelError, match="switched off"):
        check_base(config("Qwen/Qwen2.5-VL-7B-Instruct"))
    with pytest.raises(ModelError, match=r"no config\.json"):
        check_base(config(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(ModelError, match="is a llama"):
        check_base(config(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": family}))
    with pytest.raises(ModelError, match="no safetensors weights"):
        check_base(config(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match="no processor"):
        check_base(config(tmp_path))


def test_changes_to_a_named_model_are_noticed(base: Path, dataset, tmp_path: Path, family):
    model = tmp_path / "model"
    shutil.copytree(base, model)
    config = ModelConfig(family=family, path=str(model))
    prepare_base(ModelStage(task=TaskConfig(), model=config), dataset, tmp_path / "base")
    assert base_path(tmp_path / "base") == model
    (model / "README.md").write_text("is no part of the model")
    assert base_path(tmp_path / "base") == model
    for name in ("model.safetensors", "config.json", "processor_config.json"):
        before = (model / name).read_bytes()
        (model / name).write_bytes(before[:-1] + b"x")
        with pytest.raises(DataError, match=f"{name}: changed"):
            base_path(tmp_path / "base")
        (model / name).write_bytes(before)
    (model / "chat_template.json").write_text("{}")
    with pytest.raises(DataError, match=r"chat_template\.json: changed, appeared"):
        base_path(tmp_path / "base")


@pytest.mark.skipif(not REAL_DATA.is_dir(), reason=f"real inputs are not at {REAL_DATA}")
def test_the_released_processor_takes_our_videos(samples):
    released = load_processor(REAL_DATA / "tokenizer/qwen2_5_vl_processor")
    assert released.chat_template == chat_template("qwen2_5_vl")
    encoded = encode_prompt(released, samples[0].prompt, video(4, 56, 112), 2.0)
    assert encoded.vision["video_grid_thw"].tolist() == [[2, 4, 8]]
    assert int((encoded.input_ids == 151656).sum()) == 2 * 2 * 4
    with pytest.raises(VisionError, match="multiples of"):
        encode_prompt(released, "Locate.", video(4, 60, 112), 2.0)


def test_samples_are_encoded_with_their_own_video(processor, dataset, samples):
    first, second = (encode_sample(processor, s, "Locate.", dataset) for s in samples[:2])
    pixels, others = (one.vision["pixel_values_videos"] for one in (first, second))
    assert not pixels.equal(others)
