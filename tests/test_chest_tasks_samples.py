"""From a film to samples, to how often they come, and to the tokens a model is trained on."""

from collections import Counter
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from chest_films import GEOMETRY, MEDIA, REGIONS, REPORT, film, normal, samples, stored
from conftest import TINY
from PIL import Image

from medtune.config.data import TaskConfig
from medtune.config.training import ModelConfig
from medtune.dataset.mixing import mixed
from medtune.models.coordinate_format import COORDINATE_FORMATS
from medtune.models.inputs import END
from medtune.models.loading import load_processor
from medtune.models.tiny import build_tiny, chat_template
from medtune.records.film import Region
from medtune.records.sample import Turn, from_row, iterate, load_split, to_row, write_dataset
from medtune.runtime.errors import ConfigError
from medtune.runtime.files import sha256
from medtune.sources.chest.labels import LABELS
from medtune.tasks import get_task
from medtune.tasks.chest.published_mix import ANATOMICAL_PAIRS, PUBLISHED, default_weights
from medtune.tasks.chest.samples import LOOSE, OUTSIDE, UNLABELED, UNSAID
from medtune.training.batches import IGNORED, SftCollator

TASK = get_task(TaskConfig(name="chest_xray"))


def found(one, task: str, **extras) -> list:
    return [sample for sample in samples(one, **extras) if sample.task == task]


def test_a_film_with_everything_is_asked_everything():
    ids = [one.id.removeprefix("made/image0/") for one in samples(film())]
    assert ids == [
        "report_generation",
        "abnormality_classification",
        *(f"anatomical_grounding/{n}" for n in range(3)),
        *(f"abnormality_grounding/{n}" for n in range(2)),
        "abnormality_detection",
        "phrase_grounding/0",
        "conversation",
        "grounded_conversation",
    ]


def test_truths_are_in_pixels_of_the_stored_image():
    own = {one.id.removeprefix("made/image0/"): one for one in samples(film())}
    assert own["anatomical_grounding/2"].truth == {
        "name": "right lung",
        "boxes": [[50.0, 50.0, 225.0, 300.0]],
    }
    assert own["abnormality_grounding/1"].truth["boxes"] == [
        [100, 100, 130, 125],
        [375, 75, 400, 105],
    ]
    assert own["phrase_grounding/0"].truth["phrase"] == REGIONS[-1][1]
    assert [one["name"] for one in own["abnormality_detection"].truth["findings"]] == [
        *("ILD", "Nodule/Mass", "Nodule/Mass"),
    ]
    assert own["report_generation"].truth["report"] == REPORT == own["report_generation"].target
    labels = own["abnormality_classification"].truth
    assert labels["present"] == ["Lung Lesion"]
    assert len(labels["absent"]) == 12
    talk = own["grounded_conversation"]
    assert len(talk.turns) == 1
    assert talk.target == "No, there is another at <box>375, 75, 400, 105</box>."
    assert "<box>50, 50, 225, 300</box>" in own["anatomical_grounding/2"].target
    for one in own.values():
        assert from_row(to_row(one)) == one
        assert one.patient_id == "made/p0"


def test_boxes_are_clipped_and_those_outside_are_counted():
    over = (
        Region(kind="anatomy", name="right lung", box=(-50, -10, 800, 1600)),
        Region(kind="anatomy", name="trachea", box=(2000, 0, 2100, 100)),
        Region(kind="anatomy", name="heart", box=(500, 600, 500, 900)),
    )
    dropped = Counter()
    tasks = frozenset({"anatomical_grounding"})
    (lung,) = samples(film(regions=over), tasks=tasks, dropped=dropped)
    assert lung.truth["boxes"] == [[0, 0, 200, 350]]
    assert dropped == {("made", "", "box", OUTSIDE): 2}
    lost = (Region(kind="abnormality", name="ILD", box=(2000, 0, 2100, 100)),)
    kind = "abnormality_detection"
    assert found(film(regions=lost, no_finding=True), kind) == []


def test_parts_of_the_body_are_fixed_in_the_test_and_drawn_in_training():
    task = "anatomical_grounding"
    assert len(found(film(), task, split="test", seed=1)) == 3
    assert found(film(), task, split="test", seed=1) == found(film(), task, split="test", seed=2)
    draws = [
        found(film(n), task, split="train", anatomy_questions_per_image=1, seed=1)[0]
        for n in range(30)
    ]
    again = [
        found(film(n), task, split="train", anatomy_questions_per_image=1, seed=1)[0]
        for n in range(30)
    ]
    assert draws == again
    assert {one.truth["name"] for one in draws} == {name for kind, name, _ in REGIONS[:3]}
    ids = {one.id: one.truth["name"] for one in found(film(), task, split="test")}
    (drawn,) = found(film(), task, split="train", seed=5)
    assert ids[drawn.id] == drawn.truth["name"]  # one question, one id, in whatever split
    fixed = [
        found(film(), task, split="test", test_anatomy_questions_per_image=1, seed=seed)
        for seed in (1, 2)
    ]
    assert fixed[0] == fixed[1]
    assert len(fixed[0]) == 1
    backwards = film(regions=tuple(reversed(film().regions)))
    assert [one.id for one in found(backwards, task)] == list(ids)


def test_blank_labels_are_no_normal_film():
    """What nobody mentions is unknown: it becomes neither an answer nor a judged label."""
    task = "abnormality_classification"
    dropped = Counter()
    blank = film(labels={}, no_finding=None)
    partly = film(labels={"Pneumothorax": "absent"}, no_finding=None)
    doubtful = film(labels={"Pneumonia": "uncertain"}, no_finding=None)
    for one in (blank, partly, doubtful):
        assert samples(one, tasks=frozenset({task}), dropped=dropped) == []
    assert dropped == {
        ("made", task, "film", UNSAID): 2,
        ("made", task, "film", UNLABELED): 1,
    }
    (well,) = found(film(labels={}, no_finding=True, regions=()), task)
    assert well.truth == {"present": [], "absent": [n for n in LABELS if n != "Support Devices"]}
    denied = dict.fromkeys(LABELS[:-1], "absent")
    assert len(found(film(labels=denied, no_finding=None), task)) == 1


def test_a_normal_film_is_asked_for_detection_where_readers_drew_all():
    assert [one.task for one in samples(normal())] == [
        "abnormality_classification",
        "abnormality_detection",
    ]
    only = frozenset({"abnormality_classification"})
    assert [one.task for one in samples(normal(), tasks=only)] == ["abnormality_classification"]


def test_a_conversation_with_foreign_boxes_is_dropped():
    talk = (Turn(prompt="Where?", target="At <box>1, 2, 3, 4</box>."),)
    dropped = Counter()
    kind = "grounded_conversation"
    assert samples(film(), grounded_talk=talk, tasks=frozenset({kind}), dropped=dropped) == []
    assert dropped == {("made", kind, "film", LOOSE): 1}


def test_a_conversation_with_boxes_ends_with_the_last_of_them():
    at = next(one.target for one in found(film(), "phrase_grounding"))
    rounds = [
        Turn(prompt="Where?", target=at),
        Turn(prompt="The heart?", target="It is large."),
    ]
    (one,) = found(film(), "grounded_conversation", grounded_talk=[rounds[1], *rounds])
    assert [turn.prompt for turn in one.turns] == ["The heart?"]
    assert (one.prompt, one.target) == ("Where?", at)


def test_thoughts_go_with_their_sample():
    name = "made/image0/phrase_grounding/0"
    (one,) = found(film(), "phrase_grounding", thoughts={name: "It is up there."})
    thinking = get_task(TaskConfig(name="chest_xray", chain_of_thought=True))
    target = thinking.target(one, COORDINATE_FORMATS["qwen3_vl"])
    assert target.startswith("<think>It is up there.</think><answer>")


def test_the_published_pairs_add_up():
    """All summands are in the public description of the set; its own total is 1,115,021."""
    counts = {(one.source, one.task): round(one.pairs * one.weight) for one in PUBLISHED}
    assert len(counts) == len(PUBLISHED) == 12
    assert counts["chest_imagenome", "anatomical_grounding"] == ANATOMICAL_PAIRS
    assert sum(counts.values()) == 1_115_021
    assert default_weights({"vin": "vindr_cxr", "cxr": "mimic_cxr"}) == {
        "vin/abnormality_grounding": 3,
        "vin/abnormality_detection": 2,
    }


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """A data set of two sources with one image of noise."""
    pixels = np.random.default_rng(1).integers(0, 255, (384, 512), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "f.png")
    media = MEDIA.model_copy(update={"sha256": sha256(tmp_path / "f.png")})
    films = [film(n, source=("vin", "cxr")[n % 2]) for n in range(40)]
    every = [one for each in films for one in samples(each, "train", media)]
    write_dataset(every, tmp_path)
    return tmp_path


def test_tasks_of_a_source_come_as_often_as_their_weights_say(dataset: Path):
    train = load_split(dataset, "train")

    def kinds(split):
        return Counter(zip(split["source"][:], split["task"][:], strict=True))

    before = kinds(train)
    weights = {"vin/abnormality_grounding": 3, "cxr": 2, "cxr/conversation": 0.5}
    after = kinds(mixed(train, weights, 1))
    assert after["vin", "abnormality_grounding"] == 3 * before["vin", "abnormality_grounding"]
    assert after["vin", "conversation"] == before["vin", "conversation"]
    assert after["cxr", "report_generation"] == 2 * before["cxr", "report_generation"]
    assert 0 < after["cxr", "conversation"] < before["cxr", "conversation"]
    with pytest.raises(ConfigError, match=r"no source and task \['vin/mri'\]"):
        mixed(train, {"vin/mri": 2.0}, 1)
    with pytest.raises(ConfigError, match="it has: cxr, vin"):
        mixed(train, {"brats": 2.0}, 1)


@pytest.fixture(scope="module", params=COORDINATE_FORMATS)
def family(request) -> str:
    return request.param


@pytest.fixture
def collator(family: str, dataset: Path, tmp_path: Path) -> SftCollator:
    """Of a tiny model whose vocabulary is made of the samples."""
    dialect = COORDINATE_FORMATS[family]
    texts = [chat_template(family)]
    for one in iterate(load_split(dataset, "train")):
        told = TASK.render_history(one, dialect)
        texts += [text for turn in told.turns for text in (turn.prompt, turn.target)]
        texts += [TASK.prompt(one, dialect), TASK.target(one, dialect)]
    config = ModelConfig(family=family, builder="tiny", tiny=TINY)
    (tmp_path / "tiny").mkdir()
    build_tiny(tmp_path / "tiny", config, texts, 1)
    return SftCollator(load_processor(tmp_path / "tiny"), TASK, dialect, dataset)


def test_every_box_is_in_the_family_s_form_token_by_token(collator, family, dataset):
    """Question, answer and earlier turns; the loss is on the answers of all rounds, exactly."""
    first = list(iterate(load_split(dataset, "train")))[:10]
    assert {one.task for one in first} == {*(one.task for one in samples(film()))}
    batch = collator([to_row(one) for one in first])
    tokenizer, form = collator.processor.tokenizer, COORDINATE_FORMATS[family].picture
    for row, sample in enumerate(first):
        shown = batch["input_ids"][row][batch["attention_mask"][row].bool()]
        text, labels = tokenizer.decode(shown), batch["labels"][row]
        said = [form.render(turn.target, GEOMETRY) for turn in sample.turns]
        said.append(TASK.target(sample, COORDINATE_FORMATS[family]))
        expected = [tokenizer(one + END)["input_ids"] for one in said]
        assert labels[labels != IGNORED].tolist() == list(chain(*expected))
        assert "<box>" not in text
        assert text.count("Write a box as") == (sample.task in BOXED)
        assert collator.length(sample) == len(shown)
        assert collator.learned(sample) == len(list(chain(*expected)))
    talk = next(row for row, one in enumerate(first) if one.task == "grounded_conversation")
    shown = batch["input_ids"][talk][batch["attention_mask"][talk].bool()]
    nodule, other = film().regions[3:5]
    (own, second) = (form.render(stored(region.box), GEOMETRY) for region in (nodule, other))
    ids = shown.tolist()
    asked = tokenizer(f"Is {own} the only one?")["input_ids"]
    answered = tokenizer(f"No, there is another at {second}.{END}")["input_ids"]
    assert any(ids[n : n + len(asked)] == asked for n in range(len(ids)))
    assert ids[-len(answered) :] == answered
    assert own == {"qwen2_5_vl": "[100, 100, 130, 125]", "qwen3_vl": "[195, 260, 254, 326]"}[family]


BOXED = {
    *("anatomical_grounding", "abnormality_grounding", "phrase_grounding"),
    *("abnormality_detection", "grounded_conversation"),
}
