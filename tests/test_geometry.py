"""Boxes survive every change of frame, in all 48 orientations, and sides are the patient's."""

import itertools
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.affines import apply_affine
from nibabel.orientations import axcodes2ornt, inv_ornt_aff, ornt_transform

from medtune.config.data import MediaConfig, TargetConfig
from medtune.geometry.volume import (
    LPS,
    Geometry,
    affine_gap_mm,
    box_iou,
    box_volume,
    center_distance_mm,
    mask_box,
    to_lps,
)
from medtune.media.convert import convert_case
from medtune.media.video import decode
from medtune.models.coordinate_format import COORDINATE_FORMATS
from medtune.records.case import Case, Volume
from medtune.sources.brain.brats import LABELS

ORIENTATIONS = [
    tuple(codes[axis][flip] for axis, flip in zip(order, flips, strict=True))
    for codes in [("LR", "PA", "SI")]
    for order in itertools.permutations(range(3))
    for flips in itertools.product((0, 1), repeat=3)
]


def stored(orientation, shape_lps, spacing=(1.5, 1.0, 4.0), origin=(-37.0, 80.0, -12.0)):
    """Return (source shape, affine) of a grid stored in an orientation; the world is one."""
    lps_affine = np.diag([-spacing[0], -spacing[1], spacing[2], 1.0])
    lps_affine[:3, 3] = origin
    turn = ornt_transform(LPS, axcodes2ornt(orientation))
    shape = np.zeros(3, dtype=int)
    for axis, target in enumerate(turn[:, 0].astype(int)):
        shape[target] = shape_lps[axis]
    return tuple(int(n) for n in shape), lps_affine @ inv_ornt_aff(turn, shape_lps)


def geometry_of(orientation, shape_lps=(10, 14, 6), **changes):
    shape, affine = stored(orientation, shape_lps)
    values = {
        "source_shape": shape,
        "affine": affine.tolist(),
        "crop": (0, 0, 0, *shape_lps),
        "stride": 1,
        "size": shape_lps[:2],
        "layout": "single",
    }
    return Geometry.model_validate(values | changes)


def test_there_are_48_orientations():
    assert len(set(ORIENTATIONS)) == 48


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_source_box_agrees_with_the_turned_volume(orientation):
    geometry = geometry_of(orientation)
    volume = np.zeros(geometry.source_shape, dtype=bool)
    low = np.array([1, 2, 3])
    high = np.minimum(low + [2, 1, 3], geometry.source_shape)
    volume[low[0] : high[0], low[1] : high[1], low[2] : high[2]] = True
    turned = to_lps(volume, geometry.affine)
    assert turned.shape == geometry.lps_shape == (10, 14, 6)
    source = (*map(float, low), *map(float, high))
    assert geometry.source_to_lps(source) == pytest.approx(mask_box(turned))
    assert geometry.lps_to_source(mask_box(turned)) == pytest.approx(source)


@st.composite
def chains(draw):
    shape = draw(st.tuples(st.integers(2, 9), st.integers(2, 9), st.integers(2, 9)))
    crop = [draw(st.integers(0, n - 1)) for n in shape]
    ends = [draw(st.integers(low + 1, n)) for low, n in zip(crop, shape, strict=True)]
    return geometry_of(
        draw(st.sampled_from(ORIENTATIONS)),
        shape,
        crop=(*crop, *ends),
        stride=draw(st.integers(1, 3)),
        size=(draw(st.integers(1, 40)), draw(st.integers(1, 40))),
        layout=draw(st.sampled_from(["single", "rgb", "row", "grid"])),
    )


@st.composite
def boxes(draw, limit=50.0):
    spans = [sorted(draw(st.tuples(*[st.floats(-limit, limit)] * 2))) for _ in range(3)]
    return (*[span[0] for span in spans], *[span[1] for span in spans])


@given(chains(), boxes())
def test_every_conversion_has_its_inverse(geometry, box):
    assert geometry.lps_to_media(geometry.media_to_lps(box)) == pytest.approx(box, abs=1e-6)
    assert geometry.source_to_lps(geometry.lps_to_source(box)) == pytest.approx(box, abs=1e-6)
    assert geometry.source_to_media(geometry.media_to_source(box)) == pytest.approx(box, abs=1e-6)
    points = np.array(box).reshape(2, 3)
    there = geometry.media_points_to_world(points)
    assert geometry.world_points_to_media(there) == pytest.approx(points, abs=1e-6)


@given(chains(), boxes(limit=8.0))
def test_world_corners_agree_with_the_file_affine(geometry, box):
    """The corners of a media box, carried through source voxels and the affine by nibabel."""
    source = np.array(geometry.media_to_source(box)).reshape(2, 3)
    corners = np.array(list(itertools.product(*source.T)))
    expected = apply_affine(np.array(geometry.affine), corners - 0.5)
    media = np.array(list(itertools.product(*np.array(box).reshape(2, 3).T)))
    found = geometry.media_points_to_world(media)
    assert np.sort(found, axis=0) == pytest.approx(np.sort(expected, axis=0), abs=1e-6)


@given(chains())
def test_frames_and_slices(geometry):
    for frame in range(geometry.frames):
        shown = geometry.frame_to_slice(frame)
        assert geometry.crop[2] <= shown < geometry.crop[5]
        assert geometry.slice_to_frame(shown) == frame
    width, height = geometry.frame_size
    tiles = {"single": 1, "rgb": 1, "row": 4, "grid": 4}[geometry.layout]
    assert width * height == tiles * geometry.size[0] * geometry.size[1]


@settings(deadline=None)
@given(chains(), boxes(limit=8.0))
def test_world_corners_agree_with_simpleitk(geometry, box):
    """SimpleITK reads the file and places the box's corners, in LPS mm, by its own means."""
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/a.nii.gz"
        affine = np.array(geometry.affine)
        image = nib.Nifti1Image(np.zeros(geometry.source_shape, np.uint8), affine)
        image.set_qform(affine, 1)
        nib.save(image, path)
        read = SimpleITK.ReadImage(path)
    source = geometry.media_to_source(box)
    for media, index in zip(corners_of(box), corners_of(source), strict=True):
        # The k-th corner of one is not the k-th of the other: axes may be turned and swapped.
        world = geometry.media_points_to_world([media])[0]
        found = {
            tuple(np.round(ras([*read.TransformContinuousIndexToPhysicalPoint(list(c))]), 3))
            for c in np.array(corners_of(source)) - 0.5
        }
        nearest = min(np.abs(np.array(point) - world).max() for point in found)
        assert nearest < 2e-3, (media, index)


def corners_of(box) -> list[tuple[float, ...]]:
    return list(itertools.product(*np.array(box).reshape(2, 3).T.tolist()))


def ras(lps) -> list[float]:
    return [-lps[0], -lps[1], lps[2]]


@settings(deadline=None)
@given(chains(), boxes(limit=8.0))
def test_frames_lead_through_the_dialects_to_the_source_and_back(geometry, box):
    for dialect in COORDINATE_FORMATS.values():
        said = [value for point in corners_of(box)[::7] for value in point]
        there = dialect.decode(said, geometry)
        scale = np.array(said) / np.where(np.array(there) == 0, 1, there)
        source = geometry.media_to_source(there)
        back = np.array(geometry.source_to_media(source)) * np.where(np.array(there) == 0, 1, scale)
        assert back == pytest.approx(said, abs=1e-6)


def test_one_voxel_has_volume_one():
    mask = np.zeros((4, 5, 6), dtype=bool)
    assert mask_box(mask) is None
    mask[3, 0, 5] = True
    assert mask_box(mask) == (3, 0, 5, 4, 1, 6)
    assert box_volume(mask_box(mask)) == 1


def test_iou_by_hand():
    assert box_iou((0, 0, 0, 2, 2, 2), (1, 1, 1, 3, 3, 3)) == pytest.approx(1 / 15)
    assert box_iou((0, 0, 0, 1, 1, 1), (1, 0, 0, 2, 1, 1)) == 0  # touching faces
    assert box_iou((0, 0, 0, 2, 3, 4), (0, 0, 0, 2, 3, 4)) == 1


@given(boxes(), boxes())
def test_iou_is_symmetric_and_bounded(a, b):
    assert box_iou(a, b) == box_iou(b, a)
    assert 0 <= box_iou(a, b) <= 1 + 1e-12


def test_center_distance_uses_the_spacing():
    geometry = geometry_of(("L", "P", "S"))
    distance = center_distance_mm((0, 0, 0, 2, 2, 2), (2, 1, 1, 4, 3, 3), geometry)
    assert distance == pytest.approx(np.sqrt((2 * 1.5) ** 2 + 1 + 4**2))


def test_affine_gap_is_the_largest_corner_distance():
    shifted = np.eye(4)
    shifted[0, 3] = 2.0
    assert affine_gap_mm(np.eye(4), shifted, (5, 5, 5)) == pytest.approx(2.0)
    assert affine_gap_mm(np.eye(4), np.diag([2.0, 1, 1, 1]), (5, 5, 5)) == pytest.approx(4.0)


@pytest.mark.parametrize("orientation", [("L", "P", "S"), ("R", "A", "S"), ("S", "A", "L")])
def test_side_comes_from_the_grid_and_not_from_world_x(orientation):
    # BraTS: the whole grid lies at negative world x, so its sign says "left" for every tumor.
    shape, affine = stored(orientation, (10, 14, 6), origin=(-100.0, 0.0, 0.0))
    geometry = geometry_of(orientation).model_copy(
        update={"source_shape": shape, "affine": tuple(map(tuple, affine.tolist()))}
    )
    assert geometry.side((7, 3, 2, 9, 6, 4)) == "left"
    assert geometry.side((1, 3, 2, 3, 6, 4)) == "right"
    assert geometry.side((4, 3, 2, 6, 6, 4)) == "midline"


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_marker_at_the_patients_right_front_top_reaches_the_decoded_frame(
    orientation, tmp_path: Path
):
    """From NIfTI to decoded video: right is the image's left, front its top, top the last frame."""
    shape, affine = stored(orientation, (16, 18, 6))
    inverse = np.linalg.inv(affine)
    rng = np.random.default_rng(0)
    image = rng.integers(50, 60, shape).astype(np.int16)
    mask = np.zeros(shape, dtype=np.uint8)
    lps_affine = stored(("L", "P", "S"), (16, 18, 6))[1]
    for x, y, z in itertools.product((2, 3), (3, 4), (4, 5)):  # low x = right, low y = anterior
        world = apply_affine(lps_affine, [x, y, z])
        i, j, k = np.rint(apply_affine(inverse, world)).astype(int)
        image[i, j, k], mask[i, j, k] = 400, 3
    images = {}
    for name in ("t1n", "t1c", "t2w", "t2f"):
        path = tmp_path / f"{name}.nii.gz"
        nib.save(nib.Nifti1Image(image, affine), path)
        images[name] = Volume(path=str(path))
    nib.save(nib.Nifti1Image(mask, affine), tmp_path / "seg.nii.gz")
    case = Case(
        source="s",
        case_id="c",
        patient_id="p",
        images=images,
        mask=str(tmp_path / "seg.nii.gz"),
        labels=LABELS,
    )
    config = MediaConfig(modalities=["t2f"], layout="single", multiple_of=2, window=(0, 100))
    converted = convert_case(case, TargetConfig(), config, tmp_path)
    frames, _ = decode(tmp_path / "c.mp4")
    t, row, column = np.unravel_index(frames[..., 0].argmax(), frames.shape[:3])
    assert (column in (2, 3), row in (3, 4), t in (4, 5)) == (True, True, True)
    assert converted.truth.bbox_3d == (2, 3, 4, 4, 5, 6)
    assert converted.meta["side"] == "right"
