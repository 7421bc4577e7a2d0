"""One source of keys: files, schema and page follow the models, and mistakes are named."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest
import yaml
from conftest import REPOSITORY
from pydantic import ValidationError

from medtune.config.docs import defaults, reference, resolved, schema
from medtune.config.experiment import Config, load, parse_config
from medtune.config.renamed import RENAMED
from medtune.config.stages import STAGES, SftStage, load_stage, stage_json
from medtune.config.training import GrpoConfig
from medtune.orchestration import preflight
from medtune.runtime.errors import ConfigError

FILES = [
    path for path in sorted((REPOSITORY / "config").glob("*.yaml")) if path.name != "defaults.yaml"
]
FIX = "run `medtune config docs config`"


def demo() -> dict:
    """Return the demo with every key."""
    return yaml.safe_load(resolved(load(REPOSITORY / "config/config.yaml")))


def failing(values: dict) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_config(values, "file")
    return str(caught.value)


def overlaid(values: dict, defaults: dict, *keys: str) -> Iterator[str]:
    """Yield the keys below sections that stand in a file with their default."""
    for key, value in values.items():
        default = defaults.get(key)
        if isinstance(value, dict) and isinstance(default, dict) and value:
            yield from overlaid(value, default, *keys, key)
        elif keys and key in defaults and value == default:
            yield ".".join((*keys, key))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_shipped_file_is_short_and_names_what_differs_from_the_defaults(path: Path):
    text = path.read_text()
    assert len(text.splitlines()) <= 60
    assert [*overlaid(yaml.safe_load(text), yaml.safe_load(defaults()))] == []
    jsonschema.validate(yaml.safe_load(text), json.loads(schema()))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_what_show_prints_is_the_same_configuration(path: Path, tmp_path: Path):
    (tmp_path / "shown.yaml").write_text(resolved(load(path)))
    assert load(tmp_path / "shown.yaml") == load(path)
    shown = yaml.safe_load((tmp_path / "shown.yaml").read_text())
    assert {*shown} == {*Config.model_fields}


def test_schema_and_reference_have_not_drifted():
    assert (REPOSITORY / "config/defaults.yaml").read_text() == defaults(), FIX
    assert (REPOSITORY / "config/schema.json").read_text() == schema(), FIX
    assert (REPOSITORY / "config/README.md").read_text() == reference(), FIX


def test_every_key_is_documented():
    for line in reference().splitlines():
        if line.startswith("| `"):
            assert line.count("|") >= 5
            assert line.split("|")[4].strip(), f"no meaning: {line}"


@pytest.mark.parametrize(
    ("section", "key", "nearest"),
    [
        (None, "sed", "seed"),
        ("sft", "learning_rat", "learning_rate"),
        ("grpo", "num_generation", "num_generations"),
        ("media", "tile_sise", "tile_size"),
    ],
)
def test_unknown_key_names_the_nearest(section, key, nearest):
    values = demo()
    (values[section] if section else values)[key] = 1
    message = failing(values)
    assert f"`{section + '.' if section else ''}{key}`" in message
    assert f"did you mean `{nearest}`" in message


def test_an_old_key_is_refused_with_its_new_name():
    values = demo()
    values["sft"]["log_every"] = values["sft"].pop("logging_steps")
    message = failing(values)
    assert "`sft.log_every`: is called `logging_steps` now" in message
    assert "missing" not in message


def test_every_new_name_is_a_key():
    assert {*RENAMED.values()} <= {*re.findall(r"^\| `(\w+)`", reference(), re.MULTILINE)}


def test_unknown_key_inside_a_list_and_a_nested_section():
    values = demo()
    values["sources"][0]["rot"] = "x"
    assert "`sources.0.rot`" in failing(values)
    assert "did you mean `root`" in failing(values)
    values = demo()
    values["model"]["tiny"]["layer"] = 2
    assert "did you mean `layers`" in failing(values)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"media": {"layout": "row", "modalities": ["t2f"]}}, "shows 2 or 3 or 4 modalities"),
        ({"media": {"multiple_of": 14}}, "multiple of 16"),
        ({"media": {"tile_size": [60, 64]}}, "no multiples of media.multiple_of"),
        ({"model": {"path": "a"}}, "exactly one of"),
        ({"splits": {"val": 0.5, "test": 0.5}}, "leave no patients for training"),
        ({"grpo": {"batch_size": 12}}, "multiple of num_generations"),
        ({"sft": {"lora": {}}}, "freeze vision"),
        ({"sft": {"lora": {}, "freeze": ["vision", "language"]}}, "take language out of freeze"),
        (
            {"grpo": {"freeze": ["vision"], "learning_rates": {"vision": 1e-5}}},
            "learning_rates.vision`: is set, but freeze holds vision",
        ),
        (
            {"sft": {"lora": {"train_head": True}, "freeze": ["vision", "head"]}},
            "train_head`: is set, but freeze holds head",
        ),
        (
            {"sft": {"lora": {}, "freeze": ["vision"], "learning_rates": {"head": 1e-5}}},
            "with lora the head is frozen",
        ),
        ({"model": {"added_tokens": ["<a>", "<b>", "<a>"]}}, "holds '<a>' twice"),
        ({"model": {"added_tokens": [""]}}, "model.added_tokens.0"),
        ({"sft": {"learning_rates": {"projector": 0}}}, "sft.learning_rates.projector"),
        ({"reward": {"preset": "published_8_5_stepped"}}, "needs task.chain_of_thought"),
        ({"sft": {"learning_rate": -1}}, "greater than 0"),
        (
            {"grpo": {"dataset_weights": {"brats": 2.0}}},
            "`grpo.dataset_weights`: names ['brats'], but the sources are",
        ),
        ({"sft": {"learning_rate": float("nan")}}, "finite number"),
        ({"experiment": "../elsewhere"}, "experiment"),
        ({"experiment": ".."}, "experiment"),
        ({"seed": -1}, "seed"),
        ({"media": {"window": [99.5, 0.5]}}, "rising percentiles"),
        ({"media": {"fps": 0.3333}}, "multiple of 0.25"),
    ],
)
def test_values_that_cannot_work_are_refused(change, words):
    values = demo()
    for section, update in change.items():
        if isinstance(update, dict):
            values[section].update(update)
        else:
            values[section] = update
    assert words in failing(values)


def test_all_faults_stand_in_one_message_with_their_keys_and_remedies():
    values = demo()
    values["sft"] |= {"learning_rate": -1, "zzz": 1, "lora": {}, "freeze": []}
    values["model"]["famly"] = values["model"].pop("family")
    values["media"] |= {"window": [1, "x"], "multiple_of": 14, "tile_size": [60, 64]}
    values["splits"]["val"] = 0.9
    values["grpo"] |= {"batch_size": 12, "dataset_weights": {"brats": 1}}
    values["sources"][0]["kind"] = "brats2022"
    values["views"]["format"] = "chexagent"
    lines = failing(values).splitlines()
    faults = {line.split("`")[1]: line for line in lines[::2]}
    remedies = dict(zip(faults, lines[1::2], strict=True))
    assert set(faults) == {
        "sft.zzz",
        "model.famly",
        "sft.learning_rate",
        "sft.freeze",
        "media.window.1",
        "media.multiple_of",
        "media.tile_size",
        "splits.val",
        "grpo.batch_size",
        "grpo.dataset_weights",
        "sources.0.kind",
        "views.format",
    }
    assert all(line.startswith("file: `") for line in faults.values())
    assert "did you mean `family`" in remedies["model.famly"]
    assert "set 16" in remedies["media.multiple_of"]
    assert "with lora, freeze vision" in remedies["sft.freeze"]
    assert all(line.startswith("  -> ") for line in remedies.values())


@pytest.mark.parametrize(
    ("section", "update"),
    [
        ("model", {"family": "qwen9"}),  # the size of patches is not known: no fault of media
        ("media", {"multiple_of": "many"}),
        ("model", {"tiny": {"patch_size": 0}}),
    ],
)
def test_a_wrong_key_is_not_the_reason_of_another_fault(section, update):
    values = demo()
    values[section].update(update)
    assert failing(values).count("->") == 1


def test_a_message_is_the_validator_s_and_not_the_library_s():
    values = demo()
    values["model"]["family"] = "llava_med"
    values["task"]["chain_of_thought"] = False
    values["reward"]["preset"] = "published_9_0"
    message = failing(values)
    assert "  -> name the model in evaluation.models" in message
    assert "`reward.preset`: published_9_0 needs task.chain_of_thought" in message
    for word in ("Value error", "the configuration", "Input"):
        assert word not in message


def test_a_section_by_itself_refuses_all_its_faults():
    with pytest.raises(ValidationError) as caught:
        GrpoConfig(
            batch_size=3, num_generations=9, dynamic_sampling_rounds=1, scale_rewards="batch"
        )
    assert "`batch_size`: x gradient_accumulation is 24, no multiple of" in str(caught.value)
    assert "`dynamic_sampling_rounds`: replaces single groups" in str(caught.value)


def test_missing_key_and_missing_file(tmp_path: Path):
    values = demo()
    del values["model"]["family"]
    assert "`model.family`: is missing" in failing(values)
    with pytest.raises(ConfigError, match="does not exist"):
        load(tmp_path / "none.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load(broken)


def test_a_stage_sees_its_sections_only():
    config = load(REPOSITORY / "config/config.yaml")
    seen = json.loads(stage_json(config, "sft"))
    assert set(seen) == {"seed", "task", "model", "sft"}
    stage = load_stage(SftStage, json.dumps(seen))
    assert stage == load_stage(SftStage, str(REPOSITORY / "config/config.yaml"))
    assert not hasattr(stage, "grpo")


def test_a_changed_key_reaches_exactly_the_stages_that_read_it():
    config = load(REPOSITORY / "config/config.yaml")
    values = config.model_dump(mode="json")
    values["grpo"]["learning_rate"] = 0.5
    changed = Config.model_validate(values)
    differing = {name for name in STAGES if stage_json(config, name) != stage_json(changed, name)}
    assert differing == {"grpo"}


@pytest.mark.parametrize(("samples", "read"), [(32, True), (0, False)])
def test_sft_depends_on_the_reward_only_where_it_evaluates_answers(samples, read):
    values = demo()
    values["sft"]["eval_generation_samples"] = samples
    first = parse_config(values)
    values["reward"]["weights"] = {"iou": 2.0}
    second = parse_config(values)
    assert (stage_json(first, "sft") != stage_json(second, "sft")) == read
    stage = load_stage(SftStage, stage_json(second, "sft"))
    assert stage.reward.weights == ({"iou": 2.0} if read else {})


@pytest.mark.parametrize(
    ("change", "package"),
    [
        ({"grpo": {"rollouts": {"engine": "vllm"}}}, "vllm"),
        ({"sft": {"strategy": "zero2"}}, "deepspeed"),
    ],
)
def test_packages_are_missed_before_anything_runs(change, package, monkeypatch):
    values = demo()
    for section, update in change.items():
        values[section].update(update)
    config = parse_config(values, "file")
    monkeypatch.setattr(preflight, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=f"needs {package}, which is not installed"):
        preflight.check_packages(config)
    monkeypatch.setattr(preflight, "find_spec", lambda name: name)
    preflight.check_packages(config)
