"""A volume as it is stored, with the frame of reference that its header gives."""

from dataclasses import dataclass, field

from medtune.geometry.volume import lps_affine, to_lps
from medtune.media.headers import Array, Header


@dataclass(frozen=True)
class Grid:
    """A stored image.

    Attributes:
        values: Voxels in source orientation (float32, or integers as stored without scaling).
        affine: 4x4 matrix from voxel centers to RAS mm.
        oriented: Whether the header says how the grid lies in the patient.
        header: What else the header says.
    """

    values: Array
    affine: Array
    oriented: bool
    header: Header = field(default_factory=Header)

    @property
    def lps(self) -> Array:
        """The voxels as (x, y, z) = (Left, Posterior, Superior); a view."""
        return to_lps(self.values, self.affine)

    @property
    def lps_affine(self) -> Array:
        """4x4 matrix from the centers of lps voxels to RAS mm."""
        return lps_affine(self.values.shape, self.affine)
