"""Contact sheets for quality control: what the video shows beside what the mask says.

A sheet draws two things that took different ways here: the box as it was stored at conversion,
and the outline of the mask, read again from its file, on the frames as they decode.
"""

from collections.abc import Collection, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from pydantic import BaseModel
from scipy import ndimage

from medtune.config.data import TargetConfig
from medtune.config.stages import QcStage
from medtune.geometry.volume import Box, Geometry
from medtune.media.convert import Converted, read_target
from medtune.media.overlay import TRUTH_COLOR
from medtune.media.read import VolumeReader
from medtune.media.truth import Truth, remove_small_components
from medtune.media.video import read_video
from medtune.records.issue import CheckedCase
from medtune.runtime.console import track
from medtune.runtime.errors import DataError
from medtune.runtime.files import atomic_path, sha256
from medtune.runtime.tables import read_records, write_records

Array = NDArray[Any]
BOX_COLOR = TRUTH_COLOR
MASK_COLOR = "#ff4fa3"
PAGE_COLOR, TEXT_COLOR, MUTED_COLOR = "#14171a", "#e8ebee", "#9aa4af"
COLUMNS = 5
# Tiles are enlarged by whole factors to about this width, so that a pixel stays a pixel.
TILE_WIDTH = 192
HEADER, TITLE, GUTTER, GAP = 52, 22, 56, 3


class Sheet(BaseModel):
    """A written contact sheet; `path` is relative to the folder of the table that lists it."""

    case: str
    source: str
    path: str
    width: int
    height: int
    sha256: str


def frames_to_show(truth: Truth | None, frames: int) -> list[int]:
    """Return up to `COLUMNS` frames: first, peak and last of the target and some between.

    The widest gaps are filled first. A target of few frames is shown with its neighbors, where
    the outline must end; a video without a target by evenly spread frames.
    """
    if truth is None or truth.bbox_3d is None or truth.peak_slice is None:
        return sorted({(2 * i + 1) * frames // (2 * COLUMNS) for i in range(COLUMNS)})
    first, last = int(truth.bbox_3d[2]), int(truth.bbox_3d[5]) - 1
    shown = sorted({first, truth.peak_slice, last})
    while len(shown) < min(COLUMNS, frames):
        gap, start = max(((b - a, a) for a, b in pairwise(shown)), default=(0, 0))
        if gap > 1:
            shown.append(start + gap // 2)
        elif shown[0] > 0 and (first - shown[0] <= shown[-1] - last or shown[-1] == frames - 1):
            shown.append(shown[0] - 1)
        else:
            shown.append(shown[-1] + 1)
        shown.sort()
    return shown


def pick_frames(path: Path, wanted: Collection[int]) -> dict[int, Array]:
    """Return number -> (rows, columns, 3) of some frames of a video; decodes up to the last.

    Raises:
        DataError: The video cannot be decoded, or is too short.
    """
    found = {}
    for number, (frame, _) in enumerate(read_video(path)):
        if number in wanted:
            found[number] = frame
        if len(found) == len(wanted):
            return found
    raise DataError(path, f"has no frame {max(wanted)}", "rerun its conversion")


def cut_tiles(frame: Array, geometry: Geometry, modalities: Sequence[str]) -> dict[str, Array]:
    """Return name -> (rows, columns, 3) picture of every modality in a frame.

    The color layout gives the colored frame as well, since that is what a model sees.
    """
    if geometry.layout == "rgb":
        gray = {name: frame[..., [i, i, i]] for i, name in enumerate(modalities)}
        return {"color": frame} | gray
    width, height = geometry.size
    return {
        name: frame[row * height : (row + 1) * height, column * width : (column + 1) * width]
        for name, (column, row) in zip(modalities, geometry.tile_offsets, strict=True)
    }


def reread_target(converted: Converted, target: TargetConfig) -> Array | None:
    """Return the target's boolean lps mask, read from the source again; None without a mask.

    Raises:
        DataError: The mask was changed since the conversion.
    """
    case, geometry = converted.case, converted.geometry
    if case.mask is None:
        return None
    mask, grid = read_target(case, target, VolumeReader())
    voxel_mm3 = abs(float(np.linalg.det(grid.affine[:3, :3])))
    mask, _, _ = remove_small_components(mask, target.min_component_mm3, voxel_mm3)
    volume, known = float(mask.sum()) * voxel_mm3 / 1000, converted.meta["volume_ml"]
    if mask.shape != geometry.lps_shape or not np.isclose(volume, known, rtol=1e-3):
        raise DataError(
            case.mask,
            f"holds {volume:.3f} mL on a grid of {mask.shape}, "
            f"its video was made from {known:.3f} mL on {geometry.lps_shape}",
            "run `snakemake -R verify`",
        )
    return mask


def _shown_plane(target: Array, geometry: Geometry, frame: int) -> Array:
    """Return the lps plane (x, y) of the target that a frame shows.

    That of its slice; of its slab where the whole target lies between two shown slices.
    """
    x1, y1, z1, x2, y2, z2 = geometry.crop
    z = geometry.frame_to_slice(frame)
    thickness = 1 if target[x1:x2, y1:y2, z1 : z2 : geometry.stride].any() else geometry.stride
    return np.asarray(target[:, :, z : z + thickness].any(axis=2))


def target_in_tile(target: Array, geometry: Geometry, frame: int, zoom: int) -> Array:
    """Return where an enlarged tile shows the target: boolean (rows, columns).

    Args:
        target: Boolean (x, y, z) mask in lps.
        geometry: The case's geometry.
        frame: The frame.
        zoom: Sheet pixels per media pixel.
    """
    width, height = geometry.size
    x1, y1, _, x2, y2, _ = geometry.media_to_lps((0, 0, frame, width, height, frame + 1))
    columns = x1 + (np.arange(width * zoom) + 0.5) * (x2 - x1) / (width * zoom)
    rows = y1 + (np.arange(height * zoom) + 0.5) * (y2 - y1) / (height * zoom)
    plane = _shown_plane(target, geometry, frame)
    shown: Array = plane[np.ix_(columns.astype(int), rows.astype(int))].T
    return shown


def outline(region: Array) -> Array:
    """Return the border pixels of a boolean region: those with a neighbor outside of it."""
    return np.asarray(region & ~ndimage.binary_erosion(region))


def _rgb(color: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(color[1:]))


def _draw_box(tile: Array, box: Box, zoom: int) -> None:
    """Draw the outermost pixels of a half-open media box on an enlarged tile."""
    left, top, right, bottom = (round(box[i] * zoom) for i in (0, 1, 3, 4))
    tile[[top, bottom - 1], left:right] = _rgb(BOX_COLOR)
    tile[top:bottom, [left, right - 1]] = _rgb(BOX_COLOR)


def annotated_tiles(
    frame: Array, number: int, converted: Converted, target: Array | None, zoom: int
) -> dict[str, Array]:
    """Return the enlarged tiles of a frame, each with the stored box and the mask's outline.

    Args:
        frame: (rows, columns, 3) as decoded.
        number: Which frame it is.
        converted: The case.
        target: Its lps mask, or None.
        zoom: Sheet pixels per media pixel.
    """
    geometry = converted.geometry
    box = converted.truth.bbox_3d if converted.truth else None
    tiles = {}
    for name, tile in cut_tiles(frame, geometry, converted.meta["modalities"]).items():
        tiles[name] = tile.repeat(zoom, axis=0).repeat(zoom, axis=1)
        if box is not None and box[2] <= number < box[5]:
            _draw_box(tiles[name], box, zoom)
        if target is not None:
            edge = outline(target_in_tile(target, geometry, number, zoom))
            tiles[name][edge] = _rgb(MASK_COLOR)
    return tiles


def tile_zoom(geometry: Geometry) -> int:
    """Return how many times a tile is enlarged on the sheet."""
    return max(1, round(TILE_WIDTH / geometry.size[0]))


def caption(converted: Converted) -> str:
    """Return the figures of a case in one line."""
    truth, meta = converted.truth, converted.meta
    if truth is None:
        return "no mask: only its images are used"
    if truth.bbox_3d is None:
        return f"no target ({meta['region']})"
    first, last = int(truth.bbox_3d[2]), int(truth.bbox_3d[5]) - 1
    return (
        f"{meta['region']} {meta['volume_ml']:.2f} mL    ratio {truth.tumor_ratio:.4f}    "
        f"frames {first} to {last}, peak {truth.peak_slice}    side {meta['side']}"
    )


def _title(number: int, truth: Truth | None) -> str:
    if truth is None or truth.bbox_3d is None:
        return f"frame {number}"
    marks = {
        int(truth.bbox_3d[2]): "first",
        int(truth.bbox_3d[5]) - 1: "last",
        truth.peak_slice: "peak",
    }
    return f"frame {number}" + (f", {marks[number]}" if number in marks else "")


def _write_header(pen: ImageDraw.ImageDraw, converted: Converted, width: int) -> None:
    """Write the case's id and figures, and what the colors mean."""
    pen.text((8, 6), converted.case.id, TEXT_COLOR, ImageFont.load_default(17))
    font = ImageFont.load_default(14)
    pen.text((8, 30), caption(converted), MUTED_COLOR, font)
    if converted.truth is not None and converted.truth.bbox_3d is not None:
        pen.text((width - 8, 30), "mask", MASK_COLOR, font, anchor="ra")
        pen.text((width - 56, 30), "box", BOX_COLOR, font, anchor="ra")


def _mark_sides(pen: ImageDraw.ImageDraw, left: int, right: int, top: int) -> None:
    """Write R and L into a tile's corners: x grows to the patient's left."""
    style: dict[str, Any] = {"font": ImageFont.load_default(15), "stroke_width": 2}
    style |= {"fill": TEXT_COLOR, "stroke_fill": "black"}
    pen.text((left + 5, top + 3), "R", anchor="la", **style)
    pen.text((right - 5, top + 3), "L", anchor="ra", **style)


def contact_sheet(converted: Converted, video: Path, target: TargetConfig) -> Image.Image:
    """Return the contact sheet of a case: one row per modality, one column per frame.

    Raises:
        DataError: Video or mask cannot be read, or the mask is not that of the conversion.
    """
    geometry, truth = converted.geometry, converted.truth
    mask, zoom = reread_target(converted, target), tile_zoom(geometry)
    frames = pick_frames(video, frames_to_show(truth, converted.media.frames))
    columns = [
        annotated_tiles(frame, number, converted, mask, zoom) for number, frame in frames.items()
    ]
    width, height = (size * zoom for size in geometry.size)
    lefts = [GUTTER + column * (width + GAP) for column in range(len(frames))]
    tops = [HEADER + TITLE + row * (height + GAP) for row in range(len(columns[0]))]
    sheet = Image.new("RGB", (lefts[-1] + width, tops[-1] + height), PAGE_COLOR)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    _write_header(pen, converted, sheet.width)
    for name, top in zip(columns[0], tops, strict=True):
        pen.text((GUTTER - 6, top + height // 2), name, MUTED_COLOR, font, anchor="rm")
    for number, tiles, left in zip(frames, columns, lefts, strict=True):
        middle = (left + width // 2, HEADER + TITLE // 2)
        pen.text(middle, _title(number, truth), TEXT_COLOR, font, anchor="mm")
        for tile, top in zip(tiles.values(), tops, strict=True):
            sheet.paste(Image.fromarray(tile), (left, top))
            _mark_sides(pen, left, left + width, top)
    return sheet


def write_sheet(sheet: Image.Image, path: Path) -> None:
    """Write a sheet as JPEG with full chroma: else lines of one pixel lose their color."""
    with atomic_path(path) as temporary:
        sheet.save(temporary, format="JPEG", quality=85, subsampling=0, optimize=True)


def write_sheets(stage: QcStage, verified: Path, cases: Path, output: Path) -> None:
    """Write `<folder of output>/<source>/<case>.jpg` of every case, then the table of the sheets.

    Args:
        stage: The configuration.
        verified: Table written by `verify-shard`, which says where the masks are.
        cases: Table written by `convert`, beside its videos.
        output: The table to write.
    """
    sheets = []
    known = {checked.case.id: checked.case for checked in read_records(verified, CheckedCase)}
    for record in track(read_records(cases, Converted), "contact sheets"):
        converted = record.model_copy(update={"case": known[record.case.id]})
        source, name = converted.case.source, f"{converted.case.case_id}.jpg"
        path = output.parent / source / name
        image = contact_sheet(converted, cases.parent / source / converted.media.path, stage.task)
        write_sheet(image, path)
        sheets.append(
            Sheet(
                case=converted.case.id,
                source=source,
                path=f"{source}/{name}",
                width=image.width,
                height=image.height,
                sha256=sha256(path),
            )
        )
    write_records(output, sheets)
