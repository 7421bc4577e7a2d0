"""Nothing disappears, and no label map is believed that can hardly be right."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from test_sources import NEW, OLD, put, release, write
from test_verify import known

from medtune.config.data import SplitsConfig, VerificationConfig
from medtune.records.case import walk
from medtune.records.issue import CheckedCase, Issue
from medtune.runtime.errors import DataError
from medtune.runtime.tables import read_rows, write_records
from medtune.sources import find_cases
from medtune.sources.brain.brats import RELEASES
from medtune.sources.check import check_case
from medtune.sources.index import read_left_out, write_index
from medtune.sources.left_out import left_out
from medtune.sources.plausible import label_map_findings, region_findings
from medtune.sources.verify import all_findings, gather

CASE = "BraTS-GLI-00001-000"


def rest_of(root: Path, kind: str = "brats2023_gli", **changes) -> dict[str, str]:
    """Return what became no case, with its likeliest cause, by folder."""
    source = release(kind, root, **changes)
    return {one.folder: one.remedy for one in left_out([source], find_cases([source]))}


@pytest.mark.parametrize(
    ("folder", "name", "suffixes", "words"),
    [
        ("BraTS-GLI-00002-000 (1)", "BraTS-GLI-00002-000", NEW, "a copy of BraTS-GLI-00002-000"),
        ("BraTS-GLI-00002-000_pre", "BraTS-GLI-00002-000", NEW, "a copy of BraTS-GLI-00002-000"),
        ("brats-gli-00002-000", None, NEW, "its capitals are not those"),
        ("BraTS-GLI-00002", None, NEW, "almost that of a case, which is like BraTS-GLI-00495-000"),
        ("BraTS_GLI_00002_000", None, NEW, "almost that of a case"),
        ("GLI-00002-000", None, NEW, "almost that of a case"),
        ("BraTS2021_00002", None, OLD, "looks like `brats2021`"),
        ("FeTS2022_00002", None, OLD, "looks like `brats2021`"),
        ("Brats18_2013_2_1", None, OLD, "looks like `brats2018`"),
        ("BraTS-MET-00002-000", None, NEW, "looks like `brats2023_met` or `brats2024_met`"),
        ("BraTS-GoAT-00002", None, NEW, "looks like `brats2024_goat`"),
        ("sub-02", "BraTS-GLI-00002-000", NEW, "files of the case BraTS-GLI-00002-000"),
        (f"{CASE}/nifti", "x", NEW, f"inside the case {CASE}"),
        ("derivatives", "x", ("_n4.mha",), "no name of a release"),
        ("Task01/imagesTr", "BRATS_001", (".nii.gz",), "looks like `msd_brain` or `nnunet`"),
    ],
)
def test_folders_that_became_no_case_are_named(tmp_path, folder, name, suffixes, words):
    put(tmp_path / CASE, NEW)
    for suffix in suffixes:
        path = tmp_path / folder / f"{name or folder}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    assert list(rest_of(tmp_path)) == [folder]
    assert words in rest_of(tmp_path)[folder]


def test_what_is_flat_or_packed_is_named_and_what_macos_leaves_is_not(tmp_path: Path):
    put(tmp_path / CASE, NEW)
    (tmp_path / CASE / f"._{CASE}-t1n.nii.gz").write_bytes(b"")
    (tmp_path / "__MACOSX" / CASE).mkdir(parents=True)
    (tmp_path / "__MACOSX" / CASE / f"._{CASE}-t1n.nii.gz").write_bytes(b"")
    for name in ("BraTS-GLI-00002-000.zip", f"{CASE}.zip", "all.zip"):
        (tmp_path / name).write_bytes(b"PK")
    put(tmp_path / "flat", NEW, "BraTS-GLI-00003-000")
    put(tmp_path / "flat", NEW, "BraTS-GLI-00004-000")
    found = rest_of(tmp_path)
    assert set(found) == {"BraTS-GLI-00002-000.zip", "flat"}
    assert "unpack it" in found["BraTS-GLI-00002-000.zip"]
    assert "files of 2 cases, as BraTS-GLI-00003-000" in found["flat"]


def test_a_folder_that_another_source_takes_is_not_left_out(tmp_path: Path):
    put(tmp_path / CASE, NEW)
    put(tmp_path / "BraTS-MET-00001-000", NEW)
    sources = [release("brats2023_gli", tmp_path)]
    sources += [release("brats2023_met", tmp_path).model_copy(update={"name": "b"})]
    cases = find_cases(sources)
    assert len(cases) == 2
    assert left_out(sources, cases) == []


def test_a_case_of_dangling_links_or_of_nothing_is_an_error(tmp_path: Path):
    put(tmp_path / CASE, NEW)
    for number in (2, 3):
        (tmp_path / f"BraTS-GLI-0000{number}-000").mkdir()
    for suffix in NEW:
        (tmp_path / f"BraTS-GLI-00002-000/BraTS-GLI-00002-000{suffix}").symlink_to("/nowhere")
    source = release("brats2023_gli", tmp_path)
    _, *odd = find_cases([source])
    assert len(odd) == 2
    for case in odd:
        found = check_case(case, source, VerificationConfig()).findings
        assert [f.code for f in found] == ["modality-missing"] * 4 + ["mask-missing"]
    assert rest_of(tmp_path) == {}


def test_a_folder_in_place_of_a_file_is_read_if_it_holds_one_image(tmp_path: Path):
    for suffix in NEW:
        name = f"{CASE}{suffix}".removesuffix(".gz")
        write(tmp_path / CASE / name / "00000057_brain.nii", np.ones((2, 2, 2), np.int16))
        (tmp_path / CASE / name / "._x.nii").write_bytes(b"")
    (case,) = find_cases([release("brats2023_gli", tmp_path)])
    assert case.images["t1c"].path.endswith(f"{CASE}-t1c.nii/00000057_brain.nii")
    assert case.mask.endswith(f"{CASE}-seg.nii/00000057_brain.nii")
    assert rest_of(tmp_path) == {}
    write(tmp_path / CASE / f"{CASE}-t1c.nii" / "other.nii", np.ones((2, 2, 2), np.int16))
    (case,) = find_cases([release("brats2023_gli", tmp_path)])
    assert "t1c" not in case.images
    assert list(rest_of(tmp_path)) == [f"{CASE}/{CASE}-t1c.nii"]


def test_capitals_of_endings_do_not_matter(tmp_path: Path):
    put(tmp_path / CASE, NEW)
    for path in list((tmp_path / CASE).iterdir()):
        path.rename(path.with_name(path.name.replace(".nii.gz", ".NII.GZ")))
    (case,) = find_cases([release("brats2023_gli", tmp_path)])
    assert set(case.images) == {"t1n", "t1c", "t2w", "t2f"}
    assert case.mask


def test_a_link_with_a_cases_name_is_a_case_whatever_else_leads_there(tmp_path: Path):
    put(tmp_path / "A_store", NEW, CASE)
    (tmp_path / CASE).symlink_to(tmp_path / "A_store")
    (tmp_path / "loop").symlink_to(tmp_path)
    (case,) = find_cases([release("brats2023_gli", tmp_path)])
    assert (case.case_id, len(case.images)) == (CASE, 4)
    assert rest_of(tmp_path) == {}
    assert len(list(walk(tmp_path))) == 4


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("BraTS2021_00000/x_t1.nii", "images in 1 of its folders: BraTS2021_00000\n.*`brats2021`"),
        ("BraTS-GoAT-00001/x.nii.gz", "`brats2024_goat`"),
        ("BraTS-GLI-00001-000-t1n.nii.gz", f"the case {CASE}"),
        ("training.zip", r"training.zip and no image\n  -> unpack it"),
        ("notes.txt", "no image, but notes.txt"),
    ],
)
def test_where_nothing_is_a_case_the_error_says_what_is_there(tmp_path: Path, name, words):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(DataError, match=rf"(?s)named like `brats2023_gli`.*{words}"):
        find_cases([release("brats2023_gli", tmp_path)])


def test_a_case_found_twice_is_named_with_both_paths(tmp_path: Path):
    for folder in ("a", "b"):
        put(tmp_path / folder / CASE, NEW)
    with pytest.raises(DataError, match=rf"a/{CASE}.* and .*b/{CASE}"):
        find_cases([release("brats2023_gli", tmp_path)])


def test_index_and_findings_end_with_what_was_not_taken(tmp_path: Path, capsys):
    put(tmp_path / "data" / CASE, NEW)
    for number in range(4):
        put(tmp_path / f"data/BraTS2021_0000{number}", OLD)
    index, table = tmp_path / "index/cases.parquet", tmp_path / "findings.parquet"
    write_index([release("brats2023_gli", tmp_path / "data")], index)
    last = capsys.readouterr().err.strip().splitlines()
    assert "4 folders that hold images were not taken: a/BraTS2021_00000" in " ".join(last)
    part = tmp_path / "part.parquet"
    write_records(part, [known("ok")])
    rest = read_left_out(index)
    gather([part], SplitsConfig(), VerificationConfig(), table, tmp_path / "s.json", rest=rest)
    rows = read_rows(table)
    assert [row["case"] for row in rows] == [f"a/BraTS2021_0000{n}" for n in range(4)]
    assert {(row["code"], row["severity"]) for row in rows} == {("folder-not-taken", "warning")}
    assert "4 folders that hold images were not taken" in capsys.readouterr().err


# ---- label maps


def labeled(kind: str, *cases: dict[int, float], **changes) -> list[CheckedCase]:
    """Return checked cases of a kind with volumes by label code."""
    labels = {code: name for code, name in RELEASES[kind].labels.items() if code}
    return [
        known(
            str(number),
            kind=kind,
            labels_ml=dict.fromkeys(labels.values(), 0.0)
            | {labels[code]: ml for code, ml in volumes.items()},
            **changes,
        )
        for number, volumes in enumerate(cases)
    ]


def accused(kind: str, *cases: dict[int, float]) -> list[Issue]:
    return label_map_findings(labeled(kind, *cases))


PED_2024 = ({1: 4, 2: 29}, {1: 4, 2: 21, 3: 8}, {2: 30}, {2: 20, 3: 2}, {1: 3, 2: 9})
PED_2023 = ({1: 20}, {1: 22, 3: 4}, {1: 9, 2: 4, 3: 2}, {1: 30, 3: 1}, {1: 12})
GLIOMA = [{1: 5, 2: 40, 3: 12}] * 9


def swapped(cases: Sequence[dict[int, float]], one: int, two: int) -> list[dict[int, float]]:
    names = {one: two, two: one}
    return [{names.get(code, code): ml for code, ml in case.items()} for case in cases]


@pytest.mark.parametrize(
    ("kind", "cases", "words"),
    [
        ("brats2023_ped", PED_2024, "brats2024_ped"),
        ("brats2023_ped", PED_2024[:1], "brats2024_ped"),
        ("brats2023_ped", PED_2024[1:2], "brats2024_ped"),
        ("brats2024_ped", PED_2023, "brats2023_ped"),
        ("brats2024_ped", PED_2023[:1], "brats2023_ped"),
        ("brats2023_gli", [{1: 5, 3: 12}] * 2, "other names"),
        ("brats2023_gli", swapped(GLIOMA, 1, 2), "NCR and ED may be exchanged"),
        ("brats2023_gli", swapped(GLIOMA, 2, 3)[:0] + [{1: 5, 2: 40}] * 4, "other names"),
        ("brats2023_men", [{1: 5, 2: 40}] * 3, "other names"),
        ("brats2024_gli", [{1: 5, 2: 40, 4: 9}] * 5, "ET may be code 4"),
        ("brats2024_met", [{1: 1, 2: 4, 4: 9}] * 3, "ET may be code 4"),
        ("brats2023_met", swapped(GLIOMA, 1, 2), "exchanged"),
    ],
)
def test_a_label_map_that_can_hardly_be_right_is_a_finding_over_the_source(kind, cases, words):
    found = accused(kind, *cases)
    assert {(f.code, f.severity, f.case) for f in found} == {("label-map", "warning", "s")}
    assert any(words in f.remedy for f in found)


@pytest.mark.parametrize(
    ("kind", "cases"),
    [
        ("brats2023_ped", PED_2023),
        ("brats2023_ped", PED_2023[:1]),
        ("brats2024_ped", PED_2024),
        ("brats2024_ped", PED_2024[:1]),
        ("brats2023_gli", GLIOMA),
        ("brats2018", [{1: 40, 2: 10}] * 4 + [{1: 10, 2: 40, 4: 5}] * 5),  # low grades
        ("brats2023_men", [{3: 20}] * 9),
        ("brats2023_met", [{3: 1, 2: 3}] * 5 + [{3: 0.1}] * 2),
        ("brats2024_gli", [{2: 40, 4: 12}] * 3 + [{4: 20}] * 9),  # cavities alone say nothing
        ("brats2024_men_rt", [{1: 20}] * 9),
        ("brats2023_gli", [{}] * 20),
    ],
)
def test_a_right_label_map_is_not_accused(kind, cases):
    assert accused(kind, *cases) == []


def test_parts_of_releases_with_their_published_shares_of_labels_are_not_accused():
    """The shares are those that `brats.py` names; sizes are made up."""
    random = np.random.default_rng(1)
    shares = {
        "brats2024_ped": {1: 0.665, 2: 0.99, 3: 0.32, 4: 0.2},
        "brats2024_met": {1: 0.54, 2: 0.89, 3: 0.96, 4: 0.13},
    }
    sizes = {"brats2024_ped": (4, 20, 5, 6), "brats2024_met": (1, 8, 3, 5)}
    for kind, share in shares.items():
        wrong = 0
        for size in (1, 2, 3, 5, 8, 13, 30, 90) * 25:
            wrong += bool(
                accused(
                    kind,
                    *(
                        {
                            code: median * random.lognormal(0, 0.8)
                            for (code, p), median in zip(share.items(), sizes[kind], strict=True)
                            if random.random() < p
                        }
                        for _ in range(size)
                    ),
                )
            )
        assert wrong <= 0.05 * 200


def test_one_mask_of_another_release_accuses_the_whole_source(tmp_path: Path):
    """Else `exclude` would leave out the cases that show it and believe all others."""
    code = "holds unknown labels [4], expected {0: 'background', 1: 'NCR'}"
    proof = Issue(
        code="mask-labels", severity="error", case="s/9", found=code, expected="", remedy=""
    )
    cases = [*labeled("brats2023_ped", {1: 20}, {1: 30})]
    cases += [known("9", kind="brats2023_ped", findings=[proof])]
    found = label_map_findings(cases)
    assert [(f.case, f.severity) for f in found] == [(f"s/{n}", "error") for n in (0, 1, 9)]
    assert "brats2024_ped" in found[0].remedy
    other = proof.model_copy(update={"found": code.replace("[4]", "[4, 7]")})
    cases[-1] = known("9", kind="brats2023_ped", findings=[other])
    assert label_map_findings(cases) == []
    # 1 to 3 mean the same in both releases of GLI: the other cases are right.
    gli = [*labeled("brats2023_gli", {1: 2, 2: 9, 3: 4})]
    assert label_map_findings([*gli, known("9", kind="brats2023_gli", findings=[proof])]) == []


def test_a_case_without_the_region_is_an_error_unless_the_source_holds_such_cases(tmp_path: Path):
    cases = labeled("brats2024_gli", {4: 32}, {2: 9}, {1: 2, 2: 9, 3: 4}, {})
    found = {region: region_findings(cases, region) for region in ("WT", "TC", "ET")}
    assert [[f.case for f in one] for one in found.values()] == [
        ["s/0"],
        ["s/0", "s/1"],
        ["s/0", "s/1"],
    ]
    assert "no WT, but 32.00 mL RC; 2 of 4 cases" in found["WT"][0].found
    free = [case.model_copy(update={"allow_empty_masks": True}) for case in cases]
    assert region_findings(free, "TC") == []
    part, summary = tmp_path / "part.parquet", tmp_path / "summary.json"
    write_records(part, free)
    gather([part], SplitsConfig(), VerificationConfig(), tmp_path / "f.parquet", summary, "TC")
    assert json.loads(summary.read_text())["region"] == {
        "name": "TC",
        "sources": {"s": {"masks": 4, "without": 3}},
    }


def test_volumes_of_labels_are_recorded_and_sound_cases_have_no_findings(tmp_path: Path):
    """A cavity alone is no tumor, whatever label it has."""
    mask = np.zeros((10, 10, 10), np.uint8)
    mask[:5] = 4
    for number, suffix in enumerate(NEW):
        values = mask if "seg" in suffix else np.arange(1, 1001).reshape(10, 10, 10) + number
        write(
            tmp_path / CASE / f"{CASE}{suffix}", values.astype(np.int16), np.diag([-10, -10, 10, 1])
        )
    source = release("brats2024_gli", tmp_path)
    checked = check_case(find_cases([source])[0], source, VerificationConfig())
    assert checked.labels_ml == {"NCR": 0.0, "ED": 0.0, "ET": 0.0, "RC": 500.0}
    assert {f.code for f in all_findings([checked], {})} >= {"region-missing"}


# ---- nnU-Net and MSD

V2 = {
    "channel_names": {"0": "FLAIR", "1": "T1w", "2": "T1gd", "3": "T2w"},
    "labels": {"background": 0, "edema": 1, "non-enhancing tumor": 2, "enhancing tumor": 3},
    "file_ending": ".nii.gz",
}


def described(root: Path, ending: str = ".nii.gz", cases=("BRATS_001",), **changes) -> None:
    for case in cases:
        for number in range(4):
            write(root / f"imagesTr/{case}_000{number}{ending}", np.ones((2, 2, 2), np.int16))
        write(root / f"labelsTr/{case}{ending}", np.ones((2, 2, 2), np.uint8))
    (root / "dataset.json").write_text(json.dumps(V2 | changes))


@pytest.mark.parametrize("kind", ["msd_brain", "nnunet"])
@pytest.mark.parametrize("ending", [".nii.gz", ".nii"])
def test_nnunets_layout_is_read(tmp_path: Path, kind, ending):
    described(tmp_path, ending, ["BRATS_001", "BraTS-GLI-00495-101"])
    brats, first = sorted(
        find_cases([release(kind, tmp_path)]), key=lambda case: case.patient_id != "brats_gli:00495"
    )
    assert {k: Path(v.path).name for k, v in first.images.items()} == {
        "t2f": f"BRATS_001_0000{ending}",
        "t1n": f"BRATS_001_0001{ending}",
        "t1c": f"BRATS_001_0002{ending}",
        "t2w": f"BRATS_001_0003{ending}",
    }
    assert {v.channel for v in first.images.values()} == {None}
    assert first.mask.endswith(f"labelsTr/BRATS_001{ending}")
    assert first.labels == {0: "background", 1: "ED", 2: "NET", 3: "ET"}
    assert brats.patient_id == "brats_gli:00495"  # two time points stay in one split
    assert rest_of(tmp_path, kind) == {}


def test_a_missing_channel_is_named_by_its_file(tmp_path: Path):
    described(tmp_path)
    lacking = [tmp_path / "imagesTr/BRATS_001_0002.nii.gz", tmp_path / "labelsTr/BRATS_001.nii.gz"]
    for path in lacking:
        path.rename(path.with_name(f"x{path.name}"))
    case = next(c for c in find_cases([release("nnunet", tmp_path)]) if c.case_id == "BRATS_001")
    assert case.absent == {"t1c": str(lacking[0]), "mask": str(lacking[1])}
    found = check_case(case, release("nnunet", tmp_path), VerificationConfig(), ["t1c"]).findings
    lost = [f.found for f in found if f.code in ("modality-missing", "mask-missing")]
    assert len(lost) == 2
    assert all(f"did you mean `x{p.name}`?" in text for p, text in zip(lacking, lost, strict=True))


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({"0": "background", "1": "Edema", "2": "necrosis"}, {1: "ED", 2: "NCR"}),
        (
            {"background": "0", "NETC": "1", "SNFH": "2", "ET": "3", "RC": "4"},
            {1: "NET", 2: "ED", 3: "ET", 4: "RC"},
        ),
        (
            {"background": 0, "NCR/NET": 1, "ED": 2, "enhancing_tumor": 3},
            {1: "NCR", 2: "ED", 3: "ET"},
        ),
        ({"background": 0, "tumor": 1}, {1: "WT"}),
        # Regions: of the codes that nnU-Net's own conversion of BraTS 2021 writes, and of PED 2024.
        (
            {
                "background": 0,
                "whole tumor": [1, 2, 3],
                "tumor core": [2, 3],
                "enhancing tumor": [3],
            },
            {1: "ED", 2: "NET", 3: "ET"},
        ),
        (
            {
                "background": 0,
                "whole_tumor": [1, 2, 3, 4],
                "tumor_core": [1, 2, 3],
                "CC": [3],
                "ET": 1,
            },
            {1: "ET", 2: "NET", 3: "CC", 4: "ED"},
        ),
    ],
)
def test_labels_are_mapped_by_their_names(tmp_path: Path, labels, expected):
    described(tmp_path, labels=labels)
    (case,) = find_cases([release("nnunet", tmp_path)])
    assert case.labels == {0: "background"} | expected


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"labels": {"background": 0, "liver": 1}},
            r"unknown labels: \['liver'\], expected .*ED \(ed\)",
        ),
        ({"channel_names": {"0": "CT"}}, r"unknown channel_names: \['CT'\], expected .*t2f"),
        (
            {"labels": {"background": 0, "WT": 1, "TC": 2, "ET": 3}},
            "the region TC by one code beside",
        ),
        ({"labels": {"background": 0, "lesions": [1, 2], "ET": 2}}, r"regions \['lesions', 'et'\]"),
        ({"labels": {"background": 0, "ED": 1, "edema": 2}}, "names one twice"),
        ({"labels": [1, 2]}, "nor of names to numbers"),
    ],
)
def test_names_that_do_not_tell_channels_or_tissues_are_refused(tmp_path: Path, change, words):
    described(tmp_path, **change)
    with pytest.raises(DataError, match=words):
        find_cases([release("nnunet", tmp_path)])


def test_a_missing_channel_is_an_error_and_stray_files_are_named(tmp_path: Path):
    described(tmp_path, numTraining=3)
    (tmp_path / "imagesTr/BRATS_001_0001.nii.gz").unlink()
    write(tmp_path / "imagesTr/BRATS_001_0007.nii.gz", np.ones((2, 2, 2), np.int16))
    write(tmp_path / "labelsTr/BRATS_009.nii.gz", np.ones((2, 2, 2), np.int16))
    for number in range(4):
        write(tmp_path / f"imagesTs/BRATS_002_000{number}.nii.gz", np.ones((2, 2, 2), np.int16))
    source = release("nnunet", tmp_path)
    first, stray = find_cases([source])
    assert sorted(first.images) == ["t1c", "t2f", "t2w"]
    assert (stray.case_id, stray.mask) == ("BRATS_001_0007", None)  # so verification refuses it
    found = rest_of(tmp_path, "nnunet")
    assert "no image of its name" in found["labelsTr"]
    assert "masks: optional" in found["imagesTs"]
    assert "dataset.json and imagesTr differ" in found["dataset.json"]
    assert "imagesTs" not in rest_of(tmp_path, "nnunet", masks="optional")
    write(tmp_path / "labelsTs/BRATS_002.nii.gz", np.ones((2, 2, 2), np.int16))
    assert [(c.case_id, c.split) for c in find_cases([source])][-1] == ("BRATS_002", "test")


def test_cases_that_dataset_json_names_and_that_are_not_there_are_said(tmp_path: Path):
    names = [f"./imagesTr/BRATS_00{n}.nii.gz" for n in (1, 2)]
    described(tmp_path, training=[{"image": name, "label": name} for name in names])
    (one,) = left_out([source := release("msd_brain", tmp_path)], find_cases([source]))
    assert "names 2 training cases; imagesTr holds 1" in one.found
    assert "not there: 1, as BRATS_002" in one.found


def test_a_root_one_level_above_is_led_on(tmp_path: Path):
    described(tmp_path / "Task01_BrainTumour")
    with pytest.raises(DataError, match=r"set `sources\[\].root` to .*Task01_BrainTumour"):
        find_cases([release("msd_brain", tmp_path)])
    with pytest.raises(DataError, match=rf"root` to {tmp_path}/Task01_BrainTumour"):
        find_cases([release("msd_brain", tmp_path / "Task01_BrainTumour/imagesTr")])
