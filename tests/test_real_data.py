"""Real BraTS and MSD cases: known answers to the digit, refusals, and all the way to a report."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import REAL_DATA, REPOSITORY
from small_experiment import TINY, snakemake

from medtune.config.data import MediaConfig, SourceConfig, TargetConfig, VerificationConfig
from medtune.geometry.volume import Geometry
from medtune.media.convert import convert_case, read_target
from medtune.media.read import VolumeReader
from medtune.media.video import decode
from medtune.records.sample import SPLITS, iterate, load_split
from medtune.runtime.files import read_json
from medtune.sources import find_cases
from medtune.sources.brain.brats import OLD_LABELS
from medtune.sources.check import check_case
from medtune.sources.verify import same_images

BRAIN = REAL_DATA / "brain"
ROOTS = {
    "brats2018": BRAIN / "brats2018",
    "brats2023_gli": BRAIN / "brats2023",
    "msd_brain": BRAIN / "msd/Task01_BrainTumour",
}
pytestmark = pytest.mark.skipif(not BRAIN.is_dir(), reason=f"real cases are not at {BRAIN}")


def source(kind: str) -> SourceConfig:
    return SourceConfig(name=kind, kind=kind, root=str(ROOTS[kind]))


def the_case(kind: str):
    (case,) = find_cases([source(kind)])
    return case


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """Both packings of the 2018 case, converted at native size, four modalities in a row."""
    folder = tmp_path_factory.mktemp("real")
    result = {}
    for kind in ("brats2018", "msd_brain"):
        case = the_case(kind)
        result[kind] = (
            convert_case(case, TargetConfig(), MediaConfig(), folder / kind),
            folder / kind / f"{case.case_id}.mp4",
        )
    return result


@pytest.mark.parametrize("kind", ["brats2018", "msd_brain"])
def test_known_answers(converted, kind):
    record, _ = converted[kind]
    meta = record.meta
    assert round(meta["volume_ml"], 3) == 61.085
    assert meta["lps_slices"] == [69, 126]
    assert (meta["lps_peak_slice"], meta["lps_peak_voxels"]) == (101, 2144)
    assert [round(v, 1) for v in meta["centroid_mm"]] == [-108.1, 108.9, 100.2]
    assert record.truth.peak_slice == 101
    assert record.truth.bbox_3d[2::3] == (69, 127)
    assert (meta["components"], meta["components_kept"]) == (19, 19)
    mask, _ = read_target(record.case, TargetConfig(), VolumeReader())
    x, y, z = (np.flatnonzero(mask.any(axis=a)) for a in ((1, 2), (0, 2), (0, 1)))
    tight = (x[0], y[0], z[0], x[-1] + 1, y[-1] + 1, z[-1] + 1)
    assert meta["lps_box"] == [int(v) for v in tight]
    geometry = record.geometry
    assert geometry.media_to_lps(record.truth.bbox_3d) == pytest.approx(tight)
    assert meta["side"] == geometry.side(record.truth.bbox_3d)


def test_the_video_has_four_tiles_one_frame_per_slice_and_the_tumor_in_the_box(converted):
    record, path = converted["brats2018"]
    frames, fps = decode(path)
    assert (frames.shape, fps) == ((155, 252, 4 * 252, 3), 2.0)
    x1, y1, _, x2, y2, _ = (round(v) for v in record.truth.bbox_3d)
    flair = frames[101, :, 3 * 252 :, 0].astype(float)
    inside = flair[y1:y2, x1:x2]
    assert np.percentile(inside, 75) > np.percentile(flair[flair > 0], 90)


def test_both_packings_of_one_case_give_one_truth(converted):
    first, second = (converted[kind][0] for kind in ("brats2018", "msd_brain"))
    assert first.truth == second.truth
    assert first.media.sha256 == second.media.sha256
    checked = [
        check_case(the_case(kind), source(kind), VerificationConfig())
        for kind in ("brats2018", "msd_brain")
    ]
    assert same_images(checked) == [tuple(sorted(c.case.id for c in checked))]


@pytest.mark.parametrize("kind", ROOTS)
def test_sound_cases_have_no_findings(kind):
    checked = check_case(the_case(kind), source(kind), VerificationConfig())
    assert checked.findings == []


def test_the_misaligned_mask_is_refused():
    path = next((BRAIN / "brats2023_misaligned_mask").glob("*.nii.gz"))
    case = the_case("brats2023_gli").model_copy(update={"mask": str(path)})
    findings = check_case(case, source("brats2023_gli"), VerificationConfig()).findings
    assert [finding.code for finding in findings] == ["affine-mismatch", "mask-labels"]
    its_codes = case.model_copy(update={"labels": OLD_LABELS})
    findings = check_case(its_codes, source("brats2023_gli"), VerificationConfig()).findings
    # Laid over the images voxel by voxel it would fit; in the patient it lies elsewhere.
    assert findings[0].code == "affine-mismatch"
    assert findings[0].severity == "error"
    assert {finding.code for finding in findings} <= {"affine-mismatch", "mask-outside-brain"}


def test_the_nrrd_cases_convert_by_a_table(tmp_path: Path):
    """Any data: MR heads of 25 and 23 slices with a binary mask."""
    root = BRAIN / "pyradiomics"
    rows = [f"brain{n},{n},{root}/brain{n}_image.nrrd,{root}/brain{n}_label.nrrd" for n in (1, 2)]
    (tmp_path / "cases.csv").write_text("\n".join(["case_id,patient_id,mr,mask", *rows]) + "\n")
    table = SourceConfig(
        name="own", kind="table", root=str(tmp_path), table="cases.csv", labels={1: "WT"}
    )
    config = MediaConfig(modalities=["mr"], layout="single")
    for case, depth in zip(find_cases([table]), (25, 23), strict=True):
        findings = check_case(case, table, VerificationConfig()).findings
        assert all(finding.severity == "warning" for finding in findings), findings
        record = convert_case(case, TargetConfig(), config, tmp_path)
        frames, _ = decode(tmp_path / record.media.path)
        assert frames.shape == (depth, 280, 280, 3)
        assert record.meta["spacing_mm"] == pytest.approx([0.78125, 0.78125, 6.5], abs=1e-3)
        low, high = np.array(record.truth.bbox_3d).reshape(2, 3)
        assert (low >= 0).all()
        assert (low < high).all()
        assert (high <= [280, 280, depth]).all()
        assert low[2] <= record.truth.peak_slice < high[2]


def test_real_cases_go_through_to_the_report(tmp_path: Path):
    """The real experiment's file, with a tiny model, small tiles and every 6th slice."""
    values = yaml.safe_load((REPOSITORY / "config/brain_tumor_3d.yaml").read_text())
    kinds = {"msd": "msd_brain", "b18": "brats2018", "b23": "brats2023_gli"}
    values["sources"] = [
        {"name": name, "kind": kind, "root": str(ROOTS[kind])} for name, kind in kinds.items()
    ]
    values["splits"]["fixed"] = {"msd": "train", "b23": "test"}
    values["media"] |= {"stride": 6, "tile_size": [56, 56]}
    tiny = TINY | {"patch_size": 14}
    values["model"] |= {"path": None, "builder": "tiny", "tiny": tiny, "dtype": "float32"}
    values["sft"] |= {"epochs": 2, "gradient_accumulation": 1, "logging_steps": 1}
    values["grpo"] |= {"steps": 1, "num_generations": 2, "gradient_accumulation": 2}
    for section in ("sft", "grpo"):
        values[section]["lora"] |= {"rank": 4}
    values["evaluation"] |= {"samples": 2, "max_new_tokens": 32, "resamples": 100}
    values["grpo"]["max_completion_length"] = 32
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
    run = snakemake(tmp_path)
    assert run.returncode == 0, run.stdout + run.stderr
    results = tmp_path / "results/brain_tumor_3d"
    assert (results / "report/report.html").stat().st_size > 100_000
    found = read_json(results / "index/verification.json")
    assert len(found["accepted"]) == 3
    assert len(found["same_images"]) == 1
    samples = {
        split: list(iterate(load_split(results / "datasets", split, allow_empty=True)))
        for split in SPLITS
    }
    # b18 has no split of its own: it follows its MSD twin into training.
    assert sorted(s.source for s in samples["train"]) == ["b18", "msd"]
    assert [s.source for s in samples["test"]] == ["b23"]
    for sample in samples["train"]:
        assert sample.meta["lps_peak_slice"] == 101
        assert sample.target.startswith("<think>This video shows")
        geometry = Geometry.model_validate(sample.geometry)
        assert geometry.frame_size == (4 * 56, 56)
