"""One case by hand: what a model says lands on the same tissue in pixels, voxels and world."""

import itertools
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import yaml
from conftest import MEDIA, REAL_DATA, TINY, phantom_source
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from PIL import Image
from training_stages import TASK, make_base

from medtune import api
from medtune.cli.main import app
from medtune.config.data import TaskConfig
from medtune.config.experiment import Config, parse_config
from medtune.config.stages import PredictStage, load_stage, stage_json
from medtune.dataset.annotate import make_sample
from medtune.evaluation import predict
from medtune.evaluation.show import COLORS
from medtune.geometry.volume import to_lps
from medtune.media.convert import convert_case
from medtune.media.overlay import TRUTH_COLOR
from medtune.media.video import decode
from medtune.models.coordinate_format import COORDINATE_FORMATS
from medtune.records.case import Case
from medtune.records.sample import iterate, load_split
from medtune.runtime.errors import ConfigError, DataError, ModelError, VisionError
from medtune.runtime.files import manifest_of, sha256, write_manifest
from medtune.runtime.tables import read_rows, write_rows
from medtune.sources import find_cases

BRATS = REAL_DATA / "brain/brats2018"
MSD = REAL_DATA / "brain/msd/Task01_BrainTumour"
real = pytest.mark.skipif(not BRATS.is_dir(), reason=f"real cases are not at {BRATS}")
ORIENTATIONS = ("LPS", "RAS", "PIR", "SLA")


def config(family: str, **media) -> Config:
    shown = {"modalities": ["t2f", "t1c", "t2w"], "layout": "rgb", "multiple_of": 16}
    return parse_config(
        {
            "experiment": "hand",
            "sources": [{"name": "phantom", "kind": "brats2023_gli", "root": "nowhere"}],
            "verification": {"min_brain_ml": 1},
            "media": shown | media,
            "model": {"family": family, "builder": "tiny", "tiny": TINY.model_dump()},
            "evaluation": {"max_new_tokens": 40},
        }
    )


def turned(case: Case, codes: str, folder: Path) -> Path:
    """Write a case's files in another voxel order, under their names; return its folder."""
    target = folder / codes / case.case_id
    target.mkdir(parents=True)
    for name in [*(image.path for image in case.images.values()), case.mask]:
        image = nib.load(name)
        turn = ornt_transform(io_orientation(image.affine), axcodes2ornt(codes))
        other = image.as_reoriented(turn)
        assert "".join(nib.aff2axcodes(other.affine)) == codes
        nib.save(other, target / Path(name).name.removesuffix(".gz"))
    return target


def the_mask(folder: Path) -> nib.Nifti1Image:
    (path,) = folder.glob("*seg.nii")
    return nib.load(path)


def voxels(path: str) -> tuple[np.ndarray, np.ndarray]:
    image = nib.load(path)
    return np.asarray(image.dataobj), image.affine


def tight(mask: np.ndarray) -> list[int]:
    """The box around a mask, in plain NumPy and the file's own voxel order."""
    places = np.argwhere(mask)
    return [*places.min(axis=0).tolist(), *(places.max(axis=0) + 1).tolist()]


@pytest.fixture
def says(monkeypatch):
    """Make any model write a text."""

    def say(text: str) -> None:
        class Engine:
            def __init__(self, *_) -> None: ...

            def answer(self, asked, _):
                return [{"text": text, "tokens": 1, "ended": True} for _ in asked]

        monkeypatch.setattr(predict, "TransformersEngine", Engine)

    return say


def truth_text(case: Case, settings: Config, folder: Path) -> str:
    converted = convert_case(case, settings.task, settings.media, folder)
    sample = make_sample(converted, "test", settings.task, ".")
    return TASK.target(sample, COORDINATE_FORMATS[settings.model.family])


def check_places(folder: Path, written: Path, off: int) -> None:
    """Compare an answer that says the truth with the mask in the file's own voxel order.

    Args:
        folder: The case's, with its mask.
        written: What was written of the answer.
        off: Voxels that an edge may be away, by the dialect's rounding.
    """
    said = json.loads((written / "answer.json").read_text())
    image = the_mask(folder)
    mask = np.asarray(image.dataobj) > 0
    expected = tight(mask)
    found = said["source"]["voxels"]
    assert np.abs(np.array(found) - expected).max() <= off
    assert np.abs(np.array(said["source"]["box"]) - expected).max() <= off + 1e-6

    box = nib.load(written / "box.nii.gz")
    assert box.shape == image.shape
    assert np.allclose(box.affine, image.affine)
    assert tight(np.asarray(box.dataobj) > 0) == found

    low, high = (np.array(said["source"]["box"][part]) for part in (slice(3), slice(3, 6)))
    edges = np.array(list(itertools.product(*zip(low - 0.5, high - 0.5, strict=True))))
    corners = nib.affines.apply_affine(image.affine, edges)
    assert np.allclose(corners.min(axis=0), said["world_mm"]["low"], atol=1e-3)
    assert np.allclose(corners.max(axis=0), said["world_mm"]["high"], atol=1e-3)
    assert np.allclose(corners.mean(axis=0), said["world_mm"]["center"], atol=1e-3)

    i1, j1, k1, i2, j2, k2 = said["source"]["peak"]
    up = next(n for n, code in enumerate(nib.aff2axcodes(image.affine)) if code in "SI")
    areas = mask.sum(axis=tuple(axis for axis in range(3) if axis != up))
    assert (i2 - i1, j2 - j1, k2 - k1)[up] == 1
    assert mask[i1:i2, j1:j2, k1:k2].sum() == areas.max()


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_the_truth_comes_back_to_the_voxels_it_came_from(
    phantom_root, family, base, tmp_path, says, codes
):
    cases = find_cases([phantom_source(phantom_root)])
    case = next(c for c in cases if np.asarray(nib.load(c.mask).dataobj).any())
    width, height = to_lps(*voxels(case.mask)).shape[:2]
    settings = config(family, tile_size=[16 * width, 16 * height])  # voxels are whole pixels
    folder = turned(case, codes, tmp_path)
    says(truth_text(case, settings, tmp_path / "video"))
    chosen = api.find_case(folder, settings.media.modalities)
    assert chosen.mask is None
    (answer,) = api.predict_cases(settings, base, [chosen])
    answer.write(tmp_path / "answer")
    check_places(folder, tmp_path / "answer", off=0 if family == "qwen2_5_vl" else 1)
    with Image.open(tmp_path / "answer/overlay.png") as picture:
        assert (np.asarray(picture) == [0xE0, 0x7B, 0x39]).all(axis=-1).sum() > 100


@real
@pytest.mark.parametrize("codes", ORIENTATIONS)
@pytest.mark.parametrize("family", ["qwen2_5_vl"], indirect=True)
def test_a_real_case_comes_back_to_its_voxels(family, base, tmp_path, says, codes):
    (case,) = find_cases([phantom_source(BRATS).model_copy(update={"kind": "brats2018"})])
    case = case.model_copy(update={"images": {"t2f": case.images["t2f"]}})
    media = {"modalities": ["t2f"], "layout": "single", "tile_size": [240, 240], "stride": 1}
    settings = config(family, **media)
    folder = turned(case, codes, tmp_path)
    says(truth_text(case, settings, tmp_path / "video"))
    (answer,) = api.predict_cases(settings, base, [api.find_case(folder, ["t2f"])])
    answer.write(tmp_path / "answer")
    check_places(folder, tmp_path / "answer", off=0)


@real
def test_layouts_are_told_by_their_files():
    wanted = ["t1c", "t1n", "t2w", "t2f"]
    case = api.find_case(BRATS / "Brats18_2013_2_1", wanted)
    assert (case.case_id, set(case.images)) == ("Brats18_2013_2_1", set(wanted))
    packed = api.find_case(MSD, wanted)
    assert {image.channel for image in packed.images.values()} == {0, 1, 2, 3}


def test_a_folder_of_several_cases_wants_a_name(phantom_root, tmp_path):
    cases = find_cases([phantom_source(phantom_root)])
    with pytest.raises(DataError, match=rf"expected one case with t2f, found {len(cases)}: BraTS"):
        api.find_case(phantom_root, ["t2f"])
    assert api.find_case(phantom_root, ["t2f"], cases[3].case_id).images == cases[3].images
    with pytest.raises(DataError, match="expected one case with pet, found 0"):
        api.find_case(phantom_root, ["pet"])
    images = cases[0].images
    (tmp_path / "mine.csv").write_text(
        f"case_id,patient_id,t2f,age\none,1,{images['t2f'].path},54\ntwo,2,{images['t1c'].path},\n"
    )
    (tmp_path / "survival.csv").write_text("Brats20ID,Age\none,54\n")
    assert api.find_case(tmp_path, ["t2f"], "two").images["t2f"].path == images["t1c"].path


@pytest.fixture
def cases(phantom_root):
    return find_cases([phantom_source(phantom_root)])


@pytest.mark.parametrize("family", ["qwen2_5_vl"], indirect=True)
def test_an_answer_that_is_invalid_or_finds_nothing(family, base, cases, tmp_path, says):
    settings = config(family, tile_size=[32, 32])
    chosen = cases[0].model_copy(update={"mask": None})
    says("nothing to see")
    (answer,) = api.predict_cases(settings, base, [chosen])
    answer.write(tmp_path / "answer")
    said = json.loads((tmp_path / "answer/answer.json").read_text())
    assert (said["valid"], said["media"], said["source"]) == (False, None, None)
    assert "no JSON" in said["reason"]
    assert not (tmp_path / "answer/box.nii.gz").exists()
    with pytest.raises(DataError, match="has no valid answer"):
        answer.mask()

    says('{"bbox_3d": null, "peak_slice": null, "tumor_ratio": 0}')
    (answer,) = api.predict_cases(settings, base, [chosen])
    answer.write(tmp_path / "answer")
    said = json.loads((tmp_path / "answer/answer.json").read_text())
    assert said["valid"]
    assert said["media"]["box"] is said["source"] is said["world_mm"] is None
    assert not np.asarray(nib.load(tmp_path / "answer/box.nii.gz").dataobj).any()


@pytest.mark.parametrize("family", ["qwen2_5_vl"], indirect=True)
def test_what_does_not_fit_is_refused(family, trained, dataset, cases, tmp_path):
    chosen = cases[0].model_copy(update={"mask": None})
    with pytest.raises(VisionError, match=r"fps: is 4\.0, but in training it was 2\.0"):
        list(api.predict_cases(config(family, tile_size=[32, 32], fps=4), trained, [chosen]))
    make_base("qwen3_vl", dataset, tmp_path / "other")
    with pytest.raises(ModelError, match="expected qwen2_5_vl"):
        list(api.predict_cases(config(family), tmp_path / "other", [chosen]))

    image = nib.load(chosen.images["t1c"].path)
    affine = image.affine.copy()
    affine[0, 3] += 5
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), affine), tmp_path / "t1c.nii")
    files = {name: Path(one.path) for name, one in chosen.images.items()}
    shifted = api.case_of_images(files | {"t1c": tmp_path / "t1c.nii"})
    with pytest.raises(DataError, match=r"affine-mismatch.*5\.00 mm away"):
        list(api.predict_cases(config(family), trained, [shifted]))
    lacking = api.case_of_images({name: path for name, path in files.items() if name != "t2w"})
    with pytest.raises(DataError, match="t2w: no file is named"):
        list(api.predict_cases(config(family), trained, [lacking]))


@pytest.mark.parametrize("family", ["qwen2_5_vl"], indirect=True)
def test_by_hand_a_model_sees_and_says_what_it_does_in_the_experiment(
    family, trained, dataset, cases, tmp_path
):
    settings = config(family, tile_size=[32, 32], crop_to_brain=True)
    assert settings.media.model_dump() == MEDIA.model_dump()
    stage = load_stage(PredictStage, stage_json(settings, "predict"))
    output = tmp_path / "sft/0000.parquet"
    predict.predict(stage, trained, dataset, ["greedy"], output, tmp_path / "cache")
    rows = {row["id"]: row for row in read_rows(output)}
    test = {sample.case_id: sample for sample in iterate(load_split(dataset, "test"))}
    chosen = [case for case in cases if case.case_id in test]
    for case, answer in zip(chosen, api.predict_cases(settings, trained, chosen), strict=True):
        sample = test[case.case_id]
        frames, _ = decode(dataset / sample.media[0].path)
        assert (answer.frames == frames).all()
        row = rows[sample.id]
        assert (answer.text, answer.finish) == (row["text"], row["finish"])
        assert answer.geometry.model_dump(mode="json") == sample.geometry


@pytest.mark.parametrize("family", ["qwen2_5_vl"], indirect=True)
def test_a_folder_and_its_files_give_the_same_bytes(family, base, cases, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config(family, tile_size=[32, 32]).model_dump(mode="json")))
    common = ["--config", str(path), "--model", str(base), "--output"]
    case = cases[0]
    pairs = [f"--image={name}={image.path}" for name, image in case.images.items()]
    folder = str(Path(case.mask).parent)
    app(["predict-case", *common, str(tmp_path / "a"), folder], standalone_mode=False)
    given = [*pairs, "--case-id", case.case_id]
    app(["predict-case", *common, str(tmp_path / "b"), *given], standalone_mode=False)
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files[:1] == ["answer.json"]
    assert "overlay.png" in files
    assert all(sha256(tmp_path / "a" / name) == sha256(tmp_path / "b" / name) for name in files)
    for wrong in ([], [folder, *pairs], ["--image", "t2f"]):
        with pytest.raises(ConfigError):
            app(["predict-case", *common, str(tmp_path / "c"), *wrong], standalone_mode=False)


def test_show_draws_truth_and_answers(dataset, tmp_path, capsys):
    results = tmp_path / "results"
    results.mkdir()
    (results / "datasets").symlink_to(dataset)
    sample = next(s for s in iterate(load_split(dataset, "test")) if s.truth["bbox_3d"] is not None)
    z1, z2 = sample.truth["bbox_3d"][2::3]
    moved = {"bbox_3d": [0, 0, z1, 8, 8, z2], "peak_slice": int(z1), "tumor_ratio": 0.1}
    config = {"task": TaskConfig().model_dump()}
    for model, text in (("sft", json.dumps(moved)), ("grpo", "junk")):
        table = results / f"eval/predictions/{model}/0000.parquet"
        row = {"id": sample.id, "mode": "greedy", "text": text, "family": "qwen2_5_vl"}
        write_rows(table, [row])
        write_manifest(manifest_of(table), [table], config, stage="predict")
    output = tmp_path / "case.png"
    app(["show", str(results), sample.case_id, "--output", str(output)], standalone_mode=False)
    said = capsys.readouterr().err
    for words in (json.dumps(moved), "junk  not valid: ", "truth (green): "):
        assert words in said
    with Image.open(output) as picture:
        pixels = np.asarray(picture)
    for color in (TRUTH_COLOR, COLORS[1]):  # sft comes after grpo
        rgb = [int(color[n : n + 2], 16) for n in (1, 3, 5)]
        assert (pixels == rgb).all(axis=-1).sum() > 100
    with pytest.raises(DataError, match="names 0 samples of the test split"):
        app(["show", str(results), "nobody"], standalone_mode=False)
