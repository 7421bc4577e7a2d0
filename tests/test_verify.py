"""Planted faults are all found, and no clean case is accused."""

import itertools
import json
import shutil
from pathlib import Path

import nibabel as nib
import nrrd
import numpy as np
import pytest
from conftest import REAL_DATA, phantom_source
from nibabel.affines import apply_affine
from test_sources import own_table, write

from medtune.config.data import SourceConfig, SplitsConfig, VerificationConfig
from medtune.media.read import VolumeReader
from medtune.records.case import Case, Volume
from medtune.records.issue import CheckedCase
from medtune.runtime.errors import DataError
from medtune.runtime.tables import read_rows, write_records
from medtune.sources import find_cases
from medtune.sources.check import check_case
from medtune.sources.verify import (
    all_findings,
    check_across,
    empty_splits,
    gather,
    same_images,
)


@pytest.fixture
def case(tmp_path: Path, phantom_root: Path) -> Case:
    """A copy of one clean case with a tumor, to be damaged."""
    found = find_cases([phantom_source(phantom_root)])
    source = next(c for c in found if nib.load(c.mask).get_fdata().any())
    folder = tmp_path / "one" / source.case_id
    shutil.copytree(Path(source.mask).parent, folder)
    return find_cases([phantom_source(tmp_path / "one")])[0]


SOURCE = phantom_source(Path())
SHOWN = ("t1n", "t1c", "t2w", "t2f")


def check(case: Case, source: SourceConfig = SOURCE) -> CheckedCase:
    return check_case(case, source, VerificationConfig(), SHOWN)


def codes(case: Case) -> set[str]:
    return {f.code for f in check(case).findings if f.severity == "error"}


def rewrite(path: str, change) -> None:
    image = nib.load(path)
    values, affine = change(np.asarray(image.dataobj).copy(), image.affine.copy())
    write(Path(path), values, affine)


def shift(values, affine):
    affine[0, 3] += np.linalg.norm(affine[:3, 0])
    return values, affine


def flip(values, affine):
    affine[:, 0] *= -1
    return values, affine


def plant_nan(values, affine):
    values = values.astype(np.float32)
    values[tuple(n // 2 for n in values.shape)] = np.nan
    return values, affine


def cut(path: str, count: int) -> None:
    """Cut the last bytes off a file."""
    Path(path).write_bytes(Path(path).read_bytes()[:-count])


def flip_bit(path: str) -> None:
    raw = bytearray(Path(path).read_bytes())
    raw[len(raw) // 2] ^= 1
    Path(path).write_bytes(raw)


def copy_over(case: Case) -> None:
    shutil.copy(case.images["t1n"].path, case.images["t2w"].path)


def unorient(path: str) -> None:
    image = nib.load(path)
    image.set_qform(None, 0)
    image.set_sform(None, 0)
    nib.save(image, path)


def shear(values, affine):
    affine[:3, 1] += 0.2 * affine[:3, 0]
    return values, affine


def no_origin(values, affine):
    affine[0, 3] = np.nan
    return values, affine


def color(values, affine):
    kinds = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
    return np.zeros(values.shape, kinds), affine


def only_corner(values, affine):
    values[:] = 0
    values[0, 0, :2] = 1
    return values, affine


PLANTED = {
    "image-not-finite": lambda c: rewrite(c.images["t2w"].path, plant_nan),
    "image-constant": lambda c: rewrite(c.images["t2w"].path, lambda v, a: (v * 0 + 7, a)),
    "image-constant: all zero": lambda c: rewrite(c.images["t1n"].path, lambda v, a: (v * 0, a)),
    "image-constant: binary": lambda c: rewrite(
        c.images["t1n"].path, lambda v, a: ((v > 0).astype(np.int16), a)
    ),
    "shape-mismatch": lambda c: rewrite(c.images["t2w"].path, lambda v, a: (v[1:], a)),
    "spacing-odd": lambda c: rewrite(
        c.images["t1n"].path, lambda v, a: (v, a @ np.diag([99, 1, 1, 1]))
    ),
    "brain-missing": lambda c: [
        rewrite(volume.path, lambda v, a: (np.where(v > np.percentile(v, 99.9), v, 0), a))
        for volume in c.images.values()
    ],
    "image-unreadable: truncated": lambda c: cut(c.images["t1c"].path, 300),
    "image-unreadable: checksum cut off": lambda c: cut(c.images["t1c"].path, 8),
    "image-unreadable: one bit": lambda c: flip_bit(c.images["t1c"].path),
    "image-unreadable: text": lambda c: Path(c.images["t1c"].path).write_text("no image"),
    "image-unreadable: color": lambda c: rewrite(c.images["t1c"].path, color),
    "affine-invalid: sheared": lambda c: rewrite(c.images["t1c"].path, shear),
    "affine-invalid: not finite": lambda c: rewrite(c.mask, no_origin),
    "orientation-unknown": lambda c: unorient(c.images["t1n"].path),
    "modality-duplicate": copy_over,
    "modality-missing": lambda c: c.images.pop("t2w"),
    "mask-unreadable": lambda c: cut(c.mask, 20),
    "mask-labels": lambda c: rewrite(
        c.mask, lambda v, a: (np.where(v > 0, 9, 0).astype(np.int16), a)
    ),
    "mask-labels: not finite": lambda c: rewrite(
        c.mask, lambda v, a: (np.where(v > 0, np.inf, 0).astype(np.float32), a)
    ),
    "mask-outside-brain": lambda c: rewrite(c.mask, only_corner),
    "affine-mismatch: one voxel": lambda c: rewrite(c.mask, shift),
    "affine-mismatch: flipped": lambda c: rewrite(c.mask, flip),
    "affine-mismatch: an image": lambda c: rewrite(c.images["t2f"].path, shift),
}


@pytest.mark.parametrize("planted", PLANTED)
def test_planted_fault_is_found(case: Case, planted):
    assert codes(case) == set()
    PLANTED[planted](case)
    assert planted.split(":")[0] in codes(case)


def test_an_identity_affine_is_found(case: Case):
    rewrite(case.mask, lambda v, a: (v, np.eye(4)))
    assert codes(case) & {"affine-mismatch", "shape-mismatch"}


def test_files_swapped_by_a_table_are_found(case: Case, tmp_path: Path):
    paths = {name: volume.path for name, volume in case.images.items()}
    paths["t1c"], paths["t2w"] = paths["t2w"], paths["t1c"]
    row = {"case_id": "1", "patient_id": "1", "mask": case.mask} | paths
    config = own_table(tmp_path, [row], labels={1: "NCR", 2: "ED", 3: "ET"})
    (swapped,) = find_cases([config])
    found = check(swapped, config).findings
    assert [f.code for f in found] == ["modality-swapped"] * 2


@pytest.mark.parametrize("name", ["t1ce", "t1", "flair", "t2"])
def test_columns_named_as_their_files_are_sound(case: Case, tmp_path: Path, name):
    path = Path(case.mask).parent / f"p1_{name}.nii.gz"
    shutil.copy(case.images["t1c"].path, path)
    row = {"case_id": "1", "patient_id": "1", name: str(path), "mask": case.mask}
    config = own_table(tmp_path, [row], labels={1: "NCR", 2: "ED", 3: "ET"})
    (found,) = find_cases([config])
    assert check_case(found, config, VerificationConfig(), [name]).findings == []


@pytest.mark.parametrize("bad", ["folder", "forbidden", "nul", "empty.nrrd", "odd.nrrd"])
def test_files_that_cannot_be_opened_are_findings(case: Case, tmp_path: Path, bad):
    path = tmp_path / bad
    if bad == "folder":
        path.mkdir()
    elif bad == "nul":
        path = Path(f"{tmp_path}/a\0b")
    elif bad == "odd.nrrd":
        path.write_text("NRRD0004\ntype: colorful\ndimension: 3\nsizes: 1 1 1\n\n")
    elif bad == "empty.nrrd":
        path.write_bytes(b"")
    else:
        path = tmp_path / "missing" / "deeper"
        path.parent.write_text("a file")  # not a folder
    case.images["t1c"] = Volume(path=str(path))
    assert codes(case) == {"image-unreadable"}


def test_an_empty_mask_is_an_error_unless_declared(case: Case):
    rewrite(case.mask, lambda v, a: (v * 0, a))
    for allow_empty_masks, severity in ((False, "error"), (True, "warning")):
        source = SOURCE.model_copy(update={"allow_empty_masks": allow_empty_masks})
        (finding,) = check(case, source).findings
        assert (finding.code, finding.severity) == ("mask-empty", severity)


def test_a_case_without_a_mask_is_an_error_unless_declared(case: Case):
    Path(case.mask).unlink()
    (again,) = find_cases([phantom_source(Path(case.mask).parents[1])])
    for masks, severity in (("required", "error"), ("optional", "warning")):
        source = SOURCE.model_copy(update={"masks": masks})
        (finding,) = check(again, source).findings
        assert (finding.code, finding.severity) == ("mask-missing", severity)


def test_the_tolerance_is_in_millimeters(case: Case):
    def move(by):
        def change(values, affine):
            affine[:3, 3] += [by, 0, 0]
            return values, affine

        return change

    rewrite(case.mask, move(0.09))
    assert codes(case) == set()
    rewrite(case.mask, move(0.02))
    assert codes(case) == {"affine-mismatch"}


def test_odd_but_sound_headers_and_values_are_no_faults(case: Case):
    """Header codes differ, a few voxels are negative, the mask is stored in another order."""
    image = nib.load(case.images["t1n"].path)
    image.set_qform(image.affine, 3)
    values = np.asarray(image.dataobj).copy()
    values.flat[np.flatnonzero(values)[:5]] = -4
    nib.save(nib.Nifti1Image(values, image.affine, image.header), case.images["t1n"].path)
    mask = nib.load(case.mask)
    other = "RAS" if nib.aff2axcodes(mask.affine) == ("L", "P", "S") else "LPS"
    turn = nib.orientations.ornt_transform(
        nib.io_orientation(mask.affine), nib.orientations.axcodes2ornt(tuple(other))
    )
    nib.save(mask.as_reoriented(turn), case.mask)
    assert codes(case) == set()


def test_a_background_that_is_not_zero_is_noticed(case: Case):
    for volume in case.images.values():
        rewrite(volume.path, lambda v, a: (v + 1, a))
    (finding,) = check(case).findings
    assert (finding.code, finding.severity) == ("background-not-zero", "warning")


def test_no_clean_case_is_accused(phantom_root: Path):
    checked = [check(c) for c in find_cases([phantom_source(phantom_root)])]
    found = [f for one in checked for f in one.findings] + check_across(checked, {})
    assert {f.code for f in found} == {"mask-empty"}
    assert all(f.severity == "warning" for f in found)


def test_equal_images_are_noticed_across_files_compression_and_order(case: Case, tmp_path: Path):
    twin_root = tmp_path / "twin/BraTS-GLI-99999-000"
    twin_root.mkdir(parents=True)
    for name in ("t1n", "t1c", "t2w", "t2f", "seg"):
        image = nib.load(case.mask.replace("seg", name))
        values = np.asarray(image.dataobj).astype(np.float32)
        twin = nib.as_closest_canonical(nib.Nifti1Image(values, image.affine))
        nib.save(twin, twin_root / f"BraTS-GLI-99999-000-{name}.nii")
    twin = find_cases([phantom_source(tmp_path / "twin")])[0]
    for name in ("t1n", "t1c", "t2w"):  # only one image is still the same
        rewrite(twin.images[name].path, lambda v, a: (v * 2, a))
    checked = [check(c) for c in (case, twin)]
    assert same_images(checked) == [tuple(sorted((case.id, twin.id)))]
    (finding,) = check_across(checked, {})
    assert (finding.code, finding.severity) == ("image-duplicate", "warning")


def known(name: str, source: str = "s", split: str | None = None, **changes) -> CheckedCase:
    case = Case(
        source=source,
        case_id=name,
        patient_id=changes.pop("patient", name),
        images={},
        mask=None,
        labels={},
        split=split,
    )
    values = {
        "case": case,
        "findings": [],
        "files": {},
        "image_hashes": {},
        "orientation": "LPS",
        "spacing": [1.0, 1.0, 1.0],
    }
    return CheckedCase(**values | changes)


@pytest.mark.parametrize(
    ("prescribed", "expected"),
    [
        (["train", "val", "test"], None),
        (["train", "train"], "val, test, and 0 are"),
        (["train", "test", None], None),
        (["test", None], "train, val, and 1 are"),
        ([None, None], "train, val, test, and 2 are"),
        ([None, None, None], None),
    ],
)
def test_splits_that_must_stay_empty_are_noticed(prescribed, expected):
    cases = [known(str(n), split=split) for n, split in enumerate(prescribed)]
    cases = [
        one.model_copy(update={"case": one.case.model_copy(update={"mask": "m"})}) for one in cases
    ]
    found = [one for one in all_findings(cases, {}) if one.code == "split-empty"]
    if expected is None:
        assert found == []
    else:
        assert f"no patient is prescribed to {expected} to be assigned" in found[0].found
    assert empty_splits(cases, {"s": "test"})[0].found.startswith("no patient is prescribed to tr")
    assert empty_splits([known("a"), known("b")], {}) == []  # without a mask: of no split


def test_cases_that_stand_out_are_noticed():
    cases = [known(str(number)) for number in range(20)]
    odd = [known("turned", orientation="RAS"), known("thick", spacing=[1.0, 1.0, 5.0])]
    found = {(f.case, f.code) for f in check_across(cases + odd, {})}
    assert found == {("s/turned", "orientation-outlier"), ("s/thick", "spacing-outlier")}
    mixed = [known(str(n), orientation=("LPS", "RAS")[n % 2]) for n in range(20)]
    assert check_across(mixed, {}) == []


def test_patients_in_two_sources_and_two_splits_are_noticed():
    one, two = known("p"), known("p", source="t")
    (finding,) = check_across([one, two], {})
    assert (finding.code, finding.severity) == ("patient-in-two-sources", "warning")
    codes = {
        (f.case, f.code): f.severity for f in check_across([one, two], {"s": "val", "t": "test"})
    }
    assert codes["s/p", "patient-in-two-splits"] == "error"
    assert codes["t/p", "patient-in-two-splits"] == "error"
    assert len(check_across([one, known("p", "t", "train")], {"s": "train"})) == 1
    # The configuration overrides what the source says.
    assert len(check_across([one, known("p", "t", "test")], {"s": "val", "t": "val"})) == 1


def test_every_case_of_a_contradiction_is_accused():
    visits = [
        known(str(n), split=split, patient="p")
        for n, split in enumerate(["train", "test", "train"])
    ]
    found = {f.case for f in check_across(visits, {}) if f.code == "patient-in-two-splits"}
    assert found == {"s/0", "s/1", "s/2"}
    twins = [
        known(n, split=split, image_hashes={"t1c": "same"})
        for n, split in (("a", "train"), ("b", "test"))
    ]
    found = {f.case for f in check_across(twins, {}) if f.severity == "error"}
    assert found == {"s/a", "s/b"}


def test_errors_stop_by_default_and_exclude_on_request(case: Case, tmp_path: Path, capsys):
    PLANTED["image-not-finite"](case)
    part, summary, table = (tmp_path / name for name in ("a.parquet", "s.json", "f.parquet"))
    checked = check(case)
    write_records(part, [checked, known("ok")])
    with pytest.raises(DataError, match=r"image-not-finite.*1 errors in all"):
        gather([part], SplitsConfig(), VerificationConfig(), table, summary)
    assert "image-not-finite" in capsys.readouterr().err
    assert [row["code"] for row in read_rows(table)] == ["image-not-finite"]
    assert not summary.exists()
    exclude = VerificationConfig(on_error="exclude")
    gather([part], SplitsConfig(), exclude, table, summary)
    result = json.loads(summary.read_text())
    assert (result["accepted"], result["excluded"]) == (["s/ok"], [case.id])
    write_records(part, [checked])
    with pytest.raises(DataError, match="image-not-finite"):  # nothing would be left
        gather([part], SplitsConfig(), exclude, table, summary)


NRRD = REAL_DATA / "brain/pyradiomics"


@pytest.mark.skipif(not NRRD.is_dir(), reason=f"real NRRD files are not at {NRRD}")
@pytest.mark.parametrize("number", [1, 2])
def test_nrrd_agrees_with_simpleitk(number):
    import SimpleITK

    path = str(NRRD / f"brain{number}_image.nrrd")
    image = SimpleITK.ReadImage(path)
    grid = VolumeReader().read(Volume(path=path))
    assert (grid.values == SimpleITK.GetArrayFromImage(image).T).all()
    for index in itertools.product(*[(0, n - 1) for n in grid.values.shape]):
        lps = image.TransformIndexToPhysicalPoint([int(n) for n in index])
        ras = apply_affine(grid.affine, index)
        assert ras == pytest.approx([-lps[0], -lps[1], lps[2]], abs=1e-6)


@pytest.mark.parametrize("space", ["left-posterior-superior", "right-anterior-superior"])
def test_nrrd_spaces(tmp_path: Path, space):
    values = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    header = {
        "space": space,
        "space directions": np.diag([1.0, 2.0, 3.0]),
        "space origin": np.array([5.0, 6.0, 7.0]),
    }
    nrrd.write(str(tmp_path / "a.nrrd"), values, header)
    grid = VolumeReader().read(Volume(path=str(tmp_path / "a.nrrd")))
    sign = -1 if space.startswith("left") else 1
    assert (grid.values == values).all()
    assert grid.affine.tolist() == [
        [sign, 0, 0, 5 * sign],
        [0, 2 * sign, 0, 6 * sign],
        [0, 0, 3, 7],
        [0, 0, 0, 1],
    ]
    assert grid.oriented
    nrrd.write(str(tmp_path / "b.nrrd"), values)
    assert not VolumeReader().read(Volume(path=str(tmp_path / "b.nrrd"))).oriented
