"""Frames of reference and boxes, and every conversion between them with its inverse.

Five frames are in use. All are continuous *edge* coordinates: voxel `i` covers `[i, i + 1)`,
so a box `[x1, y1, z1, x2, y2, z2]` is 0-based and half-open, and a single voxel has volume 1.

source  the voxel grid of the file (i, j, k), as stored
world   RAS millimeters, through the file's affine
lps     the grid re-oriented so that x grows to the patient's Left, y to Posterior, z to Superior
media   the frame a model sees: lps, cropped, strided along z and resized; x = column, y = row,
        z = frame index, all in the first tile of the layout
answer  what a model family writes (see `medtune.models.coordinate_format`)

source <-> lps <-> media are axis-aligned affine maps, so boxes convert exactly and stay boxes.
"""

import itertools
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from nibabel.affines import apply_affine
from nibabel.orientations import (
    apply_orientation,
    axcodes2ornt,
    inv_ornt_aff,
    io_orientation,
    ornt_transform,
)
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict

Array = NDArray[Any]
Box = tuple[float, float, float, float, float, float]
LPS = axcodes2ornt(("L", "P", "S"))

# Offsets of the tiles in a frame, in units of the tile's (width, height).
TILE_OFFSETS: dict[str, tuple[tuple[int, int], ...]] = {
    "single": ((0, 0),),
    "rgb": ((0, 0),),
    "row": ((0, 0), (1, 0), (2, 0), (3, 0)),
    "grid": ((0, 0), (1, 0), (0, 1), (1, 1)),
}


def to_lps(volume: Array, affine: ArrayLike) -> Array:
    """Re-orient a volume (i, j, k) to (x, y, z) = (Left, Posterior, Superior); a view."""
    turned: Array = apply_orientation(volume, ornt_transform(io_orientation(affine), LPS))
    return turned


def lps_to_source(shape: Sequence[int], affine: ArrayLike) -> Array:
    """Return the 4x4 map from lps voxel centers to source voxel centers of a grid."""
    turn = ornt_transform(io_orientation(np.asarray(affine)), LPS)
    matrix: Array = inv_ornt_aff(turn, shape)
    return matrix


def lps_affine(shape: Sequence[int], affine: ArrayLike) -> Array:
    """Return the 4x4 matrix from lps voxel centers to RAS mm of a grid (shape, affine)."""
    return np.asarray(np.asarray(affine) @ lps_to_source(shape, affine))


def affine_gap_mm(a: ArrayLike, b: ArrayLike, shape: Sequence[int]) -> float:
    """Return the largest distance in mm between the corners of one grid under two affines."""
    corners = np.array(list(itertools.product(*[(0, n - 1) for n in shape[:3]])))
    gap = apply_affine(np.asarray(a), corners) - apply_affine(np.asarray(b), corners)
    return float(np.linalg.norm(gap, axis=1).max())


def mask_box(mask: Array) -> Box | None:
    """Return the tight half-open box around the true voxels of an (x, y, z) mask, or None."""
    if not mask.any():
        return None
    spans = []
    for axis in range(3):
        hit = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        spans.append((float(hit[0]), float(hit[-1] + 1)))
    (x1, x2), (y1, y2), (z1, z2) = spans
    return (x1, y1, z1, x2, y2, z2)


class Geometry(BaseModel):
    """The transform chain of one case, stored with its sample as JSON.

    Attributes:
        source_shape: Shape (i, j, k) of the source grid.
        affine: 4x4 matrix from source voxel centers to RAS mm, as rows.
        crop: The part of the lps grid that is shown, in lps voxels.
        stride: Every how many lps slices one is shown.
        size: (width, height) of one tile in media pixels.
        layout: How modalities share a frame: a key of `TILE_OFFSETS`.
        tiles: How many modalities there are.
    """

    model_config = ConfigDict(frozen=True)

    source_shape: tuple[int, int, int]
    affine: tuple[tuple[float, float, float, float], ...]
    crop: tuple[int, int, int, int, int, int]
    stride: int
    size: tuple[int, int]
    layout: str
    tiles: int = 4

    @property
    def lps_shape(self) -> tuple[int, int, int]:
        """Shape (x, y, z) of the re-oriented grid."""
        x, y, z = np.abs(self._lps_to_source()[:3, :3].T) @ np.array(self.source_shape)
        return int(x), int(y), int(z)

    @property
    def frames(self) -> int:
        """Number of frames: one for each shown slice."""
        return len(self.shown_slices)

    @property
    def frame_size(self) -> tuple[int, int]:
        """(width, height) of a whole frame in pixels, all tiles included."""
        # A grid is always 2x2: tiles without a modality are black.
        places = self.tile_offsets if self.layout == "row" else TILE_OFFSETS[self.layout]
        across, down = np.max(places, axis=0) + 1
        return int(self.size[0] * across), int(self.size[1] * down)

    @property
    def tile_offsets(self) -> tuple[tuple[int, int], ...]:
        """Where the tile of each modality lies, as `TILE_OFFSETS`; colors share their only one."""
        return TILE_OFFSETS[self.layout][: self.tiles]

    @property
    def lps_affine(self) -> Array:
        """4x4 matrix from lps voxel centers to RAS mm."""
        return lps_affine(self.source_shape, self.affine)

    def _lps_to_source(self) -> Array:
        return lps_to_source(self.source_shape, self.affine)

    def _scale(self) -> tuple[Array, Array]:
        """Scale and offset with lps = media * scale + offset, per axis (x, y, z)."""
        x1, y1, z1, x2, y2, _ = self.crop
        scale = np.array([(x2 - x1) / self.size[0], (y2 - y1) / self.size[1], self.stride])
        return scale, np.array([x1, y1, z1])

    def media_to_lps(self, box: Box) -> Box:
        """Convert a box from media pixels and frames to lps voxels."""
        scale, offset = self._scale()
        return _box(_corners(box) * scale + offset)

    def lps_to_media(self, box: Box) -> Box:
        """Convert a box from lps voxels to media pixels and frames."""
        scale, offset = self._scale()
        return _box((_corners(box) - offset) / scale)

    def lps_to_source(self, box: Box) -> Box:
        """Convert a box from lps voxels to source voxels (i, j, k)."""
        return _box(apply_affine(self._lps_to_source(), _corners(box) - 0.5) + 0.5)

    def source_to_lps(self, box: Box) -> Box:
        """Convert a box from source voxels (i, j, k) to lps voxels."""
        inverse = np.linalg.inv(self._lps_to_source())
        return _box(apply_affine(inverse, _corners(box) - 0.5) + 0.5)

    def media_to_source(self, box: Box) -> Box:
        """Convert a box from media pixels and frames to source voxels (i, j, k)."""
        return self.lps_to_source(self.media_to_lps(box))

    def source_voxels(self, box: Box) -> tuple[int, int, int, int, int, int]:
        """Return the voxels (i, j, k) of the file that a box in source voxels comes nearest to.

        Half-open as all boxes, inside the grid, and at least one voxel thick.
        """
        shape = np.array(self.source_shape)
        low, high = np.floor(_corners(box) + 0.5)
        low = np.clip(low, 0, shape - 1)
        high = np.clip(high, low + 1, shape)
        i1, j1, k1, i2, j2, k2 = (int(v) for v in (*low, *high))
        return i1, j1, k1, i2, j2, k2

    def source_to_media(self, box: Box) -> Box:
        """Convert a box from source voxels (i, j, k) to media pixels and frames."""
        return self.lps_to_media(self.source_to_lps(box))

    def media_points_to_world(self, points: ArrayLike) -> Array:
        """Convert (n, 3) media points (x, y, z) to RAS mm."""
        scale, offset = self._scale()
        centers = np.atleast_2d(points) * scale + offset - 0.5
        return np.asarray(apply_affine(self.lps_affine, centers))

    def world_points_to_media(self, points: ArrayLike) -> Array:
        """Convert (n, 3) points in RAS mm to media points (x, y, z)."""
        scale, offset = self._scale()
        centers = apply_affine(np.linalg.inv(self.lps_affine), np.atleast_2d(points))
        return np.asarray((centers + 0.5 - offset) / scale)

    @property
    def shown_slices(self) -> range:
        """The lps slices that are shown, one per frame."""
        return range(self.crop[2], self.crop[5], self.stride)

    def frame_to_slice(self, frame: int) -> int:
        """Return the lps slice that a frame shows."""
        return self.shown_slices[frame]

    def slice_to_frame(self, lps_slice: int) -> int:
        """Return the frame whose slab holds an lps slice."""
        return (lps_slice - self.crop[2]) // self.stride

    def side(self, box: Box) -> str:
        """Return `left`, `right` or `midline`: where the center of a media box lies.

        Sides are the patient's, counted from the center of the lps grid and never from the sign
        of world x, whose origin is arbitrary (BraTS: x from -239 to 0 mm). Within 2 % of the
        grid's width of its center is midline.
        """
        x1, _, _, x2, _, _ = self.media_to_lps(box)
        width = self.lps_shape[0]
        offset = (x1 + x2) / 2 - width / 2
        if abs(offset) < 0.02 * width:
            return "midline"
        return "left" if offset > 0 else "right"


def _corners(box: Box) -> Array:
    return np.array(box, dtype=float).reshape(2, 3)


def _box(corners: Array) -> Box:
    low, high = corners.min(axis=0).tolist(), corners.max(axis=0).tolist()
    return (low[0], low[1], low[2], high[0], high[1], high[2])


def box_volume(box: Box) -> float:
    """Return the volume of a box, in the cube of its unit; 0 if reversed."""
    x1, y1, z1, x2, y2, z2 = box
    return float(max(x2 - x1, 0) * max(y2 - y1, 0) * max(z2 - z1, 0))


def _shared(a: Box, b: Box) -> float:
    """Return the volume of what two boxes share."""
    low, high = map(max, a[:3], b[:3]), map(min, a[3:], b[3:])
    return box_volume((*low, *high))  # type: ignore[arg-type]


def box_iou(a: Box, b: Box) -> float:
    """Return the intersection over union of two boxes in the same frame, in 0..1."""
    shared = _shared(a, b)
    union = box_volume(a) + box_volume(b) - shared
    return shared / union if union > 0 else 0.0


def box_giou(a: Box, b: Box) -> float:
    """Return the generalized IoU of two boxes in the same frame, in -1..1.

    IoU less the empty share of the smallest box around both (Rezatofighi et al., CVPR 2019).
    """
    around = box_volume((*map(min, a[:3], b[:3]), *map(max, a[3:], b[3:])))  # type: ignore[arg-type]
    union = box_volume(a) + box_volume(b) - _shared(a, b)
    return box_iou(a, b) - (around - union) / around


def box_center(box: Box) -> Array:
    """Return the center (x, y, z) of a box."""
    return np.array([(box[axis] + box[axis + 3]) / 2 for axis in range(3)])


def center_distance_mm(a: Box, b: Box, geometry: Geometry) -> float:
    """Return the distance in mm between the centers of two media boxes."""
    return float(np.linalg.norm(step_mm(geometry) @ (box_center(a) - box_center(b))))


@lru_cache(maxsize=10_000)  # asked for every answer to a case
def step_mm(geometry: Geometry) -> Array:
    """Return the 3x3 matrix from steps in media axes (pixel, pixel, frame) to steps in RAS mm."""
    edges = geometry.media_points_to_world([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    return np.asarray((edges[1:] - edges[0]).T)
