"""Layouts, names, patients and labels of every source."""

import csv
import json
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from conftest import phantom_source

from medtune.config.data import PhantomConfig, SourceConfig, VerificationConfig
from medtune.media.read import VolumeReader, label_codes
from medtune.media.volume import region_mask
from medtune.records.case import Volume
from medtune.runtime.errors import ConfigError, DataError
from medtune.runtime.files import check_manifest
from medtune.runtime.tables import write_rows
from medtune.sources import check_source, find_cases, get_source
from medtune.sources import index as sources_index
from medtune.sources.brain.brats import LABELS, OLD_LABELS, PEDIATRIC, RELEASES
from medtune.sources.brain.phantom import write_phantom
from medtune.sources.check import check_case
from medtune.sources.index import inventory, shard_inventory, write_index


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


def release(kind: str, root: Path, **changes) -> SourceConfig:
    return SourceConfig(name="a", kind=kind, root=str(root), **changes)


def put(folder: Path, suffixes, name: str | None = None) -> None:
    """Write a tiny image for each suffix into a case's folder."""
    for suffix in suffixes:
        write(folder / f"{name or folder.name}{suffix}", np.ones((2, 2, 2), np.int16))


OLD = ("_t1.nii.gz", "_t1ce.nii.gz", "_t2.nii.gz", "_flair.nii.gz", "_seg.nii.gz")
NEW = ("-t1n.nii.gz", "-t1c.nii.gz", "-t2w.nii.gz", "-t2f.nii.gz", "-seg.nii.gz")


@pytest.mark.parametrize(
    ("kind", "name", "patient", "suffixes"),
    [
        ("brats2018", "Brats17_TCIA_479_1", "brats2018:TCIA_479", OLD),
        ("brats2018", "Brats18_2013_2_1", "brats2018:2013_2", OLD),
        ("brats2018", "BraTS19_2013_2_1", "brats2018:2013_2", OLD),
        ("brats2018", "BraTS20_Training_001", "brats2018:Training_001", OLD),
        ("brats2021", "BraTS2021_00495", "brats_gli:00495", OLD),
        ("brats2023_gli", "BraTS-GLI-00495-000", "brats_gli:00495", NEW),
        ("brats2024_gli", "BraTS-GLI-03021-101", "brats_gli:03021", NEW),
        ("brats2023_men", "BraTS-MEN-00004-000", "brats_men:00004", NEW),
        ("brats2023_met", "BraTS-MET-00002-000", "brats_met:00002", NEW),
        ("brats2023_ped", "BraTS-PED-00002-000", "brats_ped:00002", NEW),
        ("brats2023_ssa", "BraTS-SSA-00002-000", "brats_ssa:00002", NEW),
        ("brats2024_goat", "BraTS-GoAT-00012", "brats_goat:00012", NEW),
        ("brats2024_goat", "BraTS-GoAT-00012-100", "brats_goat:00012", NEW),
        ("brats2024_met", "BraTS-MET-01057-001", "brats_met:01057", NEW),
        ("brats2024_ped", "BraTS-PED-00002-000", "brats_ped:00002", NEW),
        ("brats2024_men_rt", "BraTS-MEN-RT-0012-1", "brats_men_rt:0012", ("_t1c.nii", "_gtv.nii")),
    ],
)
def test_brats_names(tmp_path: Path, kind, name, patient, suffixes):
    put(tmp_path / "release" / name, suffixes)
    put(tmp_path / "release" / "notes", suffixes)
    (found,) = get_source(release(kind, tmp_path)).find(release(kind, tmp_path))
    assert (found.case_id, found.patient_id, found.split) == (name, patient, None)
    assert tuple(found.images) == get_source(release(kind, tmp_path)).modalities
    for modality, suffix in zip(found.images, suffixes, strict=False):
        assert found.images[modality].path.endswith(f"{name}{suffix}")
    assert found.mask.endswith(suffixes[-1])


def test_a_later_visit_shows_the_same_anatomy_and_a_grown_lesion(phantom_root: Path):
    cases = find_cases([phantom_source(phantom_root)])
    later = [case for case in cases if case.case_id.endswith("-001")]
    assert later
    for case in later:
        first = next(c for c in cases if c.patient_id == case.patient_id)
        brains = [VolumeReader().read(c.images["t1n"]).lps != 0 for c in (first, case)]
        assert (brains[0] == brains[1]).all()
        masks = [VolumeReader().read(Volume(path=c.mask)).lps != 0 for c in (first, case)]
        if masks[0].any():
            assert (masks[0] & masks[1]).any()
            assert (masks[0] != masks[1]).any()


def test_brats_labels():
    assert {release.labels[0] for release in RELEASES.values()} == {"background"}
    rest = {k: {c: n for c, n in r.labels.items() if c} for k, r in RELEASES.items()}
    assert rest["brats2018"] == rest["brats2021"] == {1: "NCR", 2: "ED", 4: "ET"}
    for name in ("gli", "men", "met", "ped", "ssa"):
        assert rest[f"brats2023_{name}"] == {1: "NCR", 2: "ED", 3: "ET"}
    assert rest["brats2024_goat"] == rest["brats2023_gli"]
    assert rest["brats2024_gli"] == rest["brats2024_met"] == {1: "NCR", 2: "ED", 3: "ET", 4: "RC"}
    assert rest["brats2024_ped"] == {1: "ET", 2: "NET", 3: "CC", 4: "ED"}
    assert rest["brats2024_men_rt"] == {1: "GTV"}


def test_additional_cases_are_for_testing_and_links_are_followed(tmp_path: Path):
    put(tmp_path / "raw/training_data1_v2/BraTS-GLI-02062-100", NEW)
    put(tmp_path / "raw/training_data_additional/BraTS-GLI-03021-101", NEW)
    put(tmp_path / "raw/additional/BraTS-MEN-00004-000", NEW)
    (tmp_path / "raw/training_data1_v2/loop").symlink_to(tmp_path / "raw")
    (tmp_path / "root").mkdir()
    (tmp_path / "root/linked").symlink_to(tmp_path / "raw")
    cases = find_cases([release("brats2024_gli", tmp_path / "root")])
    assert [(case.case_id[10:15], case.split) for case in cases] == [
        ("02062", None),
        ("03021", "test"),
    ]
    (meningioma,) = find_cases([release("brats2023_men", tmp_path / "root")])
    assert meningioma.split is None


def test_a_case_folder_with_other_names_is_not_overlooked(tmp_path: Path):
    put(tmp_path / "BraTS-GLI-00001-000", [name.replace("-", "_") for name in NEW])
    (case,) = find_cases([release("brats2023_gli", tmp_path)])
    found = check_case(case, release("brats2023_gli", tmp_path), VerificationConfig()).findings
    assert [f.code for f in found] == ["modality-missing"] * 4 + ["mask-missing"]
    assert {f.severity for f in found} == {"error"}
    name = "BraTS-GLI-00001-000_seg.nii.gz"
    assert f"did you mean `{name}`?" in found[-1].found


def test_a_case_found_twice_is_refused(tmp_path: Path):
    for folder in ("first", "second"):
        put(tmp_path / folder / "BraTS-GLI-00001-000", NEW)
    with pytest.raises(DataError, match=r"a/BraTS-GLI-00001-000: found more than once"):
        find_cases([release("brats2023_gli", tmp_path)])


def msd(root: Path, **changes) -> None:
    described = {
        "modality": {"0": "T2w", "1": "FLAIR", "2": "t1gd", "3": "T1w"},
        "labels": {"0": "background", "1": "edema", "2": "enhancing tumor"},
    }
    (root / "dataset.json").write_text(json.dumps(described | changes))


def test_msd_channels_and_labels_follow_dataset_json(tmp_path: Path):
    for folder, number in (("imagesTr", 1), ("imagesTs", 2)):
        write(tmp_path / folder / f"BRATS_00{number}.nii.gz", np.ones((2, 2, 2, 4), np.int16))
    write(tmp_path / "labelsTr/BRATS_001.nii.gz", np.ones((2, 2, 2), np.uint8))
    msd(tmp_path)
    (case,) = find_cases([release("msd_brain", tmp_path)])
    channels = {name: volume.channel for name, volume in case.images.items()}
    assert channels == {"t2w": 0, "t2f": 1, "t1c": 2, "t1n": 3}
    assert case.labels == {0: "background", 1: "ED", 2: "ET"}
    assert case.mask
    both = find_cases([release("msd_brain", tmp_path, masks="optional")])
    assert [bool(case.mask) for case in both] == [True, False]


@pytest.mark.parametrize(
    ("described", "words"),
    [
        ({"modality": {"0": "CT"}}, "unknown modality: \\['CT'\\]"),
        ({"labels": {"1": "liver"}}, "unknown labels: \\['liver'\\]"),
        ({"modality": {"0": "FLAIR", "1": "FLAIR"}}, "twice"),
        ({"modality": ["FLAIR"]}, "is no mapping"),
        ({"modality": {"first": "FLAIR"}}, "is no mapping"),
        ({"labels": {}}, "is no mapping"),
    ],
)
def test_a_dataset_json_of_something_else_is_refused(tmp_path: Path, described, words):
    msd(tmp_path, **described)
    with pytest.raises(DataError, match=words):
        find_cases([release("msd_brain", tmp_path)])


def test_a_broken_dataset_json_is_never_said_to_be_deleted(tmp_path: Path):
    for text in ("{", "[]", None):
        if text:
            (tmp_path / "dataset.json").write_text(text)
        else:
            (tmp_path / "dataset.json").unlink()
        with pytest.raises(DataError) as caught:
            find_cases([release("msd_brain", tmp_path)])
        assert "rerun" not in caught.value.remedy


ROWS = [
    {"case_id": "001", "patient_id": "7", "t1c": "a/x.nrrd", "mask": "a/m.nrrd", "split": "test"},
    {"case_id": "002", "patient_id": "8", "t1c": "b/x.nii.gz", "mask": "", "split": ""},
]


def own_table(root: Path, rows, name: str = "cases.csv", **changes) -> SourceConfig:
    path = root / name
    if name.endswith(".parquet"):
        write_rows(path, rows)
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0].keys())
            writer.writeheader()
            writer.writerows(rows)
    values = {"table": name, "labels": {1: "WT"}, "masks": "optional"} | changes
    return release("table", root, **values)


@pytest.mark.parametrize("name", ["cases.csv", "cases.parquet"])
def test_a_table_brings_any_data(tmp_path: Path, name):
    first, second = find_cases([own_table(tmp_path, ROWS, name)])
    assert (first.case_id, first.patient_id, first.split) == ("001", "a:7", "test")
    assert first.images == {"t1c": Volume(path=str(tmp_path / "a/x.nrrd"))}
    assert first.mask == str(tmp_path / "a/m.nrrd")
    assert first.labels == {0: "background", 1: "WT"}
    assert (second.mask, second.split) == (None, None)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"case_id": "../x"}, "line 2: case_id '../x'"),
        ({"patient_id": ""}, "line 2: .* patient_id ''"),
        ({"split": "dev"}, "split is 'dev'"),
        ({"case_id": "002"}, "found more than once"),
    ],
)
def test_bad_rows_of_a_table_are_named(tmp_path: Path, change, words):
    with pytest.raises(DataError, match=words):
        find_cases([own_table(tmp_path, [ROWS[0] | change, ROWS[1]])])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("case_id,patient_id,t1c,T1c\n1,1,a.nii,b.nii\n", "each name once"),
        ("case_id,patient_id,t1 c\n1,1,a.nii\n", "letters, digits and _"),
        ('case_id,patient_id,t1c\n1,1,"a\n2,2,b.nii"\n', "line 2: t1c: .* over several lines"),
        ("case_id,patient_id,t1c\n1,1,\n", "none of which holds images"),
        ("case_id,patient_id,t1c,seg\n1,1,a.nii,s.nii\n", "`seg`, .*\n.*call .* `mask`"),
        ("case_id,patient_id,t1c,tumor_mask\n1,1,a.nii,s.nii\n", "call .* `mask`"),
        (
            "case_id,patient_id,t1c,age\n1,1,a.nii,\n2,2,b.nii,54\n",
            "line 3: .*'54'.*\n.*groups: \\[age\\]",
        ),
        ("case_id,patient_id,t1c,spilt\n1,1,a.nii,train\n", "rename it to `split`"),
        ("case_id,patient_id,t1c\n", "has no rows in cases.csv"),
    ],
)
def test_malformed_tables_are_refused(tmp_path: Path, text, words):
    config = own_table(tmp_path, ROWS)
    path = tmp_path / "cases.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=words):
        find_cases([config])


def test_a_missing_value_of_a_parquet_table_is_empty(tmp_path: Path):
    rows = [ROWS[0], ROWS[1] | {"mask": None}]
    (_, second) = find_cases([own_table(tmp_path, rows, "cases.parquet")])
    assert second.mask is None
    damaged = own_table(tmp_path, rows, "cases.parquet")
    (tmp_path / "cases.parquet").write_bytes(b"no table")
    with pytest.raises(DataError, match="is no Parquet table"):
        check_source(damaged, ["t1c"], "WT")


def test_what_a_table_lacks_is_named(tmp_path: Path):
    with pytest.raises(DataError, match="expected patient_id"):
        find_cases([own_table(tmp_path, [{"case_id": "1", "t1c": "x"}])])
    with pytest.raises(DataError, match=r"unknown label names \['tumour'\]"):
        find_cases([own_table(tmp_path, ROWS, labels={1: "tumour"})])
    with pytest.raises(DataError, match="the table does not exist"):
        find_cases([own_table(tmp_path, ROWS).model_copy(update={"table": "other.csv"})])


def test_a_source_must_serve_what_is_asked(tmp_path: Path):
    config = own_table(tmp_path, ROWS, labels={1: "RC"})
    with pytest.raises(ConfigError, match=r"has no modality \['t2f'\]"):
        check_source(config, ["t1c", "t2f"], "WT")
    with pytest.raises(ConfigError, match="has no label of region WT"):
        check_source(config, ["t1c"], "WT")
    check_source(own_table(tmp_path, ROWS), ["t1c"], "WT")
    rt = release("brats2024_men_rt", tmp_path)
    check_source(rt, ["t1c"], "TC")
    with pytest.raises(ConfigError, match="has no label of region ET"):
        check_source(rt, ["t1c"], "ET")


def test_the_inventory_sees_new_changed_and_lost_files(tmp_path: Path):
    seen = [inventory([str(tmp_path)], {})]
    (tmp_path / "b").mkdir()
    for change in (
        lambda: (tmp_path / "b/x.nii").write_bytes(b"1"),
        lambda: (tmp_path / "b/x.nii").write_bytes(b"22"),
        lambda: os.utime(tmp_path / "b/x.nii", (1, 1)),
        lambda: (tmp_path / "b/x.nii").rename(tmp_path / "b/y.nii"),
    ):
        change()
        seen.append(inventory([str(tmp_path)], {}))
    assert len(set(seen)) == 5
    assert inventory([str(tmp_path)], {}) == seen[-1]


def test_planning_reads_the_index_once_and_looks_at_a_shard_s_files_alone(tmp_path, monkeypatch):
    root, table = tmp_path / "raw", tmp_path / "cases.parquet"
    write_phantom(PhantomConfig(root=str(root), patients=7, shape=(16, 18, 8)), seed=5)
    config = SourceConfig(name="a", kind="brats2023_gli", root=str(root), allow_empty_masks=True)
    write_index([config], table)
    reads, read = [], sources_index.pq.read_table
    monkeypatch.setattr(
        sources_index.pq, "read_table", lambda *a, **k: reads.append(a) or read(*a, **k)
    )

    def look(sources=("a",)) -> list[str]:
        return [shard_inventory(table, shard, 2, sources, {}) for shard in range(4)]

    before = look()
    assert len(set(before)) == 4
    assert len(reads) == 1
    last = sorted(root.rglob("*seg.nii.gz"))[-1]
    os.utime(last, (1, 1))
    assert [a == b for a, b in zip(before, look(), strict=True)] == [True, True, True, False]
    last.unlink()
    assert len({before[3], look()[3]}) == 2
    assert len(set(look(sources=()))) == 1, "frozen: not looked at"
    os.utime(table, (1, 1))
    look()
    assert len(reads) == 2, "a new index is read again"


def test_missing_empty_and_foreign_folders_are_named(tmp_path: Path):
    config = release("brats2023_gli", tmp_path / "none")
    with pytest.raises(DataError, match="does not exist"):
        find_cases([config])
    with pytest.raises(DataError, match="holds no case named like `brats2023_gli`"):
        find_cases([config.model_copy(update={"root": str(tmp_path)})])


def test_regions_go_by_label_names():
    codes = np.array([0, 1, 2, 3, 4]).reshape(5, 1, 1)

    def region(labels, name):
        return region_mask(codes, labels, name).ravel().astype(int).tolist()

    assert region(OLD_LABELS, "WT") == [0, 1, 1, 0, 1]
    assert region(OLD_LABELS, "ET") == [0, 0, 0, 0, 1]
    assert region(LABELS, "TC") == [0, 1, 0, 1, 0]
    # As rachitsaluja/BraTS-2024-Metrics, metrics_PED.py, has them.
    assert [region(PEDIATRIC, name) for name in ("WT", "TC", "ET")] == [
        [0, 1, 1, 1, 1],
        [0, 1, 1, 1, 0],
        [0, 1, 0, 0, 0],
    ]
    assert region(LABELS | {4: "RC"}, "WT") == [0, 1, 1, 1, 0]
    assert region({1: "GTV"}, "TC") == region({1: "WT"}, "WT") == [0, 1, 0, 0, 0]
    assert region({1: "WT"}, "ET") == [0, 0, 0, 0, 0]


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64])
def test_masks_of_any_dtype_are_read(dtype):
    values = np.array([0, 1, 2, 3], dtype=dtype).reshape(4, 1, 1)
    if values.dtype.kind == "f":
        values = values * dtype(0.9999999)
    assert label_codes(values, LABELS, "m").ravel().tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (1.5, "no integers"),
        (np.nan, "NaN or infinity"),
        (np.inf, "NaN or infinity"),
        (9, "unknown labels"),
        (-1, "unknown labels"),
        (3e9, "unknown labels"),
    ],
)
def test_masks_that_hold_anything_else_are_refused(value, words):
    with pytest.raises(DataError, match=words):
        label_codes(np.full((2, 2, 2), value, np.float32), LABELS, "m")


def test_sources_are_never_modified(phantom_root: Path, dataset: Path):
    """`dataset` has been made from them; the manifest knows what they were."""
    manifest = check_manifest(phantom_root / "manifest.json")
    assert len(manifest["files"]) == sum(path.suffix == ".gz" for path in phantom_root.rglob("*"))
