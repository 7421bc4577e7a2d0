"""DICOM films are shown as their tags say, whatever their pixels look like."""

import io
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pydicom
import pytest
from conftest import REPOSITORY
from dicom_files import BROKEN, BUNDLED, LARGE, make_dicom, pixel_files, reference, table, undecoded
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGBaseline8Bit

from medtune.media.dicom import read_dicom
from medtune.runtime.errors import DataError

RAMP = np.arange(4096, dtype=np.uint16).reshape(32, 128)
# Deflated, implicit and both explicit encodings, RLE, JPEG 12-bit, JPEG-LS, JPEG 2000.
SYNTAXES = {
    *("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99"),
    *("1.2.840.10008.1.2.2", "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.51"),
    *("1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81"),
    *("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91"),
}
LARGE_SYNTAXES = {"1.2.840.10008.1.2.4.70"}  # JPEG lossless


def shown(tmp_path, pixels, **tags) -> np.ndarray:
    return read_dicom(make_dicom(tmp_path / "film.dcm", pixels, **tags))


def refused_for(dataset) -> str | None:
    if not str(dataset.get("PhotometricInterpretation")).startswith("MONOCHROME"):
        return "PhotometricInterpretation"
    if int(dataset.get("NumberOfFrames") or 1) > 1 and dataset.BitsStored in range(8, 17):
        return "several frames"
    return None if dataset.BitsStored in range(8, 17) else "BitsStored"


@pytest.mark.parametrize("path", pixel_files(), ids=lambda path: path.name)
def test_real_files_look_like_the_reference(path):
    if path.name in BROKEN:
        with pytest.raises(
            DataError,
            match=r"cannot be read as DICOM|has no |is trunc|PALETTE|nothing here decodes",
        ):
            read_dicom(path)
        return
    tags = pydicom.dcmread(path)
    refused = "which nothing here decodes" if undecoded(tags) else refused_for(tags)
    if refused:
        with pytest.raises(DataError, match=refused):
            read_dicom(path)
        return
    error = np.abs(read_dicom(path) - reference(path))
    # Two decoders of lossy JPEG may differ by one stored value, here 2.5 gray levels.
    assert error.max() <= (3 if path.name == "JPGExtended.dcm" else 0.501)


def test_real_files_cover_encodings_and_polarities():
    if LARGE is None:
        pytest.skip("pydicom-data is not installed")
    films = [
        tags
        for path in pixel_files()
        if path.name not in BROKEN
        for tags in [pydicom.dcmread(path)]
        if refused_for(tags) is None
    ]
    assert {tags.file_meta.TransferSyntaxUID for tags in films} == SYNTAXES | LARGE_SYNTAXES
    assert {tags.PhotometricInterpretation for tags in films} == {"MONOCHROME1", "MONOCHROME2"}
    assert {tags.PixelRepresentation for tags in films} == {0, 1}
    assert {8, 10, 12, 15, 16} <= {tags.BitsStored for tags in films}
    assert sum("ModalityLUTSequence" in tags for tags in films) == 1
    assert sum("VOILUTSequence" in tags for tags in films) == 1


@pytest.mark.parametrize(
    ("function", "by_hand"),
    [
        # PS3.3 C.11.2.1.2.1: center 2048, width 4096: -0.5 is left out, 0 is black, 4095 white.
        ("LINEAR", {0: 0, 1024: 63.77, 2048: 127.53, 4095: 255}),
        ("LINEAR_EXACT", {0: 0, 1024: 63.75, 2048: 127.5, 4095: 254.94}),
        # 255 / (1 + exp(-4 (x - c) / w))
        ("SIGMOID", {0: 30.40, 1024: 68.58, 2048: 127.5, 4095: 224.59}),
    ],
)
def test_windows_by_hand(tmp_path, function, by_hand):
    window = {"WindowCenter": 2048, "WindowWidth": 4096, "VOILUTFunction": function}
    image = shown(tmp_path, RAMP, BitsStored=12, **window).ravel()
    for value, expected in by_hand.items():
        assert abs(image[value] - expected) <= 0.51, value


def test_a_window_is_of_modality_values_and_the_first_of_several_counts(tmp_path):
    stored = np.array([[0, 100, 200, 300]], dtype=np.uint16)
    tags = {"RescaleSlope": 2, "RescaleIntercept": -100}  # -100, 100, 300, 500
    window = {"WindowCenter": [300.5, 0], "WindowWidth": [401, 10]}  # 100..500
    assert shown(tmp_path, stored, **tags, **window).tolist() == [[0, 0, 128, 255]]
    # A falling slope: small stored values are bright.
    tags = {"RescaleSlope": -1, "RescaleIntercept": 300}
    window = {"WindowCenter": 150.5, "WindowWidth": 301}
    assert shown(tmp_path, stored, **tags, **window).tolist() == [[255, 170, 85, 0]]


def test_a_voi_table_by_hand(tmp_path):
    """The table comes before a window; below and above it its ends count."""
    stored = np.array([[5, 10, 11, 12, 50]], dtype=np.uint16)
    tags = {"VOILUTSequence": [table([0, 1000, 4095], 10, 12)]}
    window = {"WindowCenter": 20, "WindowWidth": 2}
    assert shown(tmp_path, stored, **tags, **window).tolist() == [[0, 0, 62, 255, 255]]


def test_a_voi_table_of_8_bits_with_4096_entries(tmp_path):
    entries = [value // 16 for value in range(4096)]
    image = shown(tmp_path, RAMP, BitsStored=12, VOILUTSequence=[table(entries, 0, 8)])
    assert (image == RAMP // 16).all()


def test_signed_values_and_a_table_from_below_zero(tmp_path):
    stored = np.array([[-1000, -10, 0, 10]], dtype=np.int16)
    window = {"WindowCenter": 0.5, "WindowWidth": 21}
    assert shown(tmp_path, stored, **window).tolist() == [[0, 0, 128, 255]]
    lut = table([0, 100, 200, 255] * 5 + [255], -10, 8)
    assert shown(tmp_path, stored, VOILUTSequence=[lut]).tolist() == [[0, 0, 200, 255]]
    mapped = {"ModalityLUTSequence": [table(list(range(21)), -10, 16)]}
    window = {"WindowCenter": 10.5, "WindowWidth": 21}
    assert shown(tmp_path, stored, **mapped, **window).tolist() == [[0, 0, 128, 255]]
    unsigned = np.array([[0, 5, 10]], dtype=np.uint16)
    assert shown(tmp_path, unsigned, **mapped, **window).tolist() == [[128, 191, 255]]


@pytest.mark.parametrize("voi", [{}, {"WindowCenter": 2048, "WindowWidth": 4096}])
def test_polarity_is_by_the_tag_alone(tmp_path, voi):
    """A dark film stays dark, a bright one bright; MONOCHROME1 is the inverse of MONOCHROME2."""
    dark = np.random.default_rng(1).gamma(1.0, 120, (40, 30)).clip(0, 4095).astype(np.uint16)
    for pixels in (dark, 4095 - dark):
        tags = {"BitsStored": 12, **voi}
        second = shown(tmp_path, pixels, **tags)
        first = shown(tmp_path, pixels, PhotometricInterpretation="MONOCHROME1", **tags)
        assert (first == 255 - second).all()
        if not voi:
            assert (second.mean() < 100) == (pixels is dark)


@pytest.mark.parametrize("polarity", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("padding", [0, 4095])
def test_padding_is_black_and_does_not_count_without_a_window(tmp_path, polarity, padding):
    film = np.linspace(1000, 1200, 900).astype(np.uint16).reshape(30, 30)
    padded = np.full((30, 60), padding, np.uint16)
    padded[:, :30] = film
    tags = {"BitsStored": 12, "PhotometricInterpretation": polarity}
    image = shown(tmp_path, padded, PixelPaddingValue=padding, **tags)
    assert (image[:, :30] == shown(tmp_path, film, **tags)).all()
    assert (image[:, 30:] == 0).all()
    nearly = padded.copy()
    nearly[::2, 30:] = 50 if padding == 0 else 4000
    limit = int(nearly[0, 30])
    image = shown(tmp_path, nearly, PixelPaddingValue=padding, PixelPaddingRangeLimit=limit, **tags)
    assert (image[:, 30:] == 0).all()


def test_values_between_percentiles_are_spread(tmp_path):
    pixels = np.full((20, 100), 500, np.uint16)
    pixels[:, 50:] = 600
    pixels[0, :3] = 65535  # a marker, 0.15 % of all pixels
    image = shown(tmp_path, pixels)
    assert (image[1, 0], image[1, -1], image[0, 0]) == (0, 255, 255)
    pixels[:] = 500
    pixels[0, 0] = 600  # too few for a percentile: extremes
    assert sorted(set(shown(tmp_path, pixels).ravel())) == [0, 255]


@pytest.mark.parametrize(
    ("tags", "said"),
    [
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "PALETTE COLOR, expected one of"),
        ({"PhotometricInterpretation": None}, "has no PhotometricInterpretation"),
        ({"Rows": None, "BitsStored": None}, "has no Rows, BitsStored"),
        ({"PixelData": None}, "has no PixelData"),
        ({"NumberOfFrames": 2, "Rows": 16}, "several frames"),
        ({"PixelData": b"1234"}, "is truncated: 4 of 8192 bytes of pixels"),
        ({"WindowCenter": 9, "WindowWidth": 0}, "Window Width must be greater"),
        ({"WindowCenter": 9000, "WindowWidth": 2}, "shows nothing: every pixel is 0 of 255"),
        ({"VOILUTFunction": "CUBIC", "WindowCenter": 9, "WindowWidth": 2}, "CUBIC"),
    ],
)
def test_what_is_no_film_is_refused_by_name(tmp_path, tags, said):
    with pytest.raises(DataError, match=said) as error:
        shown(tmp_path, RAMP, **tags)
    assert "film.dcm" in error.value.where


@pytest.mark.parametrize("polarity", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("voi", [{}, {"WindowCenter": 7, "WindowWidth": 5}])
def test_a_constant_image_is_refused(tmp_path, polarity, voi):
    pixels = np.full((8, 8), 7, np.uint16)
    for padding in ({}, {"PixelPaddingValue": 0}, {"PixelPaddingValue": 7}):
        pixels[0, 0] = 0 if padding.get("PixelPaddingValue") == 0 else 7
        with pytest.raises(DataError, match="shows nothing"):
            shown(tmp_path, pixels, PhotometricInterpretation=polarity, **voi, **padding)


WITHOUT_LIBJPEG = """
import sys
from importlib import metadata
installed = metadata.distributions
metadata.distributions = lambda **given: (
    one for one in installed(**given) if one.name != "pylibjpeg-libjpeg")
class Absent:
    def find_spec(self, name, *_):
        if name.partition(".")[0] == "libjpeg":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
from pathlib import Path
from medtune.runtime.errors import DataError
from medtune.media.dicom import read_dicom
for path in sys.argv[1:]:
    try:
        read_dicom(Path(path))
        print("read")
    except DataError as error:
        print(error.found, "->", error.remedy)
"""


def test_what_a_default_installation_cannot_decode_is_refused_by_name_with_the_remedy(tmp_path):
    baseline = baseline_jpeg(tmp_path)
    files = {
        "JPGExtended.dcm": "JPEG Extended",
        "MR_small_jpeg_ls_lossless.dcm": "JPEG-LS Lossless",
        "JPEGLSNearLossless_16.dcm": "JPEG-LS Lossy",
        "JPEG2000.dcm": None,
        "MR_small_RLE.dcm": None,
    }
    lossless = LARGE / "JPEG-LL.dcm" if LARGE else None
    paths = [*(BUNDLED / name for name in files), baseline, *([lossless] if lossless else [])]
    expected = [*files.values(), None, *(["JPEG Lossless"] if lossless else [])]
    command = [sys.executable, "-W", "ignore", "-c", WITHOUT_LIBJPEG, *map(str, paths)]
    lines = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    for line, name in zip(lines.splitlines(), expected, strict=True):
        if name is None:
            assert line == "read"
        else:
            assert line.startswith(f"has transfer syntax {name}")
            assert "medtune[gpl]" in line


def test_a_default_installation_has_no_gpl_decoder():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert "pylibjpeg-libjpeg" not in project["dependencies"]
    assert project["optional-dependencies"]["gpl"] == ["pylibjpeg-libjpeg"]
    assert "pylibjpeg-libjpeg" not in (REPOSITORY / "envs/common.txt").read_text()


def ramp() -> np.ndarray:
    rows, columns = np.mgrid[:64, :96]
    return (rows + columns).astype(np.uint8)


def baseline_jpeg(tmp_path) -> Path:
    """Write the encoding of 8-bit films, of which no gray one comes with pydicom."""
    path = make_dicom(tmp_path / "film.dcm", ramp(), WindowCenter=128, WindowWidth=256)
    buffer = io.BytesIO()
    Image.fromarray(ramp()).save(buffer, "JPEG", quality=95)
    dataset = pydicom.dcmread(path)
    dataset.PixelData = encapsulate([buffer.getvalue()])
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    dataset.save_as(path)
    return path


def test_baseline_jpeg_inside(tmp_path):
    assert np.abs(read_dicom(baseline_jpeg(tmp_path)).astype(int) - ramp()).max() <= 3
