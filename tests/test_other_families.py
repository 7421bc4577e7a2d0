"""Families that only answer: what they are shown and asked, and what comes of their answers."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from chest_films import MEDIA, film, normal, samples
from PIL import Image
from small_experiment import small_config
from tiny_families import MAKERS

from medtune.config.data import TaskConfig
from medtune.config.evaluation import EvaluationConfig
from medtune.config.experiment import Config, load, parse_config, read_yaml
from medtune.config.stages import ModelStage, PredictStage, ScoreStage, load_stage, stage_json
from medtune.config.training import AnsweringConfig, RewardConfig
from medtune.evaluation import engines, predict
from medtune.evaluation.score import Scorer
from medtune.geometry.image import ImageGeometry
from medtune.models.coordinate_format import IMAGE_COORDINATE_FORMATS
from medtune.models.evaluated_only import (
    chat_text,
    encode_film,
    film_batch,
    load_film_model,
    load_film_processor,
    own_question,
    squared,
)
from medtune.models.generate import reply
from medtune.models.inputs import read_frames
from medtune.models.loading import check_folder
from medtune.records.sample import iterate, load_split, write_dataset
from medtune.runtime.errors import ConfigError, ModelError, VisionError
from medtune.runtime.files import sha256, write_manifest
from medtune.runtime.tables import read_rows
from medtune.tasks import get_task
from medtune.training.base_model import prepare_base

CHEST = TaskConfig(name="chest_xray")
TASK = get_task(CHEST)
SHAPES = ((125, 87, 128, 96), (60, 150, 64, 160))  # wide and tall: other tiles, other padding
ENDS = {"llava_onevision": ["<|im_end|>"], "gemma3": ["<eos>", "<end_of_turn>"]}
# What a prompt says of boxes on the film of 125 x 87 pixels in a frame of 128 x 96.
CONVENTIONS = {
    "llava_onevision": "Write a box as [x1, y1, x2, y2]; x goes up to 0.98 and y to 0.91 in "
    "fractions of the image.",
    "gemma3": "Write a box as [y1, x1, y2, x2]; x goes up to 977 and y to 680 in units of 1/1000 "
    "of the image.",
}


def answering(family: str, path="x", **changes) -> AnsweringConfig:
    return AnsweringConfig(family=family, path=str(path), **changes)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Films of two shapes; every split holds all tasks."""
    folder = tmp_path_factory.mktemp("films") / "datasets"
    folder.mkdir()
    rng, made = np.random.default_rng(1), []
    for number, split in enumerate(("train", "test", "test", "val")):
        *size, width, height = SHAPES[number % 2]
        path = folder.parent / f"{number}.png"
        Image.fromarray(rng.integers(0, 255, (height, width), dtype=np.uint8)).save(path)
        shown = {"path": str(path), "sha256": sha256(path), "width": width, "height": height}
        geometry = ImageGeometry(
            source_size=(2000, 1400), size=tuple(size), frame_size=(width, height)
        )
        media = MEDIA.model_copy(update=shown)
        for one in (film(number), normal(100 + number)):
            made += samples(one, split, media, geometry)
    write_dataset(made, folder)
    files = [path for path in folder.rglob("*") if path.is_file()]
    write_manifest(folder, files, {}, stage="annotate")
    return folder


@pytest.fixture(scope="module")
def held_out(dataset):
    return list(iterate(load_split(dataset, "test")))


@pytest.fixture(scope="module", params=MAKERS)
def family(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def model(family, held_out, tmp_path_factory):
    """The named folder of a tiny random model, as the stage `model` leaves it."""
    folder = tmp_path_factory.mktemp(family)
    dialect = IMAGE_COORDINATE_FORMATS[family]
    texts = [f(s, dialect) for s in held_out for f in (TASK.prompt, TASK.target)]
    MAKERS[family](folder / "theirs", texts)
    stage = ModelStage(task=CHEST, model=answering(family, folder / "theirs"))
    prepare_base(stage, folder, folder / "named")
    return folder / "named"


def stage_of(family: str, model, **changes) -> PredictStage:
    settings = {"batch_size": 5, "max_new_tokens": 8, "samples": 2} | changes
    return PredictStage(
        task=CHEST, model=answering(family, model), evaluation=EvaluationConfig(**settings)
    )


@pytest.fixture(scope="module")
def predictor(family, model, dataset, held_out):
    stage = stage_of(family, model)
    made = predict.Predictor(stage, model, dataset, held_out[0])
    made.load([])
    return made


def asked(predictor, held_out):
    return predict.questions(held_out, "greedy", predictor.stage)


def test_rows_are_complete_scored_and_kept(family, model, dataset, held_out, tmp_path, monkeypatch):
    table = tmp_path / "0000.parquet"

    def run():
        predict.predict(
            stage_of(family, model), model, dataset, predict.MODES, table, tmp_path / "cache"
        )
        return read_rows(table)

    rows = run()
    assert len(rows) == len(held_out) * (1 + 2 + 1)
    assert {row["family"] for row in rows} == {family}
    assert all(row["engine"].startswith("transformers") and row["tokens"] for row in rows)
    texts = {(row["id"], row["draw"]): row["text"] for row in rows if row["mode"] == "sampled"}
    assert any(texts[name, 0] != texts[name, 1] for name, _ in texts)
    scoring = ScoreStage(
        task=CHEST,
        reward=RewardConfig(),
        evaluation=EvaluationConfig(),
    )
    scored = Scorer(scoring, held_out).score("theirs", rows)
    assert [row["reason"] for row in scored] == [row["reason"] for row in rows]
    with monkeypatch.context() as patch:
        patch.setattr(engines, "load_film_model", None)  # the model is not even loaded
        assert run() == rows


def test_a_prompt_is_in_the_family_s_form_and_chat(family, predictor, held_out):
    wide = [s for s in held_out if s.media[0].width == 128]
    question = asked(predictor, [ask(wide, "phrase_grounding")])[0]
    said = predictor.processor.tokenizer.decode(predictor.encode(question).input_ids)
    assert predictor.prompt(question) in said
    assert CONVENTIONS[family] in said
    chat = {
        "llava_onevision": ("<|im_start|>user <image>", "\n", "<|im_end|><|im_start|>assistant\n"),
        "gemma3": ("<bos><start_of_turn>user\n", "", "<end_of_turn>\n<start_of_turn>model\n"),
    }
    start, _, end = chat[family]
    assert said.startswith(start)
    assert said.endswith(end)
    assert said.count("<bos>") == (family == "gemma3")


def test_earlier_rounds_are_said_before_the_question(predictor, held_out):
    question = next(q for q in asked(predictor, held_out) if q.sample.turns)
    said = predictor.processor.tokenizer.decode(predictor.encode(question).input_ids)
    turns = predictor.turns(question)
    parts = [part for turn in turns for part in (turn.prompt, turn.target)]
    places = [said.index(part) for part in (*parts, predictor.prompt(question))]
    assert places == sorted(places)


def test_a_gold_answer_comes_back_through_tokens_and_form(family, predictor, held_out):
    tokenizer, ends = predictor.processor.tokenizer, predictor.engine.limits.ends
    assert tokenizer.convert_ids_to_tokens(ends) == ENDS[family]
    seen = 0
    for question in asked(predictor, held_out):
        sample = question.sample
        gold = TASK.target(sample, predictor.dialect)
        tokens = tokenizer(gold, add_special_tokens=False)["input_ids"]
        answer = reply(tokenizer, [*tokens, ends[-1], 5, ends[0], 6], ends)
        assert answer == {"text": gold, "tokens": len(tokens) + 1, "ended": True}
        assert predictor.row(question, 0, answer)["reason"] is None
        if "boxes" in sample.truth:
            found = predictor.task.judge(gold, sample, predictor.dialect).answer.boxes
            off = np.abs(np.array(found) - np.array(sample.truth["boxes"])).max()
            assert off <= 1.3, "pixels: a hundredth of the longest side, and a little"
            seen += 1
    assert seen > 4
    assert not reply(tokenizer, [5, 6], ends)["ended"]


def last_logits(predictor, encoded):
    batch = film_batch(encoded, predictor.processor.tokenizer.pad_token_id)
    with torch.no_grad():
        return predictor.engine.model(**batch).logits[:, -1]


def test_a_prompt_is_what_the_processor_itself_makes_of_a_chat(predictor, held_out):
    question = asked(predictor, held_out)[0]
    pixels = read_frames(question.video.media[0], predictor.root)[0]
    shown = squared(pixels) if predictor.dialect.picture.square else pixels
    image = {"type": "image", "image": Image.fromarray(shown)}
    text = {"type": "text", "text": predictor.prompt(question)}
    chat = [{"role": "user", "content": [image, text]}]
    own = predictor.processor.apply_chat_template(
        chat, tokenize=True, return_dict=True, add_generation_prompt=True, return_tensors="pt"
    )
    ours = film_batch([predictor.encode(question)], 0)
    assert ours.keys() == own.keys()
    assert all(torch.equal(ours[name], own[name]) for name in own)


def test_the_film_is_seen(predictor, held_out, tmp_path):
    question = asked(predictor, held_out)[0]
    (media,) = question.sample.media
    path = tmp_path / "mirrored.png"
    Image.open(predictor.root / media.path).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(path)
    media = media.model_copy(update={"path": str(path), "sha256": sha256(path)})
    other = question.sample.model_copy(update={"media": [media]})
    mirrored = predict.Question("shuffled", question.sample, other, (None,))
    own, same, changed = (
        last_logits(predictor, [predictor.encode(q)]).log_softmax(-1)
        for q in (question, question, mirrored)
    )
    assert torch.equal(own, same)
    assert (own - changed).abs().max() > 0.01


def test_answers_are_the_same_alone_and_in_a_padded_batch(predictor, held_out):
    questions = asked(predictor, held_out)
    chosen = [*questions[:3], *questions[-3:]]
    encoded = [predictor.encode(question) for question in chosen]
    assert len({len(one.input_ids) for one in encoded}) > 2
    together = last_logits(predictor, encoded)
    for one, row in zip(encoded, together, strict=True):
        assert last_logits(predictor, [one])[0] == pytest.approx(row, abs=1e-3)
    replies = predictor.engine.answer(encoded, [None] * len(encoded))
    assert replies == [predictor.engine.answer([one], [None])[0] for one in encoded]
    assert len({one["text"] for one in replies}) > 1


def test_no_answer_holds_a_placeholder(family, predictor):
    tokenizer = predictor.processor.tokenizer
    banned = tokenizer.convert_ids_to_tokens(predictor.engine.limits.banned)
    wanted = {
        "llava_onevision": {"<image>", "<video>"},
        "gemma3": {"<start_of_image>", "<end_of_image>", "<image_soft_token>"},
    }
    assert set(banned) == wanted[family]


def test_a_video_is_refused(predictor, held_out):
    media = held_out[0].media[0].model_copy(update={"kind": "video"})
    config = predictor.stage.model
    with pytest.raises(VisionError, match="answers about films alone"):
        encode_film(predictor.processor, config, "?", media, predictor.root)


def test_films_are_padded_to_a_square_only_where_the_form_says_so(predictor, held_out):
    pixels = np.random.default_rng(2).integers(1, 255, (3, 5, 3), dtype=np.uint8)
    square = squared(pixels)
    assert square.shape == (5, 5, 3)
    assert (square[:3] == pixels).all()
    assert not square[3:].any()
    own = {name for name, dialect in IMAGE_COORDINATE_FORMATS.items() if dialect.picture.square}
    assert own == {"gemma3", "llava_med", "maira2"}
    question = asked(predictor, held_out)[0]
    shown = predictor.encode(question).vision["pixel_values"]
    media, root = question.video.media[0], predictor.root
    for form in (True, False):
        again = encode_film(predictor.processor, predictor.stage.model, "?", media, root, (), form)
        alike = again.vision["pixel_values"].shape == shown.shape and bool(
            (again.vision["pixel_values"] == shown).all()
        )
        assert alike == (form == predictor.dialect.picture.square)


# What may be configured.


def with_model(tmp_path, films: bool, **other) -> Config:
    """The configuration of a small experiment that names a further model."""
    values = read_yaml(small_config(tmp_path))
    values["evaluation"]["models"] = [{"name": "theirs", "path": "somewhere"} | other]
    if films:
        sources = [{"name": "made", "kind": "vindr_cxr", "root": "."}]
        values |= {"films": {"sources": sources}, "sources": [], "task": {"name": "chest_xray"}}
        values |= {"reward": {}, "phantom": None}
        values.pop("media", None), values.pop("splits", None)
    return parse_config(values)


@pytest.mark.parametrize("name", ["llava_onevision", "gemma3", "maira2"])
def test_a_family_that_only_answers_is_not_trained(tmp_path, name):
    with pytest.raises(
        ConfigError, match=r"(?s)family.*only evaluated, not trained.*evaluation.model"
    ):
        load(small_config(tmp_path, model={"family": name, "path": "x"}))


def test_volumes_are_not_asked_about(tmp_path):
    with pytest.raises(ConfigError, match="theirs is of a family that answers about films alone"):
        with_model(tmp_path, films=False, family="gemma3")


@pytest.mark.parametrize("name", ["llava_med", "chexagent", "maira2"])
def test_code_of_a_folder_runs_only_where_it_is_allowed(tmp_path, name, monkeypatch):
    with pytest.raises(
        ConfigError, match=f"(?s)a {name} is loaded by Python code .* remote_code: tru"
    ):
        with_model(tmp_path, films=True, family=name)
    config = with_model(tmp_path, films=True, family=name, remote_code=True)
    stage = load_stage(PredictStage, stage_json(config.for_model("theirs"), "predict"))
    assert (stage.model.family, stage.model.remote_code) == (name, True)
    for load_one in (load_film_processor, load_film_model):
        with pytest.raises(ConfigError, match="which is not allowed"):
            load_one(tmp_path, answering(name))
    trusted = []

    def from_pretrained(path, **options):
        trusted.append(options["trust_remote_code"])
        raise ModelError(path, "is not loaded here", "")

    for auto in (
        "AutoProcessor",
        "AutoTokenizer",
        "AutoModelForCausalLM",
        "AutoModelForImageTextToText",
    ):
        monkeypatch.setattr(f"transformers.{auto}.from_pretrained", from_pretrained)
    for load_one in (load_film_processor, load_film_model):
        with pytest.raises(ModelError):
            load_one(tmp_path, answering(name, remote_code=True))
    assert trusted == [True, True]


def test_code_is_not_allowed_where_none_is_needed(tmp_path):
    with pytest.raises(ConfigError, match="a gemma3 needs no code"):
        with_model(tmp_path, films=True, family="gemma3", remote_code=True)


def test_a_trained_family_is_configured_as_before(tmp_path):
    config = with_model(tmp_path, films=False, family="qwen3_vl")
    model = config.for_model("theirs").model
    assert (model.family, model.remote_code, model.builder) == ("qwen3_vl", False, None)
    assert "remote_code" not in stage_json(config, "sft")


def test_a_folder_of_another_family_is_named(model, family):
    path = predict.base_path(model)
    check_folder(path, family)
    with pytest.raises(ModelError, match=f"is a {family}, expected llava_med"):
        check_folder(path, "llava_med")


# Prompts of the families whose models cannot be loaded here.


def processor_of(template: str, **made):
    from transformers import PreTrainedTokenizerFast

    from medtune.models.tiny import train_tokenizer

    tokenizer = train_tokenizer(["a"])
    tokenizer.chat_template = template
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    return SimpleNamespace(tokenizer=tokenizer, chat_template=None, **made)


def ask(held_out, task: str):
    return next(s for s in held_out if s.task == task)


PLAIN = """\
{% for m in messages %}{{ m['role'] }}:{% for p in m['content'] %}\
{{ '<image>' if p['type'] == 'image' else p['text'] }}{% endfor %};{% endfor %}bot:"""


def test_maira_is_asked_in_its_own_words(held_out):
    sample = ask(held_out, "phrase_grounding")
    said = chat_text(processor_of(PLAIN), "maira2", own_question("maira2", sample))
    assert said == (
        "user:Given the current frontal image<image> Repeat the following finding as a grounded "
        "phrase with bounding boxes indicating all locations where it can be seen in the given "
        f"chest X-ray image. Finding: {sample.truth['phrase']};bot:"
    )
    assert own_question("maira2", ask(held_out, "abnormality_classification")) is None
    said = chat_text(processor_of(PLAIN), "maira2", "What is it?")
    assert said == "user:<image>What is it?;bot:"
    found = TASK.judge(
        TASK.target(sample, IMAGE_COORDINATE_FORMATS["maira2"]),
        sample,
        IMAGE_COORDINATE_FORMATS["maira2"],
    )
    assert found.answer is not None


@pytest.mark.parametrize("name", ["maira2", "chexagent", "llava_med"])
def test_other_questions_are_asked_as_everyone_is(held_out, name):
    stage = stage_of(name, "x")
    asking = SimpleNamespace(stage=stage, task=TASK, dialect=IMAGE_COORDINATE_FORMATS[name])
    own = {"maira2": {"phrase_grounding", "report_generation"}, "llava_med": set()}
    own["chexagent"] = {"phrase_grounding", "abnormality_grounding"}
    for question in predict.questions(held_out, "greedy", stage):
        sample = question.sample
        said = predict.Predictor.prompt(asking, question)
        expected = TASK.prompt(sample, asking.dialect)
        if sample.task in own[name]:
            expected = own_question(name, sample)
        assert said == expected


def test_llava_med_is_asked_in_the_chat_of_mistral(held_out):
    sample = ask(held_out, "conversation")
    processor = processor_of("unused")
    processor.apply_chat_template = processor.tokenizer.apply_chat_template
    first, second = (sample.turns[0], sample.turns[0].model_copy(update={"prompt": "Sure?"}))
    said = chat_text(processor, "llava_med", "And now?", (first, second))
    assert said == (
        f"[INST] <image>\n{first.prompt} [/INST] {first.target} </s>"
        f"[INST] {second.prompt} [/INST] {second.target} </s>[INST] And now? [/INST]"
    )


def test_chexagent_s_prompt_names_the_file_and_its_boxes_are_hundredths(held_out, dataset):
    sample, chats = ask(held_out, "abnormality_grounding"), []

    def apply_chat_template(chat, **_):
        chats.append(chat)
        return torch.tensor([[1, 2, 3]])

    tokenizer = SimpleNamespace(
        from_list_format=lambda parts: "|".join(v for part in parts for v in part.values()),
        apply_chat_template=apply_chat_template,
    )
    media, prompt = sample.media[0], own_question("chexagent", sample)
    config = answering("chexagent", remote_code=True)
    encoded = encode_film(tokenizer, config, prompt, media, dataset)
    assert encoded.input_ids.tolist() == [1, 2, 3]
    name = sample.truth["name"]
    assert chats[0][1:] == [
        {
            "from": "human",
            "value": f"{dataset / media.path}|Locate areas in the chest X-ray where {name} are "
            "present, using bounding box coordinates",
        }
    ]
    dialect = IMAGE_COORDINATE_FORMATS["chexagent"]
    assert TASK.target(sample, dialect).count("<|box|>(") == len(sample.truth["boxes"])
    assert "in units of 1/100 of the image" in dialect.picture.convention(
        ImageGeometry.model_validate(sample.geometry)
    )
