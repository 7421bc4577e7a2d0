"""Exported folders: complete, what they say they are, and uploaded only when told to."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file
from training_stages import TASK, model_config, weights

import medtune.training  # noqa: F401  (declares operators before transformers is imported)
from medtune.config.data import TaskConfig
from medtune.config.evaluation import EvaluationConfig
from medtune.config.export import ExportConfig, ReleaseConfig
from medtune.config.stages import ExportStage, PushStage
from medtune.models.batches import prompt_batch
from medtune.models.coordinate_format import COORDINATE_FORMATS
from medtune.models.generate import generate
from medtune.models.inputs import encode_image, encode_sample
from medtune.models.loading import load_model, load_processor
from medtune.models.vision import vision_record
from medtune.records.sample import iterate, load_split
from medtune.release import export as module
from medtune.release import predict
from medtune.release.export import export_model
from medtune.release.push import push
from medtune.runtime.errors import ConfigError, DataError, ModelError
from medtune.runtime.files import atomic_folder, check_manifest, read_json, sha256


def stage(family: str, **export) -> ExportStage:
    return ExportStage(
        task=TaskConfig(),
        model=model_config(family),
        evaluation=EvaluationConfig(),
        export=ReleaseConfig(**export),
    )


@pytest.fixture(scope="session")
def exported(trained: Path, family, dataset: Path) -> Path:
    folder = trained.parent / "export" / "sft"
    export_model(stage(family), trained, dataset, None, folder)
    return folder


def test_an_export_is_the_rounded_model_with_all_that_belongs_to_it(exported, trained):
    manifest = check_manifest(exported / "manifest.json")
    assert set(manifest["files"]) == {p.name for p in exported.iterdir()} - {"manifest.json"}
    needed = {"config.json", "generation_config.json", "chat_template.jinja", "README.md"}
    needed |= {"predict.py", "positions.py", "torchvision_ops.py"}
    assert needed | {"processor_config.json", "tokenizer.json"} <= set(manifest["files"])
    ours, theirs = weights(exported), weights(trained)
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert ours[name].equal(value.bfloat16()), name
    change = manifest["rounding"]
    assert 0 < change["logp_mean"] <= change["logp_max"] < 0.1
    assert change["tokens"] > 5
    for path in exported.glob("*config.json"):
        assert str(trained.parent) not in path.read_text(), f"{path} names a folder of this machine"


def test_an_export_is_shown_its_media_as_in_training(exported, trained, samples):
    seen = read_json(exported / "manifest.json")["seen"]
    assert seen == read_json(trained / "manifest.json")["seen"]
    assert seen == vision_record(exported, samples[0])


def test_the_card_tells_what_is_known_and_nothing_of_patients(exported, dataset, family, samples):
    card = (exported / "README.md").read_text()
    for word in (
        "pipeline_tag: image-text-to-text",
        "Not for clinical use",
        "not run",
        "2.0 frames",
    ):
        assert word in card
    for split in ("train", "val", "test"):
        found = list(iterate(load_split(dataset, split)))
        patients = len({sample.patient_id for sample in found})
        assert f"| phantom | {split} | {len(found)} | {patients} |" in card
        for sample in found:
            assert sample.patient_id not in card
            assert sample.case_id not in card
    assert ("wrong rotary positions" in card) == (family == "qwen2_5_vl")
    unit = {"qwen2_5_vl": "count in pixels;", "qwen3_vl": "units of 1/1000 of the frame;"}
    assert unit[family] in card
    manifest = read_json(exported / "manifest.json")
    assert "learning_rate: 0.002" in card
    assert manifest["commit"] in card
    assert f"up to {manifest['rounding']['logit']:.3g}" in card
    assert "Not stated." in card
    assert "base_model:" not in card.split("---")[1]


WITHOUT_MEDTUNE = """
import sys
class Blocked:
    def find_spec(self, name, *_):
        if name.partition(".")[0] == "medtune":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Blocked())
sys.path.insert(0, {folder!r})
"""


def alone(folder: Path, code: str) -> str:
    """Return what code prints in a process that cannot import medtune."""
    code = WITHOUT_MEDTUNE.format(folder=str(folder)) + code
    command = [sys.executable, "-I", "-B", "-W", "ignore", "-c", code]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


@pytest.fixture(scope="session")
def expected(exported, dataset, family):
    """A sample, its question and medtune's answer."""
    sample = next(iterate(load_split(dataset, "test")))
    asked = TASK.prompt(sample, COORDINATE_FORMATS[family])
    processor = load_processor(exported)
    model = load_model(exported, model_config(family), "bfloat16")
    encoded = [encode_sample(processor, sample, asked, dataset)]
    text = generate(model, processor, encoded, 30)[0]["text"]
    assert len(text) > 5
    return dataset / sample.media[0].path, asked, text


def test_the_card_s_way_of_loading_gives_the_model_s_answers_without_medtune(exported, expected):
    video, asked, text = expected
    code = re.search(r"```python\n(.*?)```", (exported / "README.md").read_text(), re.S)[1]
    for old, new in (
        ("path/to/this/folder", str(exported)),
        ("as above, with the sizes of your video", asked.replace('"', '\\"')),
        ("video.mp4", str(video)),
        ("512", "30"),
    ):
        assert old in code
        code = code.replace(old, new)
    assert alone(exported, code) == text + "\n"


def test_the_command_of_the_folder_answers_without_medtune(exported, expected, tmp_path):
    video, asked, text = expected
    folder = tmp_path / "copied elsewhere"
    shutil.copytree(exported, folder)
    given = ["predict.py", str(video), asked, "--max-new-tokens", "30"]
    code = f"import runpy\nsys.argv = {given!r}\n"
    code += f"runpy.run_path({str(folder / 'predict.py')!r}, run_name='__main__')"
    assert alone(folder, code) == text + "\n"


def test_the_folder_s_inputs_are_those_of_training_for_images_too(exported, tmp_path, family):
    processor = load_processor(exported)
    pixels = np.random.default_rng(0).integers(0, 255, (1, 64, 96, 3), dtype=np.uint8)
    Image.fromarray(pixels[0]).save(tmp_path / "a.png")
    ours, theirs = (
        encode_image(processor, "Where?", pixels),
        predict.encode(processor, tmp_path / "a.png", "Where?"),
    )
    batch = prompt_batch([ours], 0)
    assert set(theirs) == set(batch)
    assert all(theirs[name].equal(value) for name, value in batch.items())
    Image.fromarray(pixels[0, :, :50]).save(tmp_path / "b.png")
    with pytest.raises(ValueError, match="must be multiples of"):
        predict.encode(processor, tmp_path / "b.png", "Where?")


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640)])
def test_folders_follow_the_umask(trained, dataset, family, tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        export_model(stage(family), trained, dataset, None, tmp_path / "export")
        with atomic_folder(tmp_path / "model") as temporary:
            load_model(trained, model_config(family)).save_pretrained(temporary)
            (temporary / "private").touch(0o600)
    finally:
        os.umask(before)
    for path in (*(tmp_path / "export").iterdir(), *(tmp_path / "model").iterdir()):
        assert path.stat().st_mode & 0o777 == mode, path.name
    for folder in (tmp_path / "export", tmp_path / "model"):
        assert folder.stat().st_mode & 0o777 == 0o777 & ~umask


def test_an_export_is_reproducible_sharded_and_exact_in_float32(
    exported, trained, dataset, family, tmp_path, monkeypatch
):
    export_model(stage(family), trained, dataset, None, tmp_path / "again")
    assert sha256(tmp_path / "again/manifest.json") == sha256(exported / "manifest.json")
    monkeypatch.setattr(module, "SHARD_SIZE", "1MB")
    exact = stage(family, dtype="float32", license="mit")
    export_model(exact, trained, dataset, None, tmp_path / "exact")
    shards = sorted((tmp_path / "exact").glob("model-*.safetensors"))
    assert len(shards) > 1
    parts = {name: value for path in shards for name, value in load_file(path).items()}
    assert all(parts[name].equal(value) for name, value in weights(trained).items())
    change = read_json(tmp_path / "exact/manifest.json")["rounding"]
    assert change["logit"] == change["logp_max"] == 0
    card = (tmp_path / "exact/README.md").read_text()
    assert "license: mit" in card
    assert "those of training, in float32" in card


def estimate(mean: float) -> dict:
    return {"mean": mean, "low": mean - 0.1, "high": mean + 0.1, "n": 6, "patients": 5}


def test_the_card_shows_the_evaluation(trained, dataset, family, tmp_path):
    models = {
        "constant": {"greedy": {"iou": estimate(0.2), "peak_error": None}},
        "sft": {"greedy": {"iou": estimate(0.5), "peak_error": None}},
    }
    (tmp_path / "metrics.json").write_text(json.dumps({"models": models, "comparisons": {}}))
    export_model(stage(family), trained, dataset, tmp_path / "metrics.json", tmp_path / "out")
    card = (tmp_path / "out/README.md").read_text()
    figures = "0.200 [0.100, 0.300] | 0.500 [0.400, 0.600] | not run | not run |"
    assert f"| iou | {figures}" in card
    assert "| peak_error | undefined | undefined | not run | not run |" in card
    assert "95 % intervals" in card


def test_a_folder_that_computes_something_else_is_not_left(
    trained, dataset, family, tmp_path, monkeypatch
):
    def damaged(folder: Path, _: str) -> None:
        path = folder / "model.safetensors"
        content = bytearray(path.read_bytes())
        for place in range(100_000, len(content), 1000):
            content[place] ^= 0x01
        path.write_bytes(content)

    with monkeypatch.context() as patch:
        patch.setattr(module, "check_folder", damaged)
        with pytest.raises(ModelError, match="logits differ by up to"):
            export_model(stage(family), trained, dataset, None, tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr(module, "correct_positions", lambda _: None)
        if family == "qwen2_5_vl":
            with pytest.raises(ModelError, match="logits differ by up to"):
                export_model(stage(family), trained, dataset, None, tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr(module, "ROUNDING_BOUND", 1e-9)
        with pytest.raises(ModelError, match=r"set export\.dtype: float32"):
            export_model(stage(family), trained, dataset, None, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_only_what_the_configuration_and_the_parents_say_is_exported(
    trained, dataset, family, tmp_path
):
    other = stage(family).model_copy(update={"task": TaskConfig(region="TC")})
    with pytest.raises(ConfigError, match="task: differs from what"):
        export_model(other, trained, dataset, None, tmp_path / "out")
    shutil.copytree(trained, tmp_path / "sft")
    manifest = read_json(tmp_path / "sft/manifest.json")
    manifest["parents"] = dict.fromkeys(manifest["parents"], "0" * 64)
    (tmp_path / "sft/manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match="is not what"):
        export_model(stage(family), tmp_path / "sft", dataset, None, tmp_path / "out")


@pytest.fixture
def hub(monkeypatch) -> list:
    calls: list = []

    class Hub:
        def __init__(self, token):
            calls.append(("token", token))

        def create_repo(self, repo, **settings):
            calls.append(("create", repo, settings))

        def upload_folder(self, **settings):
            calls.append(("upload", settings["repo_id"], settings["folder_path"]))
            assert settings["ignore_patterns"] == ["__pycache__/*"]

    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_TOKEN", "secret")
    return calls


PUSH = PushStage(export=ExportConfig(push=True, repo="lab/model"))


def test_nothing_is_uploaded_without_the_switch(exported, hub, monkeypatch):
    for silent in (ExportConfig(), ExportConfig(repo="lab/model")):
        with pytest.raises(ConfigError, match="nothing is uploaded"):
            push(PushStage(export=silent), exported)
    with monkeypatch.context() as patch:
        patch.delenv("HF_TOKEN")
        with pytest.raises(ConfigError, match="HF_TOKEN: is not set"):
            push(PUSH, exported)
    assert hub == []
    (exported / "__pycache__").mkdir(exist_ok=True)  # of `predict.py`, which has run
    (exported / "__pycache__/positions.cpython-311.pyc").touch()
    push(PUSH, exported)
    shutil.rmtree(exported / "__pycache__")
    assert hub == [
        ("token", "secret"),
        ("create", "lab/model", {"private": True, "exist_ok": True}),
        ("upload", "lab/model", exported),
    ]


def test_only_an_unchanged_export_is_uploaded(exported, trained, hub, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(exported, copy)
    (copy / "notes").mkdir()
    (copy / "notes/patients.csv").write_text("name")
    with pytest.raises(DataError, match=r"patients\.csv: was not written by the export"):
        push(PUSH, copy)
    shutil.rmtree(copy / "notes")
    (copy / "README.md").write_text("other")
    with pytest.raises(DataError, match=r"README\.md: changed"):
        push(PUSH, copy)
    with pytest.raises(DataError, match="is no exported folder"):
        push(PUSH, trained)
    assert hub == []


def test_a_push_needs_a_repository():
    with pytest.raises(ValueError, match="`repo`: push: true needs it"):
        ExportConfig(push=True)
