"""NaN outside the brain, images that are empty in part or flat, and pixels that are not square."""

from pathlib import Path

import numpy as np
import pytest
from made_volumes import AFFINE, NAME, brats, findings, image_findings, images, save

from medtune.config.data import MediaConfig, TargetConfig
from medtune.media.convert import convert_case
from medtune.media.shard import say_stretched
from medtune.media.volume import is_enclosed

MEDIA = MediaConfig(crop_to_brain=True)


def nan_where_zero(values):
    return np.where(values == 0, np.nan, values).astype(np.float32)


def nan_at(*index):
    def change(values):
        values = values.astype(np.float32)
        values[index] = np.nan
        return values

    return change


def codes(case) -> dict[str, str]:
    return {finding.code: finding.severity for finding in findings(case)}


def test_nan_around_the_brain_is_zero_for_verification_and_conversion(tmp_path: Path):
    sound = brats(tmp_path / "sound")
    expected = convert_case(sound, TargetConfig(), MEDIA, tmp_path / "sound")
    odd = brats(tmp_path / "odd", change=dict.fromkeys(sound.images, nan_where_zero))
    found = findings(odd)
    assert {(f.code, f.severity) for f in found} == {("nan-background", "warning")}
    count = int((images()[0]["t1n"] == 0).sum())
    assert found[0].found == f"{count} voxels of t1n are NaN, none inside the brain"
    record = convert_case(odd, TargetConfig(), MEDIA, tmp_path / "odd")
    assert (record.truth, record.geometry) == (expected.truth, expected.geometry)
    assert record.media.sha256 == expected.media.sha256


def test_nan_counts_as_background_only_where_no_image_shows_brain(tmp_path: Path):
    middle = (10, 12, 6)
    stray = brats(tmp_path / "stray", change={"t2w": nan_at(0, 0, 0)})
    assert codes(stray) == {"nan-background": "warning"}
    one = brats(tmp_path / "one", change={"t2w": nan_at(*middle)})
    assert codes(one) == {"image-not-finite": "error"}
    hole = brats(tmp_path / "hole", change=dict.fromkeys(stray.images, nan_at(*middle)))
    assert codes(hole) == {"image-not-finite": "error"}  # enclosed by brain in every image
    above = brats(tmp_path / "above", change={"t2w": nan_at(..., slice(7, None))})
    assert codes(above)["image-not-finite"] == "error"
    infinite = brats(tmp_path / "inf", change={"t2w": lambda v: np.where(v == 0, -np.inf, v)})
    assert codes(infinite)["image-not-finite"] == "error"
    mask = brats(tmp_path / "mask", change={"seg": nan_at(0, 0, 0)})
    assert codes(mask) == {"mask-labels": "error"}


def test_a_hole_is_what_faces_do_not_connect_to_the_border():
    brain = np.zeros((5, 5, 5), dtype=bool)
    brain[1:4, 1:4, 1:4] = True
    brain[2, 2, 2] = False
    hole, corner = (np.zeros_like(brain) for _ in range(2))
    hole[2, 2, 2] = corner[0, 0, 0] = True
    assert is_enclosed(hole, brain)
    assert not is_enclosed(corner, brain)
    assert is_enclosed(corner | hole, brain)
    brain[2, 2, 3] = False
    assert not is_enclosed(hole, brain)


def without(*part):
    def change(values):
        values = values.copy()
        values[part] = 0
        return values

    return change


PARTS = {
    "top-bottom": (..., slice(0, 6)),
    "left-right": (slice(0, 10),),
    "front-back": (slice(None), slice(12, None)),
}


@pytest.mark.parametrize("axis", PARTS)
def test_an_image_of_which_half_is_empty_is_noticed(tmp_path: Path, axis):
    half = brats(tmp_path / "half", change={"t2w": without(*PARTS[axis])})
    (finding,) = findings(half)
    assert (finding.code, finding.severity) == ("modality-partly-empty", "warning")
    assert finding.found.startswith("t2w is empty in ")
    assert f"planes ({axis})" in finding.found
    alike = brats(tmp_path / "all", change=dict.fromkeys(half.images, without(*PARTS[axis])))
    assert "modality-partly-empty" not in codes(alike)
    edge = brats(tmp_path / "edge", change={"t2w": without(..., slice(0, 2))})
    assert codes(edge) == {}


def test_gray_values_that_float32_cannot_tell_apart_are_an_error(tmp_path: Path):
    values = images()[0]["t1c"]
    shown = values != 0
    for kind, offset in ((np.int64, 2**40), (np.float64, 1e9), (np.int32, 2**30)):
        path = save(tmp_path / "a.nii", (values + offset * shown).astype(kind))
        assert [f.code for f in image_findings(path)] == ["image-imprecise"]
    for changed in (values + 2**14 * shown, values * 1e-9, values * 1e9, -values.astype(float)):
        path = save(tmp_path / "a.nii", np.asarray(changed, np.float32))
        assert image_findings(path) == []


def test_pixels_far_from_square_are_noticed_as_stored_and_as_shown(tmp_path: Path, capsys):
    """A sagittal scan: slices of 20 mm from left to right, tiles that even it out or do not."""
    made, mask = images((9, 24, 20))
    affine = np.diag([-20.0, -7, 8, 1])
    affine[:3, 3] = -affine[:3, :3] @ (np.array(mask.shape) - 1) / 2
    case = brats(tmp_path)
    for name, values in {**made, "seg": mask}.items():
        save(tmp_path / NAME / f"{NAME}-{name}.nii.gz", values, affine=affine)
    (finding,) = findings(case)
    assert (finding.code, finding.severity) == ("pixels-not-square", "warning")
    assert "20 x 7 mm" in finding.found
    assert "180 : 168" in finding.remedy
    for size, is_odd in (((56, 112), True), ((180, 168), False), (None, False)):
        media = MediaConfig(tile_size=size, modalities=["t1c"], layout="single", multiple_of=2)
        media = media if size else media.model_copy(update={"multiple_of": 28})
        say_stretched([convert_case(case, TargetConfig(), media, tmp_path)])
        said = " ".join(capsys.readouterr().err.split())
        assert ("1 of 1 cases are shown with pixels far from square" in said) == is_odd, said
    assert AFFINE[0, 0] == AFFINE[1, 1]
    assert codes(brats(tmp_path / "square")) == {}
