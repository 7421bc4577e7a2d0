"""From volumes to frames and truth, and again after a crash."""

import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from conftest import MEDIA, phantom_source

from medtune.config.data import MediaConfig, TargetConfig, VerificationConfig
from medtune.config.stages import ConvertStage
from medtune.geometry.volume import Geometry
from medtune.media.convert import convert_case
from medtune.media.overlay import TRUTH_COLOR, draw_boxes
from medtune.media.read import Grid
from medtune.media.shard import convert_shard
from medtune.media.truth import figures, find_truth, remove_small_components
from medtune.media.volume import brain_mask, plan_geometry, tile_frames, window
from medtune.models.inputs import read_frames
from medtune.records.issue import CheckedCase
from medtune.records.sample import SPLITS, iterate, load_split, to_row, write_dataset
from medtune.runtime.errors import DataError
from medtune.runtime.files import sha256
from medtune.runtime.tables import read_records, write_records
from medtune.sources import find_cases
from medtune.sources.check import check_case


def test_window_is_by_percentiles_inside_the_brain():
    volume = np.zeros((10, 10, 1), dtype=np.int16)
    volume[:, 1:] = np.arange(90).reshape(10, 9, 1) + 100
    brain = volume != 0
    whole = (0, 0, 0, 10, 10, 1)
    shown = window(volume, brain, (0, 100), whole)
    assert shown[~brain].max() == 0
    assert (shown[brain].min(), shown[brain].max()) == (0, 255)
    assert shown[5, 5, 0] == round(255 * (volume[5, 5, 0] - 100) / 89)
    assert (window(volume * 10, brain, (0, 100), whole) == shown).all()  # no fixed unit
    part = window(volume, brain, (0, 100), (2, 1, 0, 6, 9, 1))
    assert (part == shown[2:6, 1:9]).all()


def lps_grid(shape) -> Grid:
    return Grid(np.zeros(shape, np.int16), np.diag([-1.0, -1, 1, 1]), oriented=True)


def test_layouts_put_the_first_modality_at_the_origin():
    brain = np.ones((6, 8, 3), dtype=bool)
    volumes = [np.full((6, 8, 3), value, np.uint8) for value in (10, 20, 30, 40)]
    for layout, shape, second in (("row", (3, 8, 24), (0, 6)), ("grid", (3, 16, 12), (0, 6))):
        config = MediaConfig(layout=layout, multiple_of=2)
        geometry = plan_geometry(lps_grid((6, 8, 3)), brain, config)
        assert geometry.frame_size == shape[:0:-1]
        shown = tile_frames(volumes, geometry)
        assert shown.shape == shape
        assert (shown[:, 0, 0] == 10).all()
        assert (shown[:, second[0], second[1]] == 20).all()
        assert (shown[:, -1, -1] == 40).all()
    names = ["a", "b", "c"]
    for layout, count, shape in (
        ("row", 2, (3, 8, 12)),
        ("row", 3, (3, 8, 18)),
        ("grid", 2, (3, 16, 12)),
        ("grid", 3, (3, 16, 12)),
    ):
        config = MediaConfig(layout=layout, modalities=names[:count], multiple_of=2)
        geometry = plan_geometry(lps_grid((6, 8, 3)), brain, config)
        shown = tile_frames(volumes[:count], geometry)
        assert geometry.frame_size == shown.shape[:0:-1] == shape[:0:-1]
        for (across, down), value in zip(geometry.tile_offsets, (10, 20, 30), strict=False):
            tile = shown[:, down * 8 : down * 8 + 8, across * 6 : across * 6 + 6]
            assert (tile == value).all()
        assert (shown != 0).sum() == count * 3 * 8 * 6  # the rest is black
    config = MediaConfig(modalities=["t2f", "t1c", "t2w"], layout="rgb", multiple_of=2)
    geometry = plan_geometry(lps_grid((6, 8, 3)), brain, config)
    assert tile_frames(volumes[:3], geometry)[0, 0, 0].tolist() == [10, 20, 30]


def test_size_is_the_grid_rounded_up_and_the_box_moves_with_it():
    """BraTS 2024: 182 x 218 becomes 196 x 224, not the swapped 224 x 196 of a published fix."""
    brain = np.ones((182, 218, 4), dtype=bool)
    config = MediaConfig(modalities=["t2f"], layout="single")
    geometry = plan_geometry(lps_grid((182, 218, 4)), brain, config)
    assert geometry.size == (196, 224)
    box = geometry.lps_to_media((68, 137, 1, 133, 192, 2))
    scale = (196 / 182, 224 / 218)
    assert box == pytest.approx(
        (68 * scale[0], 137 * scale[1], 1, 133 * scale[0], 192 * scale[1], 2)
    )


def plain(shape, **changes) -> Geometry:
    values = {
        "source_shape": shape,
        "affine": np.diag([-1.0, -1, 1, 1]).tolist(),
        "crop": (0, 0, 0, *shape),
        "stride": 1,
        "size": shape[:2],
        "layout": "single",
    }
    return Geometry.model_validate(values | changes)


def test_truth_by_hand():
    target = np.zeros((6, 6, 5), dtype=bool)
    target[1:3, 2:4, 1] = True
    target[1:4, 2:4, 2:4] = True  # two slices with six voxels: the lower one is the peak
    brain = np.zeros((6, 6, 5), dtype=bool)
    brain[:, :, :4] = True
    truth, boxes = find_truth(target, brain, plain((6, 6, 5)))
    assert boxes == [[1, 1, 2, 3, 4], [2, 1, 2, 4, 4], [3, 1, 2, 4, 4]]
    assert truth.bbox_3d == (1, 2, 1, 4, 4, 4)
    assert truth.peak_slice == 2
    assert truth.tumor_ratio == pytest.approx(16 / 144)
    none, _ = find_truth(np.zeros_like(target), brain, plain((6, 6, 5)))
    assert (none.bbox_3d, none.peak_slice, none.tumor_ratio) == (None, None, 0.0)


def test_truth_under_stride_and_crop():
    """The box holds what the shown frames hold; slices 1, 3, 5 and 7 are shown."""
    target = np.zeros((6, 6, 9), dtype=bool)
    target[2:4, 2:4, 5] = True
    geometry = plain((6, 6, 9), crop=(1, 1, 1, 5, 5, 9), stride=2, size=(8, 8))
    truth, boxes = find_truth(target, np.ones_like(target), geometry)
    assert (truth.bbox_3d, truth.peak_slice) == ((2, 2, 2, 6, 6, 3), 2)
    assert boxes == [[2, 2, 2, 6, 6]]
    hidden = np.roll(target, 1, axis=2)  # slice 6 lies between two shown slices
    truth, _ = find_truth(hidden, np.ones_like(target), geometry)
    assert (truth.bbox_3d, truth.peak_slice) == ((2, 2, 2, 6, 6, 3), 2)
    larger_between = target.copy()
    larger_between[1:5, 1:5, 6] = True
    truth, _ = find_truth(larger_between, np.ones_like(target), geometry)
    assert (truth.bbox_3d, truth.peak_slice) == ((2, 2, 2, 6, 6, 3), 2)


def test_a_target_outside_the_shown_part_is_refused():
    target, brain = np.zeros((6, 6, 9), dtype=bool), np.ones((6, 6, 9), dtype=bool)
    target[0, 0, 0] = True
    geometry = plain((6, 6, 9), crop=(1, 1, 1, 5, 5, 9))
    with pytest.raises(DataError, match="outside the brain"):
        find_truth(target, brain, geometry)
    target[0:3, 3, 3] = True  # partly outside: the box ends where the picture does
    truth, _ = find_truth(target, brain, geometry)
    assert truth.bbox_3d == (0, 3, 2, 3, 4.5, 3)
    with pytest.raises(DataError, match=r"ratio 2\.000"):
        find_truth(
            np.ones_like(brain),
            np.arange(brain.size).reshape(brain.shape) % 2 == 0,
            plain((6, 6, 9)),
        )


def test_specks_are_parts_connected_by_faces():
    target = np.zeros((6, 6, 6), dtype=bool)
    target[0:2, 0:2, 0:2] = True
    target[2, 2, 2] = True  # touches the cube by a corner only
    target[5, 5, 4:6] = True
    assert remove_small_components(target, 0, 2.0)[1:] == (3, 3)
    cleaned, before, after = remove_small_components(target, 4.0, 2.0)
    assert (before, after, int(cleaned.sum())) == (3, 2, 10)
    assert not cleaned[2, 2, 2]


def test_figures_by_hand():
    """Volume from the spacing and not from its sum; the centroid in RAS mm."""
    target = np.zeros((6, 8, 5), dtype=bool)
    target[4:6, 2:4, 1:4] = True
    affine = np.array([[-2.0, 0, 0, 10], [0, -0.5, 0, 20], [0, 0, 3, -7], [0, 0, 0, 1]])
    found = figures(target, plain((6, 8, 5), affine=affine.tolist()))
    assert found["volume_ml"] == pytest.approx(12 * 3 / 1000)
    assert found["lps_box"] == [4, 2, 1, 6, 4, 4]
    assert (found["lps_slices"], found["lps_peak_slice"]) == ([1, 3], 1)
    assert found["lps_peak_voxels"] == 4
    assert found["centroid_mm"] == pytest.approx([10 - 2 * 4.5, 20 - 0.5 * 2.5, -7 + 3 * 2])
    assert found["side"] == "left"


def test_converted_media_match_their_records(dataset: Path):
    for split in SPLITS:
        for sample in iterate(load_split(dataset, split)):
            media = sample.media[0]
            geometry = Geometry.model_validate(sample.geometry)
            assert (media.width, media.height) == geometry.frame_size == (32, 32)
            assert media.frames == geometry.frames
            shown = read_frames(media, dataset)
            box = sample.truth["bbox_3d"]
            if box is not None:
                x1, y1, z1, x2, y2, z2 = box
                assert 0 <= x1 < x2 <= 32
                assert 0 <= y1 < y2 <= 32
                assert 0 <= z1 < z2 <= media.frames
                assert z1 <= sample.truth["peak_slice"] < z2
                # FLAIR (red) is brighter inside the box of the peak slice than outside.
                red = shown[sample.truth["peak_slice"], ..., 0].astype(float)
                inside = np.zeros_like(red, dtype=bool)
                inside[round(y1) : round(y2), round(x1) : round(x2)] = True
                assert red[inside].mean() > red[~inside & (red > 0)].mean()


def convert_again(dataset: Path, folder: Path, count: int = 3, **changes) -> Path:
    """Convert the first cases of the data set's source into another folder."""
    work = dataset.parent
    stage = ConvertStage(media=MEDIA.model_copy(update=changes), task=TargetConfig())
    folder.mkdir(exist_ok=True)
    few = folder.parent / f"{folder.name}.parquet"
    write_records(few, read_records(work / "index/checked.parquet", CheckedCase)[:count])
    convert_shard(stage, few, folder / "0000.parquet")
    return folder


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_second_conversion_gives_the_same_bytes(dataset: Path, tmp_path: Path):
    videos = sorted(convert_again(dataset, tmp_path / "again").rglob("*.mp4"))
    assert len(videos) == 3
    for video in videos:
        assert video.read_bytes() == (dataset.parent / "media/phantom" / video.name).read_bytes()


def test_a_stopped_shard_goes_on_where_it_was(dataset: Path, tmp_path: Path, monkeypatch):
    from medtune.media import shard

    whole = tree(convert_again(dataset, tmp_path / "whole"))
    converted, calls = shard.convert_case, []

    def stop_at_the_third(case, *arguments):
        calls.append(case.case_id)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return converted(case, *arguments)

    monkeypatch.setattr(shard, "convert_case", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        convert_again(dataset, tmp_path / "a")
    journal = tmp_path / "a/.done-0000.jsonl"
    journal.write_bytes(
        journal.read_bytes() + '{"key": "tö'.encode()[:-1] + b'\n{"key": 1, "record": {}}'
    )
    (tmp_path / "a/phantom" / f"{calls[0]}.mp4").write_bytes(b"damaged")
    first, _, third = calls
    convert_again(dataset, tmp_path / "a")
    assert calls[3:] == [first, third]  # the damaged one and the one that was not done
    assert tree(tmp_path / "a") == whole
    convert_again(dataset, tmp_path / "a", window=(1.0, 99.0))
    assert len(calls) == 8
    assert tree(tmp_path / "a") != whole


def test_a_file_changed_since_its_verification_is_refused(phantom_root: Path, tmp_path: Path):
    root = tmp_path / "raw"
    shutil.copytree(phantom_root, root)
    (case, *_) = find_cases([phantom_source(root)])
    checked = check_case(case, phantom_source(root), VerificationConfig())
    convert_case(case, TargetConfig(), MEDIA, tmp_path, checked.files)
    path = case.images["t1n"].path
    image = nib.load(path)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj) + 1, image.affine), path)
    with pytest.raises(DataError, match="changed since it was verified"):
        convert_case(case, TargetConfig(), MEDIA, tmp_path, checked.files)


def test_splits_share_no_patient(dataset: Path):
    patients = [
        {sample.patient_id for sample in iterate(load_split(dataset, split))} for split in SPLITS
    ]
    assert all(patients)
    assert not patients[0] & patients[1]
    assert not (patients[0] | patients[1]) & patients[2]


def test_the_same_samples_give_the_same_bytes(samples, tmp_path: Path):
    for name in ("a", "b"):
        write_dataset(samples, tmp_path / name)
    first, second = (
        {
            p.relative_to(tmp_path / n): p.read_bytes()
            for p in (tmp_path / n).rglob("*")
            if p.is_file()
        }
        for n in ("a", "b")
    )
    assert first == second
    assert len(first) == 3 * 3
    assert to_row(samples[0])["truth"].startswith("{")


def test_an_empty_split_and_a_missing_data_set_are_named(samples, tmp_path: Path):
    write_dataset(samples, tmp_path)
    with pytest.raises(DataError, match="split is empty"):
        load_split(tmp_path, "test")
    with pytest.raises(DataError, match="no such data set"):
        load_split(tmp_path / "none", "test")


def test_overlay_draws_where_the_box_is_and_only_on_its_frames():
    black = np.zeros((32, 32, 3), dtype=np.uint8)
    box = (8.0, 4.0, 2.0, 16.0, 12.0, 4.0)
    drawn = np.asarray(draw_boxes(black, 2, [("#ff0000", box)]))
    zoom = drawn.shape[0] // 32
    rows, columns = np.nonzero(drawn[..., 0])
    assert (columns.min(), columns.max() + 1) == (8 * zoom, 16 * zoom)
    assert (rows.min(), rows.max() + 1) == (4 * zoom, 12 * zoom)
    assert np.asarray(draw_boxes(black, 4, [("#ff0000", box)])).max() == 0


def luminance(rgb: tuple[int, ...]) -> float:
    """Relative luminance of sRGB, WCAG 2.2."""
    linear = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in np.divide(rgb, 255)
    ]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


@pytest.mark.parametrize("gray", range(0, 256, 15))
def test_a_truth_box_is_seen_on_any_tissue(gray):
    """A line of it has at least the contrast of 3 to 1 that WCAG 2.2 (1.4.11) asks for."""
    frame = np.full((32, 32, 3), gray, dtype=np.uint8)
    drawn = np.asarray(draw_boxes(frame, 0, [(TRUTH_COLOR, (8, 4, 0, 16, 12, 1))]))
    colors, counts = np.unique(drawn.reshape(-1, 3), axis=0, return_counts=True)
    back = luminance((gray, gray, gray)) + 0.05
    levels = [luminance(c) + 0.05 for c, n in zip(colors, counts, strict=True) if n > 100]
    assert max(max(level / back, back / level) for level in levels) >= 3


def test_brain_is_where_any_modality_is_not_zero():
    a, b = np.zeros((2, 2, 1)), np.zeros((2, 2, 1))
    a[0, 0], b[1, 1] = -3, 5
    assert brain_mask({"a": a, "b": b})[..., 0].tolist() == [[True, False], [False, True]]


def test_files_that_only_moved_change_no_table_and_convert_nothing(
    phantom_root: Path, tmp_path: Path, monkeypatch
):
    """Another mount, another spelling of a path, other times: the contents are known."""
    tables = []
    for name in ("here", "there"):
        root = tmp_path / name
        shutil.copytree(phantom_root, root, copy_function=shutil.copyfile)
        (case, *_) = find_cases([phantom_source(root)])
        checked = check_case(case, phantom_source(root), VerificationConfig())
        write_records(tmp_path / f"{name}.parquet", [checked])
        output = tmp_path / "media/0000.parquet"
        convert_shard(
            ConvertStage(media=MEDIA, task=TargetConfig()), tmp_path / f"{name}.parquet", output
        )
        tables.append(sha256(output))
        monkeypatch.setattr("medtune.media.shard.convert_case", None)  # no other conversion
    assert tables[0] == tables[1]
