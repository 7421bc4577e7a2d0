"""Layouts, names, patients, labels and splits; planted faults are found, clean cases are not."""

import gzip
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from conftest import phantom_source

from medtune.config import PhantomConfig, SourceConfig, SplitsConfig, VerificationConfig
from medtune.errors import DataError
from medtune.files import check_manifest, sha256
from medtune.media.volume import read_labels, region_mask
from medtune.sources import find_cases
from medtune.sources.base import Case, Volume
from medtune.sources.brats import BRATS2018, BRATS2023
from medtune.sources.msd import MSD_BRAIN
from medtune.sources.phantom import write_phantom
from medtune.sources.verify import CheckedCase, check_across, check_case, gather, same_images
from medtune.splits import assign_splits
from medtune.tables import read_rows, write_records


def write(path: Path, values: np.ndarray, affine: np.ndarray | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(values, np.eye(4) if affine is None else affine), path)


def test_same_seed_gives_the_same_bytes_and_more_patients_change_nothing(tmp_path: Path):
    config = PhantomConfig(root=str(tmp_path / "a"), patients=3, shape=(16, 18, 8))
    write_phantom(config, seed=5)
    write_phantom(config.model_copy(update={"root": str(tmp_path / "b"), "patients": 5}), seed=5)
    first = check_manifest(tmp_path / "a/manifest.json")["files"]
    more = check_manifest(tmp_path / "b/manifest.json")["files"]
    assert first.items() <= more.items()
    write_phantom(config.model_copy(update={"root": str(tmp_path / "c")}), seed=6)
    assert set(check_manifest(tmp_path / "c/manifest.json")["files"].values()) != set(
        first.values()
    )


def test_a_smaller_phantom_leaves_no_old_patients_and_real_data_is_never_touched(tmp_path: Path):
    config = PhantomConfig(root=str(tmp_path / "a"), patients=3, shape=(16, 18, 8), follow_up=0)
    write_phantom(config, seed=5)
    write_phantom(config.model_copy(update={"patients": 2}), seed=5)
    assert len(find_cases([phantom_source(tmp_path / "a")])) == 2
    for name in ("a/BraTS-GLI-09999-000/x-t1n.nii.gz", "a/x.nii", "a/notes.txt", "b/x_t1.nii"):
        real = tmp_path / name
        write(real.with_suffix(".nii"), np.ones((2, 2, 2), np.int16))
        real.with_suffix(".nii").rename(real)
        before = real.read_bytes()
        root = tmp_path / name.split("/")[0]
        with pytest.raises(DataError, match="no phantom"):
            write_phantom(config.model_copy(update={"root": str(root)}), seed=5)
        assert real.read_bytes() == before
        real.unlink()


def test_phantom_looks_like_brats(phantom_root: Path):
    cases = find_cases([phantom_source(phantom_root)])
    assert len({case.patient_id for case in cases}) == 24 < len(cases)
    shapes, spacings, orientations, contrast = set(), set(), set(), []
    for case in cases:
        mask = nib.load(case.mask)
        shapes.add(mask.shape)
        spacings.add(mask.header.get_zooms())
        orientations.add(nib.aff2axcodes(mask.affine))
        codes = np.asarray(mask.dataobj)
        assert set(np.unique(codes)) <= {0, 1, 2, 3}
        if (codes == 3).any() and (codes == 2).any():
            t1n, t1c, t2f = (
                nib.load(case.images[name].path).get_fdata() for name in ("t1n", "t1c", "t2f")
            )
            rim, oedema, brain = codes == 3, codes == 2, (codes == 0) & (t1n != 0)
            contrast.append(
                t1c[rim].mean() / t1c[brain].mean() > 1.2 * t1n[rim].mean() / t1n[brain].mean()
                and t2f[oedema].mean() > 1.2 * t2f[brain].mean()
            )
    assert min(len(shapes), len(spacings), len(orientations)) > 3
    assert len(contrast) > 10
    assert np.mean(contrast) > 0.9


def test_brats2023_names_carry_patient_and_time_point(tmp_path: Path):
    for name in ("BraTS-GLI-03021-101", "BraTS-GLI-03021-000", "notes"):
        for part in ("t1n", "t1c", "t2w", "t2f", "seg"):
            write(tmp_path / "deep" / name / f"{name}-{part}.nii.gz", np.ones((2, 2, 2), np.int16))
    cases = BRATS2023.find(tmp_path)
    assert [case[:2] for case in cases] == [
        ("BraTS-GLI-03021-000", "03021"),
        ("BraTS-GLI-03021-101", "03021"),
    ]
    assert set(cases[0][2]) == {"t1n", "t1c", "t2w", "t2f"}


@pytest.mark.parametrize(
    ("name", "patient"),
    [
        ("Brats18_2013_2_1", "Brats18_2013_2"),
        ("Brats18_TCIA01_131_1", "Brats18_TCIA01_131"),
        ("BraTS20_Training_001", "BraTS20_Training_001"),
        ("BraTS19_CBICA_AAB_1", "BraTS19_CBICA_AAB"),
    ],
)
def test_brats2018_to_2020_names(tmp_path: Path, name, patient):
    for part in ("t1", "t1ce", "t2", "flair", "seg"):
        write(tmp_path / name / f"{name}_{part}.nii", np.ones((2, 2, 2), np.int16))
    ((case_id, found, images, mask),) = BRATS2018.find(tmp_path)
    assert (case_id, found) == (name, patient)
    assert images["t1c"].path.endswith("_t1ce.nii")
    assert images["t2f"].path.endswith("_flair.nii")
    assert mask


def test_msd_channels_follow_dataset_json(tmp_path: Path):
    write(tmp_path / "imagesTr/BRATS_001.nii.gz", np.ones((2, 2, 2, 4), np.int16))
    write(tmp_path / "labelsTr/BRATS_001.nii.gz", np.ones((2, 2, 2), np.uint8))
    names = {"0": "T2w", "1": "FLAIR", "2": "t1gd", "3": "T1w"}
    (tmp_path / "dataset.json").write_text(json.dumps({"modality": names}))
    ((_, _, images, mask),) = MSD_BRAIN.find(tmp_path)
    assert {name: volume.channel for name, volume in images.items()} == {
        "t2w": 0,
        "t2f": 1,
        "t1c": 2,
        "t1n": 3,
    }
    assert mask
    (tmp_path / "dataset.json").write_text(json.dumps({"modality": {"0": "CT"}}))
    with pytest.raises(DataError, match="unknown modality"):
        MSD_BRAIN.find(tmp_path)


def test_missing_empty_and_foreign_folders_are_named(tmp_path: Path):
    config = SourceConfig(name="a", kind="brats2023_gli", root=str(tmp_path / "none"))
    with pytest.raises(DataError, match="does not exist"):
        find_cases([config])
    with pytest.raises(DataError, match="holds no case named like `brats2023_gli`"):
        find_cases([config.model_copy(update={"root": str(tmp_path)})])


def test_regions_go_by_label_names():
    codes = np.array([0, 1, 2, 3, 4]).reshape(5, 1, 1)

    def region(labels, name):
        return region_mask(codes, labels, name).ravel().astype(int).tolist()

    assert region(BRATS2018.labels, "WT") == [0, 1, 1, 0, 1]
    assert region(BRATS2018.labels, "ET") == [0, 0, 0, 0, 1]
    assert region(BRATS2023.labels, "TC") == [0, 1, 0, 1, 0]
    assert region(MSD_BRAIN.labels, "TC") == [0, 0, 1, 1, 0]


def test_masks_of_any_dtype_are_read_and_fractions_refused(tmp_path: Path):
    values = np.array([0, 1, 2, 3], dtype=np.float32).reshape(4, 1, 1) - 1e-7
    write(tmp_path / "seg.nii.gz", values)
    codes, _ = read_labels(str(tmp_path / "seg.nii.gz"), BRATS2023.labels)
    assert codes.ravel().tolist() == [0, 1, 2, 3]
    for bad, words in ((values + 0.5, "no integers"), (values * 3, "unknown labels")):
        write(tmp_path / "bad.nii.gz", bad)
        with pytest.raises(DataError, match=words):
            read_labels(str(tmp_path / "bad.nii.gz"), BRATS2023.labels)
    write(tmp_path / "nan.nii.gz", np.full((2, 2, 2), np.nan, np.float32))
    with pytest.raises(DataError, match="no integers"):
        read_labels(str(tmp_path / "nan.nii.gz"), BRATS2023.labels)


@pytest.fixture
def case(tmp_path: Path, phantom_root: Path) -> Case:
    """A copy of one clean case with a tumour, to be damaged."""
    found = find_cases([phantom_source(phantom_root)])
    source = next(c for c in found if nib.load(c.mask).get_fdata().any())
    folder = tmp_path / source.case_id
    shutil.copytree(Path(source.mask).parent, folder)
    return find_cases([phantom_source(tmp_path)])[0]


def codes(case: Case) -> set[str]:
    checked = check_case(case, BRATS2023.labels, VerificationConfig())
    return {f.code for f in checked.findings if f.severity == "error"}


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
    values[0, 0, 0] = np.nan
    return values, affine


PLANTED = {
    "image-not-finite": lambda c: rewrite(c.images["t2w"].path, plant_nan),
    "image-constant": lambda c: rewrite(c.images["t2w"].path, lambda v, a: (v * 0 + 7, a)),
    "shape-mismatch": lambda c: rewrite(c.images["t2w"].path, lambda v, a: (v[1:], a)),
    "spacing-odd": lambda c: rewrite(
        c.images["t1n"].path, lambda v, a: (v, a @ np.diag([99, 1, 1, 1]))
    ),
    "image-unreadable": lambda c: Path(c.images["t1c"].path).write_bytes(
        Path(c.images["t1c"].path).read_bytes()[:-300]
    ),
    "mask-labels": lambda c: rewrite(
        c.mask, lambda v, a: (np.where(v > 0, 9, 0).astype(np.int16), a)
    ),
}
MISALIGNED = {
    "one voxel": lambda c: rewrite(c.mask, shift),
    "flipped": lambda c: rewrite(c.mask, flip),
    "identity": lambda c: rewrite(c.mask, lambda v, a: (v, np.eye(4))),
    "image": lambda c: rewrite(c.images["t2f"].path, shift),
}


@pytest.mark.parametrize("code", PLANTED)
def test_planted_fault_is_found(case: Case, code):
    assert codes(case) == set()
    PLANTED[code](case)
    assert code in codes(case)


@pytest.mark.parametrize("how", MISALIGNED)
def test_misaligned_grids_are_found(case: Case, how):
    MISALIGNED[how](case)
    assert "affine-mismatch" in codes(case)


def test_missing_modality_and_mask_are_found(case: Case):
    Path(case.images["t2w"].path).unlink()
    Path(case.mask).unlink()
    (again,) = find_cases([phantom_source(Path(case.mask).parents[1])])
    assert codes(again) == {"modality-missing", "mask-missing"}


def test_header_codes_and_negative_voxels_are_no_faults(case: Case):
    image = nib.load(case.images["t1n"].path)
    image.set_qform(image.affine, 3)
    values = np.asarray(image.dataobj).copy()
    values.flat[np.flatnonzero(values)[:5]] = -4
    nib.save(nib.Nifti1Image(values, image.affine, image.header), case.images["t1n"].path)
    assert codes(case) == set()


def test_no_clean_case_is_accused(phantom_root: Path):
    cases = find_cases([phantom_source(phantom_root)])
    checked = [check_case(c, BRATS2023.labels, VerificationConfig()) for c in cases]
    found = [f for one in checked for f in one.findings] + check_across(checked)
    assert {f.code for f in found} <= {"mask-empty"}
    assert all(f.severity == "warning" for f in found)


def test_equal_images_are_noticed_across_files_and_compression(case: Case, tmp_path: Path):
    twin_root = tmp_path / "twin/BraTS-GLI-99999-000"
    twin_root.mkdir(parents=True)
    for name in ("t1n", "t1c", "t2w", "t2f", "seg"):
        source = Path(case.mask.replace("seg", name))
        raw = gzip.decompress(source.read_bytes())
        (twin_root / f"BraTS-GLI-99999-000-{name}.nii").write_bytes(raw)
    twin = find_cases([phantom_source(tmp_path / "twin")])[0]
    checked = [check_case(c, BRATS2023.labels, VerificationConfig()) for c in (case, twin)]
    assert same_images(checked) == [(case.id, twin.id)]
    assert {f.code for f in check_across(checked)} == {"image-duplicate"}


def test_errors_stop_by_default_and_exclude_on_request(case: Case, tmp_path: Path):
    PLANTED["image-not-finite"](case)
    part, summary, table = (tmp_path / name for name in ("a.parquet", "s.json", "f.parquet"))
    checked = check_case(case, BRATS2023.labels, VerificationConfig())
    write_records(
        part, [checked, CheckedCase(case="ok", patient_id="p", findings=[], image_hashes={})]
    )
    with pytest.raises(DataError, match=r"image-not-finite.*1 errors in all"):
        gather([part], VerificationConfig(), table, summary)
    assert [row["code"] for row in read_rows(table)] == ["image-not-finite"]
    assert not summary.exists()
    gather([part], VerificationConfig(on_error="exclude"), table, summary)
    result = json.loads(summary.read_text())
    assert (result["accepted"], result["excluded"]) == (["ok"], [case.id])


def make_case(patient: str, number: int, split: str | None = None) -> Case:
    volume = {"t1n": Volume(path="x")}
    return Case(
        source="s",
        case_id=f"{patient}-{number}",
        patient_id=patient,
        images=volume,
        mask="m",
        split=split,
    )


def test_splits_are_by_patient_and_do_not_depend_on_order():
    cases = [make_case(f"p{i:03d}", visit) for i in range(100) for visit in range(2)]
    splits = assign_splits(cases, SplitsConfig(val=0.1, test=0.2), seed=1)
    assert splits == assign_splits(cases[::-1], SplitsConfig(val=0.1, test=0.2), seed=1)
    assert splits != assign_splits(cases, SplitsConfig(val=0.1, test=0.2), seed=2)
    counts = {name: list(splits.values()).count(name) for name in ("train", "val", "test")}
    assert counts == {"train": 70, "val": 10, "test": 20}


def test_fixed_splits_are_kept_and_contradictions_refused():
    cases = [make_case("a", 0, "test"), make_case("b", 0, "train"), make_case("c", 0)]
    splits = assign_splits(cases, SplitsConfig(val=0, test=0), seed=1)
    assert splits == {"a": "test", "b": "train", "c": "train"}
    with pytest.raises(DataError, match="in test by one source and in train by another"):
        assign_splits([*cases, make_case("a", 1, "train")], SplitsConfig(), seed=1)


def test_patients_that_share_an_image_share_a_split():
    cases = [make_case(f"p{i}", 0) for i in range(40)]
    pairs = [(cases[i].id, cases[i + 20].id) for i in range(20)]
    splits = assign_splits(cases, SplitsConfig(val=0.25, test=0.25), seed=1, same_images=pairs)
    assert all(splits[f"p{i}"] == splits[f"p{i + 20}"] for i in range(20))
    assert len(set(splits.values())) == 3
    contradicting = [make_case("x", 0, "test"), make_case("y", 0, "train")]
    same = [[case.id for case in contradicting]]
    with pytest.raises(DataError, match="by another"):
        assign_splits(contradicting, SplitsConfig(), 1, same)


def test_sources_are_never_modified(phantom_root: Path, dataset: Path):
    manifest = check_manifest(phantom_root / "manifest.json")
    assert len(manifest["files"]) == sum(path.suffix == ".gz" for path in phantom_root.rglob("*"))
    assert sha256(phantom_root / "manifest.json")
