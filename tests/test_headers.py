"""What one header says twice must agree, or the source says which one holds."""

from pathlib import Path

import nibabel as nib
import nrrd
import numpy as np
import pytest
import SimpleITK
from made_volumes import (
    AFFINE,
    brats,
    config,
    corners,
    findings,
    image_findings,
    images,
    save,
    set_rows,
)
from scipy.spatial.transform import Rotation

from medtune.config.data import MediaConfig, SourceConfig, TargetConfig, VerificationConfig
from medtune.evaluation.find_case import case_of_images, find_case
from medtune.media.convert import convert_case, read_target
from medtune.media.headers import contradictions
from medtune.media.read import VolumeReader
from medtune.records.case import Volume
from medtune.sources import find_cases
from medtune.sources.check import check_case

FLIP = np.diag([-1.0, 1, 1, 1]) @ AFFINE
UNIT = np.diag([-1.0, -1, 1, 1])
HALF = AFFINE + np.array([[0, 0, 0, 3.5]] + [[0] * 4] * 3)
SHEARED = AFFINE + np.array([[0, 0.04, 0, 0]] + [[0] * 4] * 3)
MEDIA = MediaConfig(modalities=["t1c"], layout="single")


def no_qform(header) -> None:
    header["qform_code"] = 0


def both(*steps):
    return lambda header: [step(header) for step in steps]


def put(field, value):
    return lambda header: header.__setitem__(field, value)


def put_pixdim(*values):
    return lambda header: header["pixdim"].__setitem__(slice(0, len(values)), values)


# Name -> what is done to a header whose forms agree, and what the finding must say.
CONTRADICTIONS = {
    "unit steps in the sform": (lambda h: set_rows(h, UNIT), ["1 x 1 x 1 mm", "7 x 7 x 11 mm"]),
    "unit steps beside pixdim": (
        both(lambda h: set_rows(h, UNIT), no_qform),
        ["sform: 1 x 1 x 1 mm (1 mm3", "pixdim: 7 x 7 x 11 mm (539 mm3"],
    ),
    "mirrored": (lambda h: set_rows(h, FLIP), ["stored as RPS", "stored as LPS"]),
    "half a voxel": (lambda h: set_rows(h, HALF), ["first voxel at 70", "first voxel at 66.5"]),
    "sheared": (lambda h: set_rows(h, SHEARED), ["0.92 mm apart"]),
    "axes of pixdim exchanged": (both(put_pixdim(1, 7, 11, 7), no_qform), ["7 x 11 x 7 mm"]),
    "qfac of the other sign": (put_pixdim(-1), ["stored as LPI", "stored as LPS"]),
    "qfac 0 where it is -1": (
        both(lambda h: set_rows(h, AFFINE @ np.diag([1, 1, -1, 1])), put_pixdim(0)),
        ["stored as LPI", "stored as LPS"],
    ),
    "sform of zeros": (lambda h: set_rows(h, np.zeros((3, 4))), ["sform: its rows are [[0.0"]),
    "sform is no number": (lambda h: set_rows(h, np.full((3, 4), np.nan)), ["its rows are [[nan"]),
    "pixdim 0": (put_pixdim(1, 0, 0, 0), ["pixdim has the voxel sizes [0.0, 0.0, 0.0]"]),
    "pixdim negative": (put_pixdim(1, -7, -7, 11), ["voxel sizes [-7.0, -7.0, 11.0]"]),
    "quaternion too long": (put("quatern_b", 0.9), ["its quaternion is [0.8999"]),
    "quaternion no number": (put("quatern_c", np.nan), ["its quaternion is [0.0, nan"]),
    "offset no number": (put("qoffset_x", np.inf), ["its offset is [inf"]),
    "metres with numbers of mm": (put("xyzt_units", 1), ["7000 x 7000 x 11000 mm", "7 x 7 x 11"]),
    "microns with numbers of mm": (put("xyzt_units", 3), ["0.007 x 0.007 x 0.011 mm"]),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_contradictions_are_errors_that_say_both_readings(tmp_path: Path, name):
    spoil, words = CONTRADICTIONS[name]
    values = images()[0]["t1c"]
    assert image_findings(save(tmp_path / "sound.nii", values)) == []
    path = save(tmp_path / "a.nii", values, spoil)
    (finding,) = image_findings(path)
    assert (finding.code, finding.severity) == ("header-contradiction", "error")
    assert all(word in finding.found for word in words), finding.found
    assert "metre" in name or "micron" in name or "`sources[].nifti_form`" in finding.remedy


@pytest.mark.parametrize("name", ["unit steps in the sform", "mirrored", "half a voxel", "sheared"])
def test_the_gap_is_that_of_the_corners(tmp_path: Path, name):
    path = save(tmp_path / "a.nii", images()[0]["t1c"], CONTRADICTIONS[name][0])
    header = nib.load(path).header
    apart = corners(header.get_sform()) - corners(header.get_qform())
    (finding,) = image_findings(path)
    assert f"; {np.sqrt((apart**2).sum(axis=1)).max():.2f} mm apart" in finding.found


def test_one_mirrored_file_of_a_case_is_an_error_and_not_another_side(tmp_path: Path):
    for only in ("seg", "t2w"):
        case = brats(tmp_path / only, lambda h: set_rows(h, FLIP), only)
        errors = [f for f in findings(case) if f.severity == "error"]
        assert [f.code for f in errors] == ["header-contradiction"]
        assert errors[0].found.startswith("mask" if only == "seg" else "t2w")


@pytest.mark.parametrize("spoil", [FLIP, UNIT], ids=["mirrored", "unit steps"])
def test_a_declared_form_holds_for_every_reader(tmp_path: Path, spoil):
    known = convert_case(brats(tmp_path / "sound"), TargetConfig(), MEDIA, tmp_path)
    root = tmp_path / "odd"
    brats(root, lambda h: set_rows(h, spoil))
    for form, affine in (("qform", AFFINE), ("sform", spoil)):
        (case,) = find_cases([config(root, nifti_form=form)])
        found = [f for f in findings(case) if f.code == "header-contradiction"]
        assert [f.severity for f in found] == ["warning"] * 5
        assert f"`sources[].nifti_form: {form}` says" in found[0].remedy
        record = convert_case(case, TargetConfig(), MEDIA, tmp_path)
        mask, grid = read_target(case, TargetConfig(), VolumeReader())
        volume = mask.sum() * abs(np.linalg.det(affine[:3, :3])) / 1000
        assert record.meta["volume_ml"] == pytest.approx(volume)
        assert grid.affine == pytest.approx(affine, abs=1e-5)
        assert np.array(record.geometry.affine) == pytest.approx(affine, abs=1e-5)
        if form == "qform":
            assert record.truth == known.truth
            assert record.meta["side"] == known.meta["side"] == "right"
        elif spoil is FLIP:
            assert record.meta["side"] == "left"
        folder = find_case(root, ["t1c"], nifti_form=form)
        assert folder.images["t1c"] == case.images["t1c"]
        by_hand = case_of_images({"t1c": Path(case.images["t1c"].path)}, nifti_form=form)
        assert VolumeReader().read(by_hand.images["t1c"]).affine == pytest.approx(affine, abs=1e-5)


@pytest.mark.parametrize("form", ["sform", "qform"])
def test_a_declaration_mends_no_file_without_that_form(tmp_path: Path, form):
    values = images()[0]["t1c"]
    single = save(
        tmp_path / "b.nii", values, put("sform_code" if form == "sform" else "qform_code", 0)
    )
    assert image_findings(single, nifti_form=form) == []
    spoil = both(lambda h: set_rows(h, UNIT), no_qform)
    (found,) = image_findings(save(tmp_path / "a.nii", values, spoil), nifti_form=form)
    assert found.severity == ("warning" if form == "sform" else "error")
    broken = {"sform": lambda h: set_rows(h, np.zeros((3, 4))), "qform": put_pixdim(1, 0, 0, 0)}
    (found,) = image_findings(save(tmp_path / "c.nii", values, broken[form]), nifti_form=form)
    assert found.severity == "error"


def test_rounded_forms_are_no_contradiction_and_half_a_voxel_is_one_in_any_position():
    """Turns near 180 degrees leave a quaternion's first element to rounding."""
    random = np.random.default_rng(3)
    from medtune.media.nifti import parse_nifti

    voxels = np.zeros((2, 2, 2), np.uint8)
    for number in range(150):
        axis = random.normal(size=3)
        angle = np.pi - abs(random.normal(scale=1e-3)) if number % 2 else random.uniform(0, np.pi)
        turn = Rotation.from_rotvec(angle * axis / np.linalg.norm(axis)).as_matrix()
        affine = np.eye(4)
        affine[:3, :3] = turn @ np.diag(random.uniform(0.4, 6, 3)) @ np.diag([1, 1, (-1) ** number])
        affine[:3, 3] = random.uniform(-200, 200, 3)
        for kind, order in ((nib.Nifti1Image, "<"), (nib.Nifti2Image, ">")):
            image = kind(voxels, affine, kind.header_class(endianness=order))
            image.set_qform(affine, 1)
            image.set_sform(affine, 2)
            header = parse_nifti(image.to_bytes(), None, "a", None).header
            assert [one.name for one in header.statements] == ["sform", "qform"]
            assert list(contradictions(header, (240, 240, 155), 0.1)) == []
        affine[:3, 3] += affine[:3, 0] / 2
        image.set_sform(affine, 2)
        header = parse_nifti(image.to_bytes(), None, "a", None).header
        assert len(list(contradictions(header, (240, 240, 155), 0.1))) == 1


def test_files_of_simpleitk_agree_with_themselves(tmp_path: Path):
    turn = Rotation.from_euler("xyz", [176, 3, -4], degrees=True).as_matrix()
    image = SimpleITK.GetImageFromArray(images()[0]["t1c"].T)
    image.SetSpacing([7, 7.1, 11])
    image.SetDirection(turn.ravel())
    for suffix in (".nii.gz", ".nrrd", ".mha"):
        path = str(tmp_path / f"a{suffix}")
        SimpleITK.WriteImage(image, path)
        assert image_findings(path) == [], suffix


@pytest.mark.parametrize(("code", "factor"), [(1, 1e-3), (3, 1e3), (0, 1), (2, 1), (8 + 2, 1)])
def test_other_units_are_read_as_simpleitk_reads_them(tmp_path: Path, code, factor):
    affine = np.diag([factor, factor, factor, 1]) @ AFFINE
    path = save(tmp_path / "a.nii", images()[0]["t1c"], put("xyzt_units", code), affine)
    assert image_findings(path) == []
    grid = VolumeReader().read(Volume(path=path))
    assert grid.affine == pytest.approx(AFFINE, rel=1e-6)
    image = SimpleITK.ReadImage(path)
    assert image.GetSpacing() == pytest.approx([7, 7, 11], rel=1e-6)
    assert image.GetOrigin() == pytest.approx([-66.5, -80.5, -60], rel=1e-6)


def test_odd_headers_that_leave_no_doubt_are_warnings(tmp_path: Path):
    values = images()[0]["t1c"]
    odd = {
        "scl_slope is inf": put("scl_slope", np.inf),
        "magic says": put("magic", b"ni1"),
        "qfac (pixdim[0]) is 0": both(put("sform_code", 0), put_pixdim(0)),
    }
    for words, spoil in odd.items():
        path = save(tmp_path / "a.nii", values, spoil)
        (finding,) = image_findings(path)
        assert (finding.code, finding.severity) == ("header-odd", "warning")
        assert words in finding.found
        assert (VolumeReader().read(Volume(path=path)).values == values).all()
    Path(path).write_bytes(Path(save(tmp_path / "b.nii", values)).read_bytes() + b"\0" * 100)
    assert "100 bytes follow" in image_findings(path)[0].found


def test_a_mask_that_its_header_scales_names_slope_and_intercept(tmp_path: Path):
    for slope, intercept in ((0.5, 0), (1, 1)):
        case = brats(
            tmp_path / str(slope),
            lambda h: (h.__setitem__("scl_slope", slope), h.__setitem__("scl_inter", intercept)),  # noqa: B023
            "seg",
        )
        (finding,) = findings(case)
        assert finding.code == "mask-labels"
        assert f"into {slope:g} v + {intercept:g}" in finding.found
    assert findings(brats(tmp_path / "unset", put("scl_slope", np.nan))) == []


def test_nrrd_and_metaimage_headers_contradict_themselves_too(tmp_path: Path):
    values = images()[0]["t1c"]
    header = {"space": "RAS", "space directions": AFFINE[:3, :3].T, "space origin": AFFINE[:3, 3]}
    nrrd.write(str(tmp_path / "a.nrrd"), values, header | {"encoding": "raw"})
    sound = (tmp_path / "a.nrrd").read_bytes()
    spoiled = {
        b"spacings: 1 1 1\n": "space directions: 7 x 7 x 11 mm",
        b'space units: "m" "m" "m"\n': "7000 x 7000 x 11000 mm",
    }
    for line, words in spoiled.items():
        (tmp_path / "b.nrrd").write_bytes(sound.replace(b"encoding", line + b"encoding"))
        (finding,) = image_findings(tmp_path / "b.nrrd")
        assert finding.code == "header-contradiction"
        assert words in finding.found
    agreed = b'spacings: 7 7 11\nspace units: "mm" "mm" "mm"\nencoding'
    (tmp_path / "b.nrrd").write_bytes(sound.replace(b"encoding", agreed))
    assert image_findings(tmp_path / "b.nrrd") == []
    image = SimpleITK.GetImageFromArray(values.T)
    image.SetSpacing([7, 7, 11])
    SimpleITK.WriteImage(image, str(tmp_path / "a.mha"))
    sound = (tmp_path / "a.mha").read_bytes()
    matrix, letters = b"TransformMatrix = 1 0 0 0 1 0 0 0 1", b"AnatomicalOrientation = RAI"
    twice = sound.replace(matrix, matrix.replace(b"= 1 ", b"= 2 "))
    (tmp_path / "b.mha").write_bytes(twice)
    (finding,) = image_findings(tmp_path / "b.mha")
    assert finding.code == "header-contradiction"
    assert "14 x 7 x 11 mm" in finding.found
    assert "7 x 7 x 11 mm" in finding.found
    (tmp_path / "b.mha").write_bytes(sound.replace(letters, letters.replace(b"RAI", b"LAI")))
    (finding,) = image_findings(tmp_path / "b.mha")
    assert (finding.code, finding.severity) == ("header-odd", "warning")
    (tmp_path / "b.mha").write_bytes(sound.replace(matrix, b"DistanceUnits = m\n" + matrix))
    assert image_findings(tmp_path / "b.mha")[0].code == "header-contradiction"


def test_a_declared_form_holds_for_the_mask_of_the_brain(tmp_path: Path):
    values, mask = images()
    brain = (values["t1c"] != 0).astype(np.uint8)
    for name, voxels in {"t1c": values["t1c"], "mask": mask, "brain_mask": brain}.items():
        save(tmp_path / f"{name}.nii", voxels, lambda h: set_rows(h, FLIP))
    names = ["t1c", "mask", "brain_mask"]
    rows = [["case_id", "patient_id", *names], ["1", "1", *(f"{name}.nii" for name in names)]]
    (tmp_path / "cases.csv").write_text("\n".join(map(",".join, rows)))
    declared = SourceConfig(
        name="made",
        kind="table",
        root=str(tmp_path),
        table="cases.csv",
        labels={1: "NCR", 2: "ED", 3: "ET"},
        nifti_form="qform",
    )
    (case,) = find_cases([declared])
    found = check_case(case, declared, VerificationConfig()).findings
    assert [(f.code, f.severity) for f in found] == [("header-contradiction", "warning")] * 3
    assert any(f.found.startswith("brain mask: ") for f in found)
    converted = convert_case(case, TargetConfig(), MEDIA, tmp_path)
    assert np.array(converted.geometry.affine) == pytest.approx(AFFINE, abs=1e-5)
