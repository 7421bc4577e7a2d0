"""The data set as other trainers load it: what they read, and what its answers then say.

The readers here do what the loaders of EasyR1 (`verl/utils/dataset.py`) and Seg-Zero
(`verl/utils/rl_dataset.py`) do with columns, paths and placeholders.
"""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from chest_films import MEDIA, film, normal
from chest_films import samples as film_samples
from conftest import REAL_DATA
from datasets import load_dataset, load_from_disk
from PIL import Image
from typer.testing import CliRunner

from medtune.cli.main import app
from medtune.config.data import TaskConfig
from medtune.config.stages import ViewsStage
from medtune.config.training import FamilyConfig
from medtune.config.views import VOLUME_FORMATS, ViewsConfig
from medtune.dataset import views
from medtune.dataset.views import Repeat, write_views
from medtune.media.video import decode
from medtune.models.coordinate_format import IMAGE_COORDINATE_FORMATS, PIXELS
from medtune.records.sample import SPLITS, Turn, iterate, load_split, write_dataset
from medtune.rewards.base import score_all
from medtune.runtime.errors import ConfigError, DataError
from medtune.runtime.files import MANIFEST, read_json, write_manifest
from medtune.tasks import get_task
from medtune.tasks.base import with_truth
from medtune.tasks.chest.xray import PARTS, true_boxes

FILM_FORMATS = (*VOLUME_FORMATS, "chexagent")
THOUGHT = [TaskConfig(name="chest_xray", chain_of_thought=one) for one in (False, True)]


def stage(task: TaskConfig, form: str | None = None, **changes) -> ViewsStage:
    return ViewsStage(
        task=task, model=FamilyConfig(family="qwen3_vl"), views=ViewsConfig(format=form, **changes)
    )


def written(folder: Path, samples) -> Path:
    """A data set folder of samples."""
    write_dataset(samples, folder)
    files = [path for path in folder.rglob("*") if path.is_file()]
    write_manifest(folder, files, {}, stage="annotate_films")
    return folder


@pytest.fixture(scope="module")
def films(tmp_path_factory) -> Path:
    """A data set of all eight tasks; its one image is no multiple of 28 pixels wide."""
    folder = tmp_path_factory.mktemp("films")
    (folder / "media").mkdir()
    gray = np.random.default_rng(0).integers(0, 256, (384, 512), dtype=np.uint8)
    Image.fromarray(gray).save(folder / "media/f.png")
    media = MEDIA.model_copy(update={"path": "../media/f.png"})
    made = [
        sample
        for number, split in enumerate(SPLITS)
        for one in (film(50 * number), normal(200 + number))
        for sample in film_samples(one, split=split, media=media, anatomy_questions_per_image=3)
    ]
    return written(folder / "datasets", made)


def rows_of(dataset: Path) -> dict:
    return {s.id: (split, s) for split in SPLITS for s in iterate(load_split(dataset, split))}


def llava(folder: Path, rows: dict) -> dict:
    """Records by id, checked as LLaVA and LLaMA-Factory need them."""
    records = {}
    for split in SPLITS:
        for record in json.loads((folder / f"llava_{split}.json").read_text()):
            kind = "image" if "image" in record else "video"
            turns = record["conversations"]
            assert [turn["from"] for turn in turns] == ["human", "gpt"] * (len(turns) // 2)
            assert turns[0]["value"].startswith(f"<{kind}>\n")
            assert "".join(turn["value"] for turn in turns).count(f"<{kind}>") == 1
            assert (folder / record[kind]).is_file()
            assert record["id"] not in records
            records[record["id"]] = [turn["value"] for turn in turns]
            assert rows[record["id"]][0] == split
    return records


def easyr1(folder: Path, kind: str) -> dict:
    """Rows by id, read as EasyR1 does with `data.image_dir` set to the folder."""
    rows = {}
    for split in SPLITS:
        path = folder / f"easyr1_{kind}_{split}.parquet"
        table = load_dataset(
            "parquet", data_files=str(path), split="train", cache_dir=str(folder / "cache")
        )
        for row in table:
            assert set(row) == {"id", "problem", "answer", f"{kind}s"}
            first, *rest = row["problem"].split(f"<{kind}>")
            assert first == ""
            assert len(rest) == len(row[f"{kind}s"]) == 1
            assert (folder / row[f"{kind}s"][0]).is_file()
            rows[row["id"]] = {"question": rest[0], "answer": row["answer"]}
    return rows


@pytest.mark.parametrize("config", THOUGHT, ids=["plain", "thinking"])
@pytest.mark.parametrize("form", FILM_FORMATS)
def test_answers_about_films_come_back_as_the_truth(films, form, config, tmp_path):
    """Of all eight tasks, through every file, in every format."""
    write_views(stage(config, form), films, tmp_path)
    task, dialect = get_task(config), IMAGE_COORDINATE_FORMATS[form]
    rows = rows_of(films)
    records, asked = llava(tmp_path, rows), easyr1(tmp_path, "image")
    assert set(records) == set(asked) == set(rows)
    assert {sample.task for _, sample in rows.values()} == set(PARTS)
    for name, (_, sample) in rows.items():
        answer = asked[name]["answer"]
        assert records[name][-1] == answer
        judged = task.judge(answer, sample, dialect)
        assert judged.reason is None, (name, answer)
        truth = dict.fromkeys(map(tuple, true_boxes(sample)))
        if sample.task == "grounded_conversation":
            assert judged.answer.text.split("<box>")[0] == sample.target.split("<box>")[0]
        elif not sample.truth.get("boxes") and not sample.truth.get("findings"):
            assert task.measure(judged)["score"] == 1
        else:
            near = max(sample.media[0].width, sample.media[0].height) / 100  # of an edge
            assert len(judged.answer.boxes) == len(truth)
            for box in judged.answer.boxes:
                gaps = [max(abs(a - b) for a, b in zip(box, one, strict=True)) for one in truth]
                assert min(gaps) <= (1 if form == "qwen2_5_vl" else near)
        if PARTS[sample.task].writes_boxes:
            said = dialect.picture.convention(geometry(sample))
            assert said in records[name][0]
            assert said in asked[name]["question"]
        assert ("<think>" in answer) == (config.chain_of_thought and PARTS[sample.task].reasons)


def geometry(sample):
    from medtune.tasks.chest.boxes import geometry_of

    return geometry_of(sample)


def test_boxes_of_earlier_turns_and_of_questions_are_in_the_same_format(films, tmp_path):
    write_views(stage(THOUGHT[0], "llava_onevision"), films, tmp_path)
    texts = llava(tmp_path, rows_of(films))["made/image0/grounded_conversation"]
    convention = "Write a box as [x1, y1, x2, y2]; x goes up to 0.98 and y to 0.92 in fractions "
    assert texts == [
        f"<image>\nWhere is the nodule? {convention}of the image.",
        "At [0.2, 0.26, 0.25, 0.33].",
        "Is [0.2, 0.26, 0.25, 0.33] the only one?",
        "No, there is another at [0.73, 0.2, 0.78, 0.27].",
    ]
    (row,) = [
        row
        for row in pq.read_table(tmp_path / "easyr1_image_train.parquet").to_pylist()
        if row["id"] == "made/image0/grounded_conversation"
    ]
    assert row["problem"] == (
        f"<image>Question: Where is the nodule? {convention}of the image.\n"
        "Answer: At [0.2, 0.26, 0.25, 0.33].\n"
        "Question: Is [0.2, 0.26, 0.25, 0.33] the only one?"
    )


@pytest.mark.parametrize("reasoning", [False, True])
@pytest.mark.parametrize("form", [None, *VOLUME_FORMATS])
def test_answers_about_volumes_come_back_as_the_truth(dataset, form, reasoning, tmp_path):
    config = TaskConfig(chain_of_thought=reasoning)
    write_views(stage(config, form), dataset, tmp_path)
    task, dialect = get_task(config), IMAGE_COORDINATE_FORMATS[form or "qwen3_vl"]
    rows = rows_of(dataset)
    records, asked = llava(tmp_path, rows), easyr1(tmp_path, "video")
    assert set(records) == set(asked) == set(rows)
    unit = {"qwen2_5_vl": 0, "llava_onevision": 0.32}.get(form, 0.032)  # of 32 pixels
    for name, (_, sample) in rows.items():
        answer = asked[name]["answer"]
        assert [f"<video>\n{asked[name]['question']}", answer] == records[name]
        judged = task.judge(answer, sample, dialect)
        assert judged.reason is None, (name, answer)
        truth, read = sample.truth, judged.answer
        if truth["bbox_3d"] is None:
            assert read.box is None
        else:
            gaps = np.abs(np.subtract(read.box, truth["bbox_3d"]))
            assert gaps[[2, 5]].max() <= 0.5  # frames, whatever x and y are
            assert gaps.max() <= max(unit, 1)
            assert read.peak == truth["peak_slice"]
            assert read.ratio == pytest.approx(truth["tumor_ratio"], abs=5e-5)
    unit = {"llava_onevision": "y to 1.0 in fractions of the frame", "qwen2_5_vl": "in pixels"}
    assert all(unit.get(form, "1/1000 of the frame") in one["question"] for one in asked.values())


def test_the_original_loader_of_videos_finds_them_and_its_reward_is_full(dataset, tmp_path):
    """As `_load_single_dataset` and `__getitem__` of the brain-tumor fork of Seg-Zero do."""
    write_views(stage(TaskConfig(), trainers=["segzero"]), dataset, tmp_path)
    folder = str(tmp_path / "segzero_video")
    assert any(word in folder for word in ("video", "MRI", "BraTS"))  # else it asks about an image
    whole = load_from_disk(folder)
    assert list(whole) == list(SPLITS)
    rows, task = rows_of(dataset), get_task(TaskConfig())
    terms = task.terms("published_5_5", {})
    assert len(whole["train"])
    for split in whole:
        for row in whole[split]:
            assert set(row) == {"id", "problem", "solution", "video_path"}
            there, sample = rows.pop(row["id"])
            assert (there, row["problem"]) == (split, "whole tumor")
            assert len(decode(Path(folder) / row["video_path"])[0]) == sample.media[0].frames
            (answer,) = json.loads(row["solution"])
            assert answer == json.loads(task.target(sample, PIXELS))
            case = with_truth(sample, answer)  # the truth that its reward is given
            assert score_all(terms, [task.judge(row["solution"], case, PIXELS)])[0][0] == 1
    assert {sample.truth["bbox_3d"] for _, sample in rows.values()} == {None}


def test_seg_zero_opens_images_and_finds_boxes_and_points(films, tmp_path, capsys):
    """As its `__getitem__` and its reward `vision_reasoner` do."""
    write_views(stage(THOUGHT[1], "qwen3_vl"), films, tmp_path)
    whole = load_from_disk(str(tmp_path / "segzero_image"))
    rows, found = rows_of(films), Counter()
    for split in SPLITS:
        for row in whole[split]:
            (image,) = row["images"]
            assert image.size == (row["img_width"], row["img_height"]) == (532, 392)
            assert not np.asarray(image)[384:].any()  # added, so that nothing is resized
            _, sample = rows[row["id"]]
            found[sample.task] += 1
            named = sample.truth.get("phrase") or sample.truth["name"].lower()
            assert row["problem"].lower() == named.lower()
            places = json.loads(row["solution"])
            truth = list(dict.fromkeys(map(tuple, true_boxes(sample))))
            assert len(places) == len(truth)
            for place, box in zip(places, truth, strict=True):
                (x1, y1, x2, y2), (x, y) = place["bbox_2d"], place["point_2d"]
                assert max(abs(a - b) for a, b in zip((x1, y1, x2, y2), box, strict=True)) <= 1
                assert x1 <= x <= x2
                assert y1 <= y <= y2
    kinds = {"anatomical_grounding", "abnormality_grounding", "phrase_grounding"}
    assert set(found) == kinds
    said = capsys.readouterr().err
    for kind in set(PARTS) - kinds:
        count = sum(sample.task == kind for _, sample in rows.values())
        assert f"segzero: {count} samples of {kind} name nothing to find: left out" in said
    original = Image.open(films.parent / "media/f.png")
    row = whole["train"][0]["images"][0]
    assert np.array_equal(np.asarray(row)[:384, :512], np.asarray(original))


def test_the_real_processor_shows_images_of_the_view_as_they_are(films, tmp_path):
    folder = REAL_DATA / "tokenizer/qwen2_5_vl_processor"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    from transformers import AutoProcessor

    import medtune.training  # noqa: F401  (declares operators before transformers is imported)

    write_views(stage(THOUGHT[0], trainers=["segzero"]), films, tmp_path)
    row = load_from_disk(str(tmp_path / "segzero_image"))["train"][0]
    images = [image.convert("RGB") for image in row["images"]]
    processor = AutoProcessor.from_pretrained(folder).image_processor
    grid = processor(images, return_tensors="pt")["image_grid_thw"][0]
    assert grid.tolist() == [1, row["img_height"] // 14, row["img_width"] // 14]


def test_samples_are_repeated_as_mix_says_where_asked(films, tmp_path):
    mix = {"made/phrase_grounding": 2.5, "made/report_generation": 3}
    for name in ("a", "b"):
        write_views(stage(THOUGHT[0]), films, tmp_path / name, Repeat(mix, seed=1))
    write_views(stage(THOUGHT[0]), films, tmp_path / "once")

    def ids(name: str, split: str) -> Counter:
        records = json.loads((tmp_path / name / f"llava_{split}.json").read_text())
        rows = pq.read_table(tmp_path / name / f"easyr1_image_{split}.parquet")["id"].to_pylist()
        assert rows == [record["id"] for record in records]
        return Counter(rows)

    repeated, once = ids("a", "train"), ids("once", "train")
    assert set(once.values()) == {1}
    assert repeated["made/image0/report_generation"] == 3
    assert repeated["made/image0/phrase_grounding/0"] in (2, 3)
    assert repeated["made/image0/conversation"] == 1
    assert ids("a", "test") == ids("once", "test")
    assert files(tmp_path / "a") == files(tmp_path / "b")
    assert read_json(tmp_path / f"a/views.{MANIFEST}")["repeated"] == mix
    with pytest.raises(DataError, match="give another --output for repeated samples"):
        write_views(stage(THOUGHT[0]), films, films, Repeat(mix, seed=1))
    with pytest.raises(ConfigError, match="nothing would be repeated"):
        write_views(stage(THOUGHT[0]), films, tmp_path / "c", Repeat({}, seed=1))


def test_the_verb_repeats_as_the_file_says(dataset, tmp_path):
    config = {
        "experiment": "a",
        "sources": [{"name": "phantom", "kind": "brats2023_gli", "root": "a"}],
        "model": {"family": "qwen2_5_vl", "builder": "tiny"},
        "media": {"multiple_of": 16},
        "sft": {"dataset_weights": {"phantom": 2}},
        "views": {"trainers": ["llava"], "format": "llava_onevision"},
    }
    path, out = tmp_path / "config.yaml", tmp_path / "out"
    path.write_text(yaml.safe_dump(config))
    command = ["views", "--config", str(path), "--dataset", str(dataset), "--output", str(out)]
    done = CliRunner().invoke(app, [*command, "--repeat"])
    assert done.exit_code == 0, done.output
    counts = Counter(one["id"] for one in read_json(out / "llava_train.json"))
    assert set(counts.values()) == {2}
    assert set(counts) == {s.id for split, s in rows_of(dataset).values() if split == "train"}
    assert read_json(out / f"views.{MANIFEST}")["format"] == "llava_onevision"


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.endswith(MANIFEST)
    }


def test_earlier_views_go_and_the_data_set_stays(films, tmp_path):
    folder = tmp_path / "datasets"
    (tmp_path / "media").symlink_to(films.parent / "media")
    written(folder, [sample for _, sample in rows_of(films).values()])
    before = files(folder)
    write_views(stage(THOUGHT[0]), folder, folder)
    assert set(read_json(folder / f"views.{MANIFEST}")["files"]) == set(files(folder)) - set(before)
    write_views(stage(THOUGHT[0], trainers=["llava"]), folder, folder)
    added = {name: files(folder).pop(name) for name in set(files(folder)) - set(before)}
    assert set(added) == {f"llava_{split}.json" for split in SPLITS}
    assert {name: files(folder)[name] for name in before} == before


def test_parquet_is_written_in_groups_of_rows(films, tmp_path, monkeypatch):
    monkeypatch.setattr(views, "HELD", 4)
    write_views(stage(THOUGHT[0], trainers=["easyr1"]), films, tmp_path)
    file = pq.ParquetFile(tmp_path / "easyr1_image_train.parquet")
    sizes = [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)]
    assert len(sizes) > 2
    assert set(sizes[:-1]) == {4}


@pytest.mark.parametrize("place", ["prompt", "target", "turn"])
def test_a_text_that_loaders_would_take_for_an_image_is_refused(films, place, tmp_path):
    _, sample = rows_of(films)["made/image0/conversation"]
    text = "Look at this <image> again."
    change = {place: text} if place != "turn" else {"turns": (Turn(prompt=text, target="Yes."),)}
    folder = written(tmp_path / "datasets", [sample.model_copy(update=change)])
    with pytest.raises(DataError, match=r"image0/conversation: its text holds <image>"):
        write_views(stage(THOUGHT[0]), folder, tmp_path / "out")


def test_what_qwen_would_resize_and_what_easyr1_would_leave_out_is_said(dataset, tmp_path, capsys):
    write_views(stage(TaskConfig(), "qwen2_5_vl"), dataset, tmp_path)
    said = " ".join(capsys.readouterr().err.split())
    samples = [sample for _, sample in rows_of(dataset).values()]
    odd = sum(sample.media[0].frames % 2 for sample in samples)
    assert odd
    assert f"easyr1: {odd} samples have an odd number of frames" in said
    unfit = f"media of {len(samples)} samples have sides that are no multiples of 28"
    assert f"llava, easyr1: {unfit}" in said
    assert said.count("no multiples of 28") == 2


def test_formats_of_squared_images_and_of_films_alone_are_refused():
    from small_experiment import TINY

    from medtune.config.experiment import parse_config

    volumes = {
        "experiment": "a",
        "sources": [{"name": "a", "kind": "brats2021", "root": "a"}],
        "model": {"family": "qwen2_5_vl", "builder": "tiny", "tiny": TINY},
    }
    with pytest.raises(
        ConfigError, match=r"chexagent has no boxes of volumes\n  -> take one of qwen2"
    ):
        parse_config(volumes | {"views": {"format": "chexagent"}})
    with pytest.raises(ConfigError, match="gemma3"):
        parse_config(volumes | {"views": {"format": "gemma3"}})
