"""Headers of image files: what they say, that the file is whole, and what is no image at all."""

import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_files import BUNDLED, make_dicom, pixel_files
from PIL import Image, ImageFile
from pydicom.encaps import encapsulate
from pydicom.uid import MPEG2MPML, JPEG2000Lossless

from medtune.media.film import read_film
from medtune.media.image_header import ImageHeader, check_header, image_header
from medtune.runtime.errors import DataError

PIXELS = np.random.default_rng(0).integers(1, 200, (60, 40)).astype(np.uint8)
GRAY = Image.fromarray(PIXELS)


def saved(path: Path, image: Image.Image, **options) -> Path:
    image.save(path, **options)
    return path


MADE = {
    "gray.png": (GRAY, {}, ("L", 8, None)),
    "gray.jpg": (GRAY, {}, ("L", 8, None)),
    "colors.png": (GRAY.convert("RGB"), {}, ("RGB", 8, None)),
    "colors.jpg": (GRAY.convert("RGB"), {}, ("RGB", 8, None)),
    "alpha.png": (GRAY.convert("RGBA"), {}, ("RGBA", 8, None)),
    "gray_alpha.png": (GRAY.convert("LA"), {}, ("LA", 8, None)),
    "palette.png": (GRAY.convert("P"), {}, ("P", 8, "mode P")),
    "two.png": (GRAY.convert("1"), {}, ("1", 1, "mode 1")),
    "ink.jpg": (GRAY.convert("CMYK"), {}, ("CMYK", 8, "mode CMYK")),
    "deep.png": (Image.fromarray(PIXELS.astype(np.uint16) * 256), {}, ("I;16", 16, None)),
    "progressive.jpg": (GRAY, {"progressive": True}, ("L", 8, None)),
}


@pytest.mark.parametrize("name", MADE)
def test_a_header_says_size_kind_and_depth_and_nothing_is_decoded(tmp_path, name, monkeypatch):
    image, options, (mode, bits, refused) = MADE[name]
    path = saved(tmp_path / name, image, **options)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("decoded"))
    header = image_header(path)
    kind = {".png": "PNG", ".jpg": "JPEG"}[Path(name).suffix]
    assert header == ImageHeader(40, 60, mode, bits, 1, kind)
    if refused is None:
        check_header(tmp_path / name, header)
    else:
        with pytest.raises(DataError, match=refused):
            check_header(tmp_path / name, header)


def test_gray_of_few_bits_is_refused(tmp_path):
    """Pillow unpacks 4 bits to 8 and calls them L, but 16 levels are no film."""
    rows = b"".join(b"\0" + bytes(2) for _ in range(4))
    chunks = (b"IHDR", struct.pack(">IIBBBBB", 4, 4, 4, 0, 0, 0, 0)), (b"IDAT", zlib.compress(rows))
    content = b"\x89PNG\r\n\x1a\n"
    for name, value in (*chunks, (b"IEND", b"")):
        content += struct.pack(">I", len(value)) + name + value
        content += struct.pack(">I", zlib.crc32(name + value))
    path = tmp_path / "a.png"
    path.write_bytes(content)
    assert image_header(path).mode == "L"
    with pytest.raises(DataError, match="bits 4, expected 8 to 16"):
        check_header(path, image_header(path))


NOT_IMAGES = {
    "empty": (b"", "is empty"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"),
    "annex": (b"/annex/objects/MD5E-s1--0.jpg\n", "git annex get"),
    "page": (b"\n<!DOCTYPE html><html><title>Log in</title>", "web page"),
    "xml": (b"<?xml version='1.0'?><Error/>", "XML"),
    "json": (b'{"message": "not found"}', "JSON"),
    "gzip": (b"\x1f\x8b\x08\0", "gzip"),
    "zip": (b"PK\x03\x04", "ZIP"),
    "tiff": (b"II*\0", "TIFF"),
    "bmp": (b"BM", "BMP"),
    "jp2": (b"\0\0\0\x0cjP  \r\n", "JPEG 2000"),
    "zeros": (bytes(4096), "never finished"),
    "text": (b"nothing of the kind", "begins with b'nothing"),
    "tag": (b"\x08\0\x05\0CS\x0a\0ISO_IR 100" + bytes(200), "has no PhotometricInterpretation"),
}


@pytest.mark.parametrize("name", NOT_IMAGES)
def test_what_is_no_image_is_named(tmp_path, name):
    content, said = NOT_IMAGES[name]
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    with pytest.raises(DataError, match=said) as error:
        image_header(path)
    assert error.value.where == str(path)


def test_what_is_not_there_is_named(tmp_path):
    (tmp_path / "link.jpg").symlink_to(tmp_path / "gone.jpg")
    (tmp_path / "folder.jpg").mkdir()
    for name, said in (
        ("link.jpg", r"is a link to .*gone.jpg, which is not there"),
        ("folder.jpg", "is a folder"),
        ("none.jpg", "does not exist"),
    ):
        with pytest.raises(DataError, match=said):
            image_header(tmp_path / name)


@pytest.mark.parametrize("name", ["gray.png", "colors.jpg", "progressive.jpg", "deep.png"])
def test_a_cut_file_is_found_by_its_end(tmp_path, name):
    image, options, _ = MADE[name]
    path = saved(tmp_path / name, image, **options)
    whole = path.read_bytes()
    for length in (len(whole) - 1, len(whole) - 40, len(whole) // 2):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=rf"is truncated: {length} bytes"):
            image_header(path)
    for length in (len(whole) - 40, len(whole) // 2):
        path.write_bytes(whole[:length] + bytes(5000))  # as some clients reserve room on disk
        with pytest.raises(DataError, match="is truncated"):
            image_header(path)
    path.write_bytes(whole + bytes(5000))
    assert image_header(path).size == (40, 60)


def test_the_end_of_a_thumbnail_is_not_that_of_the_film(tmp_path):
    small = saved(tmp_path / "small.jpg", GRAY.resize((8, 8))).read_bytes()
    exif = b"Exif\0\0" + small
    path = saved(tmp_path / "a.jpg", GRAY)
    plain = path.read_bytes()
    segment = b"\xff\xe1" + (len(exif) + 2).to_bytes(2) + exif
    path.write_bytes(plain[:2] + segment + plain[2:])
    assert image_header(path).size == (40, 60)
    path.write_bytes(plain[:2] + segment + plain[2:-200])
    with pytest.raises(DataError, match="is truncated"):
        image_header(path)


@pytest.mark.parametrize("meta", [True, False], ids=["meta", "raw"])
@pytest.mark.parametrize("name", ["MR_small_implicit", "MR_small_expb", "MR_small"])
def test_dicom_without_its_preamble_is_dicom(tmp_path, name, meta):
    """Implicit, big endian and explicit; with the group that names the encoding, or without."""
    path = BUNDLED / f"{name}.dcm"
    content = path.read_bytes()
    start = 132 if meta else 144 + struct.unpack("<I", content[140:144])[0]
    bare = tmp_path / "bare.dcm"
    bare.write_bytes(content[start:])
    assert image_header(bare) == image_header(path)
    assert (read_film(bare) == read_film(path)).all()


def test_cut_dicom_is_found_by_the_length_of_its_pixels(tmp_path):
    path = make_dicom(tmp_path / "a.dcm", PIXELS)
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    with pytest.raises(DataError, match="is truncated: 2390 of 2400 bytes of pixels"):
        image_header(path)
    dataset = pydicom.dcmread(make_dicom(tmp_path / "b.dcm", PIXELS))
    dataset.PixelData = encapsulate([bytes(1000), bytes(500)])
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = JPEG2000Lossless
    dataset.save_as(path)
    assert image_header(path).syntax.startswith("JPEG 2000")
    for lost in (1, 8, 200, 700):
        path.write_bytes(path.read_bytes()[:-lost])
        with pytest.raises(DataError, match="is truncated: its last fragment"):
            image_header(path)
    dataset.file_meta.TransferSyntaxUID = MPEG2MPML
    dataset.save_as(path)
    with pytest.raises(DataError, match=r"MPEG2.*which nothing here decodes"):
        image_header(path)


@pytest.mark.parametrize("path", pixel_files(), ids=lambda path: path.name)
def test_headers_of_real_dicom_agree_with_pydicom(path):
    said = refused(path)
    if said:
        expected = "which nothing here decodes|has no |cannot be read"
        assert path.name in TOO_SHORT or re.search(expected, said)
        return
    header, tags = image_header(path), pydicom.dcmread(path, force=True)
    assert header.size == (tags.Columns, tags.Rows)
    assert header.mode == tags.PhotometricInterpretation
    assert path.name not in TOO_SHORT


def refused(path: Path) -> str:
    try:
        image_header(path)
    except DataError as error:
        return error.found
    return ""


TOO_SHORT = {"MR_truncated.dcm", "emri_small_jpeg_2k_lossless_too_short.dcm"}
