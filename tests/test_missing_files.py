"""Files that are not there: what leads on, what may be missing, and what counts as background."""

import csv
from pathlib import Path

import numpy as np
import pytest
from test_sources import NEW, OLD, own_table, put, release, write

from medtune.config.data import MediaConfig, SplitsConfig, TargetConfig, VerificationConfig
from medtune.media.convert import convert_case
from medtune.media.volume import brain_mask
from medtune.reporting.qc import write_finding_pages
from medtune.runtime.errors import DataError
from medtune.runtime.tables import read_rows
from medtune.sources import find_cases
from medtune.sources.check import check_case
from medtune.sources.chest.issues import Issues
from medtune.sources.left_out import left_out
from medtune.sources.verify import gather, verify_shard

RULES = VerificationConfig(min_brain_ml=0)
SHAPE = (12, 14, 10)
NAME = "BraTS-GLI-00001-000"


def brain(seed: int, background: float = 0.0) -> np.ndarray:
    """An image whose brain, of a constant background, does not reach the grid's edges."""
    values = np.full(SHAPE, background, np.float32)
    values[2:-2, 2:-2, 2:-2] = np.random.default_rng(seed).uniform(5, 9, (8, 10, 6))
    return values


def mask() -> np.ndarray:
    codes = np.zeros(SHAPE, np.uint8)
    codes[4:6, 4:6, 4:6] = 3
    return codes


def brats(folder: Path, suffixes=NEW, name: str = NAME) -> Path:
    for seed, suffix in enumerate(suffixes):
        write(folder / name / f"{name}{suffix}", mask() if "seg" in suffix else brain(seed))
    return folder / name


def findings(config, shown=("t2f", "t1c")):
    (case,) = find_cases([config])
    return case, check_case(case, config, RULES, shown).findings


def test_a_near_miss_is_named(tmp_path: Path):
    folder = brats(tmp_path)
    (folder / f"{NAME}-t2f.nii.gz").rename(folder / f"{NAME}_t2f.nii.gz")
    _, (found,) = findings(release("brats2023_gli", tmp_path))
    assert (found.code, found.severity) == ("modality-missing", "error")
    assert f"no `{NAME}-t2f.nii.gz` in {folder}" in found.found
    assert found.found.endswith(f"{NAME}_t2f.nii.gz; did you mean `{NAME}_t2f.nii.gz`?")


def test_the_misnamed_mask_of_2020_is_named(tmp_path: Path):
    name = "BraTS20_Training_355"
    folder = brats(tmp_path, OLD, name)
    (folder / f"{name}_seg.nii.gz").rename(folder / "W39_1998.09.19_Segm.nii")
    _, found = findings(release("brats2018", tmp_path))
    (lost,) = (one for one in found if one.code == "mask-missing")
    assert lost.found.endswith("did you mean `W39_1998.09.19_Segm.nii`?")


def test_what_is_not_shown_may_be_missing_and_that_is_said(tmp_path: Path):
    folder = brats(tmp_path)
    (folder / f"{NAME}-t1n.nii.gz").unlink()
    case, (found,) = findings(release("brats2023_gli", tmp_path))
    assert (found.code, found.severity) == ("modality-missing", "warning")
    assert "the brain is taken from t1c, t2w, t2f" in found.remedy
    media = MediaConfig(modalities=["t2f", "t1c"], layout="row", multiple_of=2)
    converted = convert_case(case, TargetConfig(), media, tmp_path / "media")
    assert (converted.media.width, converted.media.height) == (2 * 12, 14)
    _, (found,) = findings(release("brats2023_gli", tmp_path), ["t1n"])
    assert found.severity == "error"
    other = media.model_copy(update={"modalities": ["t1n"]})
    with pytest.raises(DataError, match="has no t1n"):
        convert_case(case, TargetConfig(), other, tmp_path / "media")


@pytest.mark.parametrize("wrong", ["link", "folder"])
def test_a_link_to_nowhere_or_a_folder_is_an_error_even_of_what_is_not_shown(tmp_path, wrong):
    path = brats(tmp_path) / f"{NAME}-t1n.nii.gz"
    path.unlink()
    path.symlink_to("/nowhere/x.nii.gz") if wrong == "link" else path.mkdir()
    _, (found,) = findings(release("brats2023_gli", tmp_path))
    assert found.severity == "error"
    assert wrong in found.found


def row(**changes) -> dict[str, str]:
    return {"case_id": "1", "patient_id": "p", "t1c": "a b.nii.gz", "mask": "m.nii.gz"} | changes


def table(root: Path, values: dict[str, str], outside: float = 0.0, **changes):
    write(root / "a b.nii.gz", brain(1, outside))
    write(root / "f.nii.gz", brain(2, outside))
    write(root / "m.nii.gz", mask())
    write(root / "brain.nii.gz", (brain(1) > 0).astype(np.uint8))
    return own_table(root, [values], **{"labels": {3: "ET"}, "masks": "required"} | changes)


def test_an_empty_cell_is_a_missing_modality_and_a_wrong_path_an_error(tmp_path: Path):
    case, (found,) = findings(table(tmp_path, row(t2f="")), ["t1c"])
    assert (found.code, found.severity) == ("modality-missing", "warning")
    assert set(case.images) == {"t1c"}
    _, (found,) = findings(table(tmp_path, row(t2f="F.nii.gz")), ["t1c"])
    assert found.severity == "error"
    assert "did you mean `f.nii.gz`?" in found.found
    _, (found,) = findings(table(tmp_path, row(mask="M.nii.gz"), masks="optional"), ["t1c"])
    assert (found.code, found.severity) == ("mask-missing", "error")
    assert "did you mean `m.nii.gz`?" in found.found


def test_paths_are_read_as_their_writers_meant_them(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for path in (f"{tmp_path}/a b.nii.gz", "~/a b.nii.gz", ".\\a b.nii.gz", "../x/a b.nii.gz"):
        (tmp_path / "x").mkdir(exist_ok=True)
        config = table(tmp_path / "x", row(t1c=path))
        write(tmp_path / "a b.nii.gz", brain(1))
        assert findings(config, ["t1c"])[1] == [], path
    assert release("brats2018", Path("~/x")).root == f"{tmp_path}/x"


def test_a_background_that_is_not_zero_is_named_with_its_key(tmp_path: Path):
    """Z-scored voxels: the whole grid counted as brain, so that the ratio was wrong."""
    _, (found,) = findings(table(tmp_path, row(), -1.25), ["t1c"])
    assert found.code == "background-not-zero"
    assert "all corners of the grid hold one value: -1.25 in t1c" in found.found
    assert "`background: -1.25`" in found.remedy
    media = MediaConfig(modalities=["t1c"], layout="single", multiple_of=2, crop_to_brain=True)
    expected = 8 / (8 * 10 * 6)
    for values, changes in (
        (row(), {"background": -1.25}),
        (row(), {"background": "corners"}),
        (row(brain_mask="brain.nii.gz"), {}),
    ):
        case, found = findings(table(tmp_path, values, -1.25, **changes), ["t1c"])
        assert found == []
        converted = convert_case(case, TargetConfig(), media, tmp_path / "media")
        assert converted.truth.tumor_ratio == pytest.approx(expected)
        assert converted.geometry.crop == (2, 2, 2, 10, 12, 8)


# Where an image is NaN: all around on one side with two corners, on a plane with none, everywhere.
NAN = {
    "a side": np.s_[:, :, :2],
    "no corner": np.s_[0:2, 3:-3],
    "all around": np.s_[brain(1) == 0],
}


@pytest.mark.parametrize("where", NAN.values(), ids=NAN.keys())
@pytest.mark.parametrize("background", ["corners", -1.25])
def test_nan_around_z_scored_voxels_is_background_too(tmp_path: Path, where, background):
    """Verification and conversion take the brain that the same case stored with 0 would have."""
    media = MediaConfig(modalities=["t1c"], layout="single", multiple_of=2, crop_to_brain=True)
    results = []
    for folder, value in (("z", -1.25), ("zero", 0.0)):
        root = tmp_path / folder
        values, second = brain(1, value), brain(2, value)
        values[5, 6, 5] = second[5, 6, 5] = 0 if value else 5  # 0 is a gray value where z-scored
        if value:
            values[where] = np.nan
        root.mkdir()
        config = table(root, row(t2f="f.nii.gz"), background=background if value else 0)
        write(root / "a b.nii.gz", values)
        write(root / "f.nii.gz", second)
        case, found = findings(config, ["t1c"])
        assert [one.code for one in found] == ["nan-background"] * (value != 0)
        converted = convert_case(case, TargetConfig(), media, root / "media")
        results.append((converted.truth, converted.geometry, converted.meta["volume_ml"]))
        spots = mask()
        spots[0, 0, 0] = 3
        write(root / "m.nii.gz", spots)
        (outside,) = (one for one in findings(config)[1] if one.code.startswith("mask"))
        results[-1] += (outside.code, outside.found)
    assert results[0] == results[1]


def test_a_brain_mask_decides_what_each_image_must_show(tmp_path: Path):
    """Constant, NaN or half empty within the mask is reported, whatever lies around it."""
    inside = brain(1) > 0
    spoiled = {
        "image-constant": np.where(inside, 7, brain(3, 4)),
        "image-not-finite": np.where(inside & (brain(1) > 6), brain(1), np.nan),
        "modality-partly-empty": np.where(np.arange(SHAPE[0])[:, None, None] < 6, brain(1), 0),
    }
    for code, values in spoiled.items():
        root = tmp_path / code
        root.mkdir()
        config = table(root, row(t2f="f.nii.gz", brain_mask="brain.nii.gz"))
        write(root / "a b.nii.gz", values.astype(np.float32))
        _, found = findings(config, ["t1c"])
        assert [one.code for one in found] == [code]


def test_images_of_different_backgrounds_are_told_to_use_their_corners(tmp_path: Path):
    config = table(tmp_path, row(t2f="f.nii.gz"), -1024)
    write(tmp_path / "f.nii.gz", brain(2, -2))
    _, (found,) = findings(config, ["t1c"])
    assert "-1024 in t1c, -2 in t2f" in found.found
    assert "`background: corners`" in found.remedy


def test_what_is_no_background_is_an_error(tmp_path: Path):
    config = table(tmp_path, row(brain_mask="Brain.nii.gz"))
    _, (found,) = findings(config, ["t1c"])
    assert found.code == "brain-mask-missing"
    config = table(tmp_path, row(), background="corners")
    values = brain(1)
    values[0, 0, 0] = 3
    write(tmp_path / "a b.nii.gz", values)
    _, (found,) = findings(config, ["t1c"])
    assert found.code == "background-unknown"
    assert "the corners of t1c hold 0.0 to 3.0" in found.found
    config = table(tmp_path, row(brain_mask="brain.nii.gz"))
    write(tmp_path / "brain.nii.gz", np.ones((5, 5, 5), np.uint8))
    _, (found,) = findings(config, ["t1c"])
    assert (found.code, found.found[:10]) == ("shape-mismatch", "brain mask")


def test_background_is_compared_as_voxels_are_stored():
    values = brain(1, np.float32(-0.1))
    assert brain_mask({"a": values}, -0.1).sum() == 8 * 10 * 6
    assert brain_mask({"a": values.astype(np.int16)}, 0.5).all()


def test_what_is_there_twice_names_both_places_and_its_remedy(tmp_path: Path):
    config = own_table(tmp_path, [row(), row()])
    with pytest.raises(DataError, match=r"cases.csv, line 2 and .*cases.csv, line 3\n.*rows"):
        find_cases([config])
    for folder in ("first", "second"):
        put(tmp_path / folder / NAME, NEW)
    with pytest.raises(DataError, match=rf"first/{NAME}/.* and .*second/{NAME}/(?s:.*)copies"):
        find_cases([release("brats2023_gli", tmp_path)])


def test_findings_are_for_people_also_where_verification_fails(tmp_path: Path):
    folder = brats(tmp_path / "data")
    (folder / f"{NAME}-t2f.nii.gz").rename(folder / "=t2f, or so.nii.gz")
    config = release("brats2023_gli", tmp_path / "data")
    brats(tmp_path / "data", name=f"{NAME} copy")
    cases, part = find_cases([config]), tmp_path / "part.parquet"
    rest = left_out([config], cases)
    verify_shard(cases, [config], RULES, part, ["t2f"])
    table, summary = tmp_path / "out/findings.parquet", tmp_path / "summary.json"
    with pytest.raises(DataError, match=r"out/findings.csv, .*out/qc/a.html"):
        gather(
            [part],
            SplitsConfig(),
            RULES,
            table,
            summary,
            "WT",
            rest,
            lambda *known: write_finding_pages(*known, tmp_path / "out/qc"),
        )
    assert not summary.exists()
    with table.with_suffix(".csv").open(newline="") as file:
        source, listed, copy = csv.DictReader(file)
    assert [source, listed, copy] == read_rows(table)
    assert (source["code"], source["case"]) == ("label-map", "a")
    assert (copy["code"], copy["case"]) == ("folder-not-taken", f"a/{NAME} copy")
    page = (tmp_path / "out/qc/a.html").read_text()
    assert all(one["code"] in page[page.index('id="findings"') :] for one in (source, listed, copy))
    assert "=t2f, or so.nii.gz" in page
    assert "there are no pictures" in page


def test_the_findings_of_films_have_the_same_table(tmp_path: Path):
    with Issues(tmp_path / "findings.parquet") as found:
        found.report("box-invalid", "a/1", '=x, "y"\nz', "-", "correct it")
        found.warn("box-clipped", "a/2", "b", "c", "d")
    with (tmp_path / "findings.csv").open(newline="") as file:
        first, second = csv.DictReader(file)
    assert (first["found"], first["expected"]) == ('\'=x, "y"\nz', "'-")
    assert second == read_rows(tmp_path / "findings.parquet")[1]
