"""Contact sheets, pixel by pixel: the box and the mask lie where the lesion is."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from medtune.config.data import MediaConfig, TargetConfig
from medtune.media.convert import Converted, convert_case
from medtune.media.truth import Truth
from medtune.media.video import decode
from medtune.records.case import Case, Volume
from medtune.reporting.sheets import (
    BOX_COLOR,
    GAP,
    GUTTER,
    HEADER,
    MASK_COLOR,
    TITLE,
    contact_sheet,
    frames_to_show,
    write_sheet,
)
from medtune.runtime.errors import DataError
from medtune.runtime.files import sha256

SHAPE = (32, 28, 8)


MODALITIES = ("t1c", "t1n", "t2w", "t2f")


ZOOM = 6  # 192 / 32


ROW = MediaConfig(multiple_of=4, codec="lossless")


def write_case(folder: Path, mask: np.ndarray | None) -> Case:
    """A case stored as RAS: both x and y of the video run against the stored axes."""
    folder.mkdir(parents=True, exist_ok=True)
    ramps = np.indices(SHAPE) + 1
    values = dict(zip(MODALITIES, (*ramps, ramps.sum(axis=0)), strict=True))
    for name, volume in values.items():
        nib.save(nib.Nifti1Image(volume.astype(np.int16), np.eye(4)), folder / f"{name}.nii.gz")
    if mask is not None:
        nib.save(nib.Nifti1Image(mask.astype(np.uint8), np.eye(4)), folder / "seg.nii.gz")
    return Case(
        source="hand",
        case_id="case",
        patient_id="hand:case",
        images={name: Volume(path=str(folder / f"{name}.nii.gz")) for name in MODALITIES},
        mask=None if mask is None else str(folder / "seg.nii.gz"),
        labels={1: "ED"},
    )


def lesion() -> np.ndarray:
    """In lps: x 22..27, y 16..21 on slice 3; x 24..26, y 18..19 on slices 2, 4 and 5."""
    mask = np.zeros(SHAPE)
    mask[5:8, 8:10, 2:6] = 1
    mask[4:10, 6:12, 3] = 1
    return mask


def convert(folder: Path, mask: np.ndarray | None, config: MediaConfig = ROW) -> Converted:
    return convert_case(write_case(folder, mask), TargetConfig(), config, folder)


def sheet_of(folder: Path, converted: Converted) -> np.ndarray:
    return np.asarray(contact_sheet(converted, folder / converted.media.path, TargetConfig()))


def cell(sheet: np.ndarray, row: int, column: int) -> np.ndarray:
    """The tile of a row and column, cut out by the sheet's measures."""
    width, height = SHAPE[0] * ZOOM, SHAPE[1] * ZOOM
    left, top = GUTTER + column * (width + GAP), HEADER + TITLE + row * (height + GAP)
    return sheet[top : top + height, left : left + width]


def colored(tile: np.ndarray, color: str) -> np.ndarray:
    return (tile == np.frombuffer(bytes.fromhex(color[1:]), np.uint8)).all(axis=-1)


def frame_around(x1: int, y1: int, x2: int, y2: int) -> np.ndarray:
    """The outermost pixels of a rectangle given in media pixels, on an enlarged tile."""
    drawn = np.zeros((SHAPE[1] * ZOOM, SHAPE[0] * ZOOM), bool)
    drawn[y1 * ZOOM : y2 * ZOOM, x1 * ZOOM : x2 * ZOOM] = True
    drawn[y1 * ZOOM + 1 : y2 * ZOOM - 1, x1 * ZOOM + 1 : x2 * ZOOM - 1] = False
    return drawn


def test_box_and_outline_lie_where_the_lesion_is(tmp_path: Path):
    converted = convert(tmp_path, lesion())
    assert converted.truth.bbox_3d == (22, 16, 2, 28, 22, 6)
    sheet = sheet_of(tmp_path, converted)
    small, large = frame_around(24, 18, 27, 20), frame_around(22, 16, 28, 22)
    outlines = [None, small, large, small, small]  # frames 1 to 5; nothing before the lesion
    for row in range(4):
        for column, outline in enumerate(outlines):
            tile = cell(sheet, row, column)
            masked, boxed = colored(tile, MASK_COLOR), colored(tile, BOX_COLOR)
            if outline is None:
                assert not masked.any()
                assert not boxed.any()
            else:
                assert (masked == outline).all()
                assert (boxed == (large & ~outline)).all()


def test_tiles_are_the_decoded_frame(tmp_path: Path):
    converted = convert(tmp_path, lesion())
    frames, _ = decode(tmp_path / converted.media.path)
    sheet = sheet_of(tmp_path, converted)
    for row in range(4):
        for column, number in enumerate((1, 2, 3, 4, 5)):
            tile = cell(sheet, row, column)
            seen = frames[number][:, row * 32 : (row + 1) * 32].repeat(ZOOM, 0).repeat(ZOOM, 1)
            drawn = colored(tile, MASK_COLOR) | colored(tile, BOX_COLOR)
            drawn[:24] = True  # the letters of the patient's sides
            assert (tile == seen)[~drawn].all()
    # t1c grows along the stored axis, to the patient's right: it is bright at the image's left.
    assert cell(sheet, 0, 0)[100, 2].mean() > cell(sheet, 0, 0)[100, -2].mean()


def test_the_color_layout_shows_every_channel(tmp_path: Path):
    config = MediaConfig(
        multiple_of=4, codec="lossless", layout="rgb", modalities=["t1c", "t1n", "t2f"]
    )
    converted = convert(tmp_path, lesion(), config)
    frames, _ = decode(tmp_path / converted.media.path)
    sheet = sheet_of(tmp_path, converted)
    x, y = 3, 20
    assert (cell(sheet, 0, 0)[y * ZOOM, x * ZOOM] == frames[1][y, x]).all()
    for channel in range(3):
        tile = cell(sheet, channel + 1, 0)
        assert (tile[y * ZOOM, x * ZOOM] == frames[1][y, x, channel]).all()
        outline = colored(cell(sheet, channel + 1, 1), MASK_COLOR)
        assert (outline == frame_around(24, 18, 27, 20)).all()


def test_the_grid_layout_puts_tiles_below_each_other(tmp_path: Path):
    converted = convert(tmp_path, lesion(), ROW.model_copy(update={"layout": "grid"}))
    frames, _ = decode(tmp_path / converted.media.path)
    sheet = sheet_of(tmp_path, converted)
    for row, (left, top) in enumerate(((0, 0), (32, 0), (0, 28), (32, 28))):
        seen = frames[1][top + 20, left + 5]
        assert (cell(sheet, row, 0)[20 * ZOOM, 5 * ZOOM] == seen).all()


def test_a_lesion_between_two_shown_slices_has_an_outline(tmp_path: Path):
    mask = np.zeros(SHAPE)
    mask[5:8, 8:10, 2] = 1
    converted = convert(tmp_path, mask, ROW.model_copy(update={"stride": 4}))
    tile = cell(sheet_of(tmp_path, converted), 0, 0)
    assert (colored(tile, MASK_COLOR) == frame_around(24, 18, 27, 20)).all()


@pytest.mark.parametrize("mask", [None, np.zeros(SHAPE)], ids=["no mask", "no target"])
def test_cases_without_a_target_show_their_images_alone(tmp_path: Path, mask):
    converted = convert(tmp_path, mask)
    assert (converted.truth is None) == (mask is None)
    sheet = sheet_of(tmp_path, converted)
    assert not colored(sheet, MASK_COLOR).any()
    assert not colored(sheet, BOX_COLOR).any()
    frames, _ = decode(tmp_path / converted.media.path)
    for column, number in enumerate((0, 2, 4, 5, 7)):
        assert (cell(sheet, 3, column)[100, 60] == frames[number][100 // ZOOM, 96 + 10]).all()


def test_a_mask_that_was_changed_since_is_an_error(tmp_path: Path):
    converted = convert(tmp_path, lesion())
    write_case(tmp_path, np.roll(lesion(), 1, axis=0))
    moved = sheet_of(tmp_path, converted)
    assert (colored(cell(moved, 0, 1), MASK_COLOR) == frame_around(23, 18, 26, 20)).all()
    mask = lesion()
    mask[0, 0, 0] = 1
    write_case(tmp_path, mask)
    with pytest.raises(DataError, match="its video was made from"):
        sheet_of(tmp_path, converted)


def test_equal_cases_give_equal_files(tmp_path: Path):
    converted = convert(tmp_path, lesion())
    digests = set()
    for name in ("a.jpg", "b.jpg"):
        image = contact_sheet(converted, tmp_path / converted.media.path, TargetConfig())
        write_sheet(image, tmp_path / name)
        digests.add(sha256(tmp_path / name))
    assert len(digests) == 1
    written = np.asarray(Image.open(tmp_path / "a.jpg").convert("RGB")).astype(int)
    # The outline is still magenta in the file: far more red than green.
    edge = cell(written, 0, 2)[frame_around(22, 16, 28, 22)]
    assert (edge[:, 0] - edge[:, 1]).min() > 80


@pytest.mark.parametrize(
    ("box", "peak", "frames", "expected"),
    [
        ((0, 0, 31, 9, 9, 105), 70, 155, [31, 50, 70, 87, 104]),
        ((0, 0, 10, 9, 9, 31), 10, 40, [10, 15, 20, 25, 30]),
        ((0, 0, 6, 9, 9, 7), 6, 20, [4, 5, 6, 7, 8]),
        ((0, 0, 0, 9, 9, 1), 0, 20, [0, 1, 2, 3, 4]),
        ((0, 0, 19, 9, 9, 20), 19, 20, [15, 16, 17, 18, 19]),
        ((0, 0, 0, 9, 9, 3), 1, 3, [0, 1, 2]),
        (None, None, 100, [10, 30, 50, 70, 90]),
        (None, None, 2, [0, 1]),
    ],
)
def test_frames_to_show(box, peak, frames, expected):
    assert frames_to_show(Truth(bbox_3d=box, peak_slice=peak, tumor_ratio=0), frames) == expected
