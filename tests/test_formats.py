"""Every format gives the voxels and the places that SimpleITK reads, or is refused by its cause."""

import gzip
import itertools
from pathlib import Path

import nibabel as nib
import nrrd
import numpy as np
import pytest
import SimpleITK
from made_volumes import AFFINE, brats, findings, image_findings, images, save
from scipy.spatial.transform import Rotation

from medtune.media.read import VolumeReader
from medtune.records.case import Case, Volume
from medtune.records.volume_files import SUFFIXES, volume_files, volume_suffix
from medtune.runtime.errors import DataError
from medtune.runtime.tables import write_records
from medtune.sources.index import shard_inventory

VALUES = images()[0]["t1c"]
# As it is written: suffix, SimpleITK's name of the type, compressed.
WRITTEN = [
    *((suffix, "Int16", packed) for suffix in (".mha", ".mhd") for packed in (False, True)),
    *((suffix, "Int16", packed) for suffix in (".nrrd", ".nhdr") for packed in (False, True)),
    *((suffix, "Int16", False) for suffix in (".nii", ".nii.gz", ".hdr", ".img", ".img.gz")),
    *((".mha", kind, True) for kind in ("UInt8", "Int8", "UInt16", "Int32", "UInt32", "Int64")),
    *((".mha", kind, False) for kind in ("Float32", "Float64", "UInt64")),
]


def write_by_simpleitk(path: Path, kind: str = "Int16", packed: bool = False) -> None:
    turn = Rotation.from_euler("xyz", [12, -170, 8], degrees=True).as_matrix()
    image = SimpleITK.GetImageFromArray((VALUES % 100 if kind == "Int8" else VALUES).T)
    image = SimpleITK.Cast(image, getattr(SimpleITK, f"sitk{kind}"))
    image.SetSpacing([7, 7.25, 11])
    image.SetOrigin([-66.5, 80.5, -60])
    image.SetDirection(turn.ravel())
    SimpleITK.WriteImage(image, str(path), useCompression=packed)


def read(path: object):
    return VolumeReader().read(Volume(path=str(path)))


@pytest.mark.parametrize(("suffix", "kind", "packed"), WRITTEN)
def test_voxels_and_places_are_those_of_simpleitk(tmp_path: Path, suffix, kind, packed):
    path = tmp_path / f"a{suffix}"
    write_by_simpleitk(path, kind, packed)
    image, grid = SimpleITK.ReadImage(str(path)), read(path)
    assert (grid.values == SimpleITK.GetArrayFromImage(image).T).all()
    for index in itertools.product(*[(0, n - 1) for n in VALUES.shape]):
        x, y, z = image.TransformIndexToPhysicalPoint([int(n) for n in index])
        assert (grid.affine @ [*index, 1])[:3] == pytest.approx([-x, -y, z], abs=1e-3)
    assert image_findings(path) == []
    assert volume_suffix(str(path)) in SUFFIXES


def test_big_endian_and_second_nifti_pairs(tmp_path: Path):
    for kind in (nib.Nifti1Pair, nib.Nifti2Pair, nib.Nifti2Image):
        header = kind.header_class(endianness=">")
        ending = ".nii" if kind is nib.Nifti2Image else ".img"
        nib.save(kind(VALUES.astype(">i2"), AFFINE, header), tmp_path / f"a{ending}")
        grid = read(tmp_path / f"a{ending}")
        assert (grid.values == VALUES).all()
        assert (grid.affine == AFFINE).all()
    write_by_simpleitk(tmp_path / "a.mha")
    raw = (tmp_path / "a.mha").read_bytes().replace(b"ByteOrderMSB = False", b"ByteOrderMSB = True")
    (tmp_path / "b.mha").write_bytes(raw)
    assert (read(tmp_path / "b.mha").values == VALUES.byteswap()).all()


@pytest.mark.parametrize(
    ("written", "renamed"),
    [(".nii.gz", ".NII.GZ"), (".nrrd", ".NRRD"), (".mha", ".MHA"), (".hdr", ".HDR"), (".nii", "")],
)
def test_names_in_capitals_or_without_a_suffix_are_read(tmp_path: Path, written, renamed):
    write_by_simpleitk(tmp_path / f"a{written}")
    for path in list(tmp_path.iterdir()):
        path.rename(path.with_name(path.name.upper() if renamed else "a"))
    assert (read(tmp_path / (f"A{renamed}" if renamed else "a")).values == VALUES).all()


def test_axes_of_length_one_are_none(tmp_path: Path):
    header = {
        "space": "LPS",
        "space origin": [0, 0, 0],
        "space directions": np.vstack([[np.nan] * 3, np.diag([7.0, 7, 11])]),
        "kinds": ["list", "domain", "domain", "domain"],
    }
    nrrd.write(str(tmp_path / "a.seg.nrrd"), VALUES[None], header)
    save(tmp_path / "a.nii", VALUES[..., None, None])
    for name in ("a.seg.nrrd", "a.nii"):
        assert (read(tmp_path / name).values == VALUES).all()
        assert image_findings(tmp_path / name) == []
    assert read(tmp_path / "a.seg.nrrd").affine.diagonal().tolist() == [-7, -7, 11, 1]


@pytest.mark.parametrize("name", ["a.mhd", "a.nhdr", "a.hdr", "a.img"])
def test_both_files_of_a_volume_are_hashed_and_looked_at(tmp_path: Path, name):
    write_by_simpleitk(tmp_path / name, packed=name != "a.hdr")
    reader, path = VolumeReader(), tmp_path / name
    reader.read(Volume(path=str(path)))
    assert {Path(file).name for file in reader.hashes} == {p.name for p in tmp_path.iterdir()}
    assert sorted(volume_files(str(path))) == sorted(reader.hashes)
    case = Case(
        source="s",
        case_id="c",
        patient_id="p",
        images={"t1c": Volume(path=str(path))},
        mask=None,
        labels={},
    )
    index = tmp_path.with_suffix(".parquet")
    write_records(index, [case])
    before = shard_inventory(index, 0, 1, ["s"], {})
    other = next(p for p in tmp_path.iterdir() if p != path)
    other.write_bytes(other.read_bytes() + b"\0")
    assert shard_inventory(index, 0, 1, ["s"], {}) != before
    other.unlink()
    (finding,) = image_findings(path)
    assert f"{other}: the file does not exist" in finding.found


@pytest.mark.parametrize("name", ["a.mha", "b.mha", "a.nrrd", "b.nrrd", "a.img", "a.nii.gz"])
def test_a_flipped_bit_or_a_lost_byte_is_found(tmp_path: Path, name):
    """SimpleITK reads other voxels from a compressed .mha with a flipped bit, and says nothing."""
    packed = name[0] == "a" and name != "a.img"
    write_by_simpleitk(tmp_path / name, packed=packed)
    path = tmp_path / name
    raw = path.read_bytes()
    for cut in (1, 4, 8, 300):
        path.write_bytes(raw[:-cut])
        assert [f.code for f in image_findings(path)] == ["image-unreadable"], cut
    for place in (-40, -300) if packed else ():
        path.write_bytes(raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :])
        assert [f.code for f in image_findings(path)] == ["image-unreadable"], place


def nifti(values) -> bytes:
    return nib.Nifti1Image(values, AFFINE).to_bytes()


def colors() -> np.ndarray:
    return np.zeros(VALUES.shape, [("R", "u1"), ("G", "u1"), ("B", "u1")])


REFUSED = {
    "empty": (b"", "is empty"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
    "annex": (b"../.git/annex/objects/ab/cd/SHA256E-s1", "git-annex pointer"),
    "page": (b"\n<!DOCTYPE html><html>403</html>", "is a web page"),
    "server": (b"<?xml version='1.0'?><Error>AccessDenied</Error>", "is text (XML or JSON)"),
    "macOS": (b"\0\5\x16\7" + b"\0" * 400, "attributes of macOS"),
    "zip": (b"PK\3\4" + b"\0" * 400, "is a zip archive"),
    "bzip2": (b"BZh9" + b"\0" * 400, "compressed otherwise"),
    "DICOM": (b"\0" * 128 + b"DICM" + b"\0" * 400, "is a DICOM file"),
    "twice": (gzip.compress(gzip.compress(nifti(VALUES))), "is compressed twice"),
    "words": (
        b"no image at all",
        "is no NIfTI, NRRD or MetaImage file (it begins with b'no image')",
    ),
    "colors": (nifti(colors()), "holds colors ('R', 'G', 'B')"),
    "complex": (nifti(VALUES.astype(np.complex64)), "holds complex64"),
    "two": (nifti(np.stack([VALUES] * 2, -1)), "holds 2 volumes"),
    "vector": (nifti(np.stack([VALUES] * 3, -1)[..., None, :]), "holds 3 numbers a voxel"),
    "plane": (nifti(VALUES[..., 0]), "expected 3 axes"),
    "no magic": (nifti(VALUES)[:344] + b"\0" * 4 + nifti(VALUES)[348:], "without its magic"),
    "offset": (nifti(VALUES)[:108] + b"\0" * 4 + nifti(VALUES)[112:], "its vox_offset is 0"),
    "huge": (nifti(VALUES)[:42] + b"\xff\x7f" * 3 + nifti(VALUES)[48:], "voxels would end at byte"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_volume_is_refused_by_its_cause(tmp_path: Path, name):
    raw, words = REFUSED[name]
    (tmp_path / "a.nii.gz").write_bytes(raw)
    (finding,) = image_findings(tmp_path / "a.nii.gz")
    assert finding.code == "image-unreadable"
    assert words in finding.found


SPATIAL = np.diag([7.0, 7, 11])
LAYERS = np.vstack([[np.nan] * 3, SPATIAL])
NRRD = {
    "layers": ({"kinds": ["list", *["domain"] * 3], "Segment0_ID": "a"}, LAYERS, "of 2 layers"),
    "list": ({"kinds": ["list", *["domain"] * 3]}, LAYERS, "holds 2 volumes"),
    "vector": ({"kinds": ["vector", *["domain"] * 3]}, LAYERS, "2 numbers a voxel (axis of kind v"),
    "space": ({"space": "scanner-xyz"}, SPATIAL, "its space is 'scanner-xyz'"),
}


@pytest.mark.parametrize("name", NRRD)
def test_nrrd_of_another_kind_is_refused_by_its_cause(tmp_path: Path, name):
    fields, directions, words = NRRD[name]
    values = np.stack([VALUES] * 2) if len(directions) == 4 else VALUES
    header = {"space": "LPS", "space directions": directions, "space origin": [0, 0, 0], **fields}
    nrrd.write(str(tmp_path / "a.nrrd"), values, header)
    (finding,) = image_findings(tmp_path / "a.nrrd")
    assert words in finding.found


METAIMAGE = {
    "text": (b"BinaryData = True", b"BinaryData = False", "expected one number a voxel, binary"),
    "channels": (b"NDims", b"ElementNumberOfChannels = 3\nNDims", "holds 3 x MET_SHORT a voxel"),
    "list": (b"ElementDataFile = LOCAL", b"ElementDataFile = LIST", "lie in another file"),
    "spacing": (b"ElementSpacing", b"elementspacing", "has no ElementSpacing"),
}


@pytest.mark.parametrize("name", METAIMAGE)
def test_metaimage_of_another_kind_is_refused_by_its_cause(tmp_path: Path, name):
    before, after, words = METAIMAGE[name]
    write_by_simpleitk(tmp_path / "a.mha")
    raw = (tmp_path / "a.mha").read_bytes()
    assert before in raw
    (tmp_path / "a.mha").write_bytes(raw.replace(before, after))
    (finding,) = image_findings(tmp_path / "a.mha")
    assert finding.code == "image-unreadable"
    assert words in finding.found


def test_a_grid_without_orientation_is_refused_as_such(tmp_path: Path):
    image = nib.AnalyzeImage(VALUES, np.diag([7, 7, 11, 1]))
    nib.save(image, tmp_path / "a.img")
    write_by_simpleitk(tmp_path / "a.mha")
    raw = (tmp_path / "a.mha").read_bytes()
    start = raw.index(b"TransformMatrix")
    (tmp_path / "b.mha").write_bytes(raw[:start] + raw[raw.index(b"\n", start) + 1 :])
    nrrd.write(str(tmp_path / "a.nrrd"), VALUES, {"spacings": [7, 7, 11]})
    for name in ("a.img", "a.hdr", "b.mha", "a.nrrd"):
        (finding,) = image_findings(tmp_path / name)
        assert finding.code == "orientation-unknown", name
        assert (read(tmp_path / name).values == VALUES).all()


def test_a_case_in_pairs_is_a_case(tmp_path: Path):
    """Images as .mha with a mask as .hdr and .img are found sound, and placed alike."""
    case = brats(tmp_path)
    for name, volume in case.images.items():
        SimpleITK.WriteImage(SimpleITK.ReadImage(volume.path), str(tmp_path / f"{name}.mha"))
    mask = nib.load(case.mask)
    nib.save(nib.Nifti1Pair(np.asarray(mask.dataobj), mask.affine), tmp_path / "seg.img")
    files = {name: Volume(path=str(tmp_path / f"{name}.mha")) for name in case.images}
    mixed = case.model_copy(update={"images": files, "mask": str(tmp_path / "seg.hdr")})
    assert findings(mixed) == []
    with pytest.raises(DataError, match="does not exist"):
        read(tmp_path / "t1c.hdr")
