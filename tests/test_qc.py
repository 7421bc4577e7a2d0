"""Quality control: what a contact sheet shows, pixel by pixel, and its page in a browser."""

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from conftest import MEDIA
from PIL import Image

from medtune.errors import DataError
from medtune.files import sha256
from medtune.media.convert import Converted, convert_case
from medtune.media.shard import convert_shard
from medtune.media.truth import Truth
from medtune.media.video import decode
from medtune.reporting.plots import bin_edges, histogram
from medtune.reporting.qc import write_pages
from medtune.reporting.sheets import (
    BOX_COLOUR,
    GAP,
    GUTTER,
    HEADER,
    MASK_COLOUR,
    TITLE,
    Sheet,
    contact_sheet,
    frames_to_show,
    write_sheet,
    write_sheets,
)
from medtune.sections import (
    MediaConfig,
    PhantomConfig,
    SourceConfig,
    SplitsConfig,
    TargetConfig,
    VerificationConfig,
)
from medtune.sources.base import Case, Volume
from medtune.sources.check import Finding
from medtune.sources.index import read_shard, write_index
from medtune.sources.phantom import write_phantom
from medtune.sources.verify import gather, verify_shard
from medtune.stages import ConvertStage, FindingsStage, QcStage
from medtune.tables import read_records

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


def coloured(tile: np.ndarray, colour: str) -> np.ndarray:
    return (tile == np.frombuffer(bytes.fromhex(colour[1:]), np.uint8)).all(axis=-1)


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
            masked, boxed = coloured(tile, MASK_COLOUR), coloured(tile, BOX_COLOUR)
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
            drawn = coloured(tile, MASK_COLOUR) | coloured(tile, BOX_COLOUR)
            drawn[:24] = True  # the letters of the patient's sides
            assert (tile == seen)[~drawn].all()
    # t1c grows along the stored axis, to the patient's right: it is bright at the image's left.
    assert cell(sheet, 0, 0)[100, 2].mean() > cell(sheet, 0, 0)[100, -2].mean()


def test_the_colour_layout_shows_every_channel(tmp_path: Path):
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
        outline = coloured(cell(sheet, channel + 1, 1), MASK_COLOUR)
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
    assert (coloured(tile, MASK_COLOUR) == frame_around(24, 18, 27, 20)).all()


@pytest.mark.parametrize("mask", [None, np.zeros(SHAPE)], ids=["no mask", "no target"])
def test_cases_without_a_target_show_their_images_alone(tmp_path: Path, mask):
    converted = convert(tmp_path, mask)
    assert (converted.truth is None) == (mask is None)
    sheet = sheet_of(tmp_path, converted)
    assert not coloured(sheet, MASK_COLOUR).any()
    assert not coloured(sheet, BOX_COLOUR).any()
    frames, _ = decode(tmp_path / converted.media.path)
    for column, number in enumerate((0, 2, 4, 5, 7)):
        assert (cell(sheet, 3, column)[100, 60] == frames[number][100 // ZOOM, 96 + 10]).all()


def test_a_mask_that_was_changed_since_is_an_error(tmp_path: Path):
    converted = convert(tmp_path, lesion())
    write_case(tmp_path, np.roll(lesion(), 1, axis=0))
    moved = sheet_of(tmp_path, converted)
    assert (coloured(cell(moved, 0, 1), MASK_COLOUR) == frame_around(23, 18, 26, 20)).all()
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


@pytest.mark.parametrize(
    ("values", "least", "log"),
    [
        ([1.0, 1.0], 0.05, False),
        ([0.0, 0.5], 0.001, False),
        ([0.7, 1.1, 6.0], 0.05, False),
        ([0.003, 250.0], 0.1, True),
        ([70.0, 71.0], 1, False),
    ],
)
def test_bins_hold_every_value_once(values, least, log):
    edges = bin_edges(values, least, log)
    assert edges == sorted(edges)
    assert edges[0] >= 0
    assert edges[0] <= min(values)
    assert edges[-1] > max(values)
    assert 10 <= len(edges) <= 43
    spec = histogram({"a": values, "b": values}, "title", least, log)
    bars = spec["data"]["values"]
    assert sum(bar["n"] for bar in bars if bar["series"] == "a") == len(values)


# ----------------------------------------------------------------------------------- the page


@pytest.fixture(scope="module")
def station(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Phantoms in two shards, one without a mask and one damaged, up to their pages."""
    work = tmp_path_factory.mktemp("qc")
    root = work / "data"
    config = PhantomConfig(root=str(root), patients=14, shape=(20, 24, 10), healthy=0.25)
    write_phantom(config, seed=3)
    cases = sorted(path for path in root.iterdir() if path.is_dir())
    next(cases[0].glob("*-seg.nii.gz")).unlink()
    damaged = next(cases[1].glob("*-t2w.nii.gz"))
    damaged.write_bytes(damaged.read_bytes()[:400])
    sources = [
        SourceConfig(
            name="phantom",
            kind="brats2023_gli",
            root=str(root),
            masks="optional",
            tumor_free=True,
        )
    ]
    index, summary = work / "index/cases.parquet", work / "index/verification.json"
    rules = VerificationConfig(on_error="exclude")
    write_index(sources, index)
    shards = [(n, read_shard(index, n, 10)) for n in range(2)]
    parts = [work / f"verified/{n:04d}.parquet" for n, _ in shards]
    for part, (_, chosen) in zip(parts, shards, strict=True):
        verify_shard(chosen, sources, rules, part)
    gather(parts, SplitsConfig(), rules, work / "findings.parquet", summary)
    for part, (n, _) in zip(parts, shards, strict=True):
        table = work / f"media/{n:04d}.parquet"
        convert_shard(ConvertStage(media=MEDIA, task=TargetConfig()), part, summary, table)
        write_sheets(QcStage(task=TargetConfig()), table, work / f"qc/{n:04d}.parquet")
    stage = FindingsStage(splits=SplitsConfig(), verification=rules)
    write_pages(stage, index, 10, work / "verified", work / "media", work / "qc")
    return work


def sheets_of(station: Path) -> list[Sheet]:
    return [s for n in range(2) for s in read_records(station / f"qc/{n:04d}.parquet", Sheet)]


def test_every_converted_case_has_a_sheet(station: Path):
    cases = read_records(station / "index/cases.parquet", Case)
    sheets = sheets_of(station)
    assert len(sheets) == len(cases) - 1  # one was damaged
    for sheet in sheets:
        path = station / "qc" / sheet.path
        assert sha256(path) == sheet.sha256
        assert Image.open(path).size == (sheet.width, sheet.height)
    assert len(list((station / "qc").rglob("*.jpg"))) == len(sheets)
    assert not list((station / "qc").rglob(".partial*"))


class Links(HTMLParser):
    """Collects what a page refers to."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, str]] = []

    def handle_starttag(self, tag, attrs):
        self.found += [(tag, value) for key, value in attrs if key in ("src", "href", "srcset")]


def test_the_page_lists_every_case_and_finding_and_needs_no_network(station: Path):
    html = (station / "qc/phantom.html").read_text()
    listed = html[html.index('id="cases"') :]
    for case in read_records(station / "index/cases.parquet", Case):
        assert f"<td>{case.case_id}</td>" in listed
    findings = read_records(station / "findings.parquet", Finding)
    assert {"error", "warning"} == {finding.severity for finding in findings}
    table = html[html.index('id="findings"') : html.index('id="list"')]
    assert table.count("<tr>") == len(findings) + 1
    for finding in findings:
        assert f"<td>{finding.code}</td>" in table
    links = Links()
    links.feed(html)
    for tag, target in links.found:
        assert not re.match(r"[a-z]+:|//", target)
        if tag == "img":
            assert (station / "qc" / target).is_file()
    assert {target for tag, target in links.found if tag == "img"} == {
        sheet.path for sheet in sheets_of(station)
    }
    assert not re.search(r"@import|url\(|<link|<script[^>]+src", html[: html.index("<script>")])
    for name in ("spacing", "volume", "peak", "ratio"):
        assert f'"{name}": {{' in html


def test_equal_inputs_give_the_same_page(station: Path):
    before = sha256(station / "qc/phantom.html")
    stage = FindingsStage(splits=SplitsConfig(), verification=VerificationConfig())
    folders = (station / "verified", station / "media", station / "qc")
    write_pages(stage, station / "index/cases.parquet", 10, *folders)
    assert sha256(station / "qc/phantom.html") == before


BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
browser = pytest.mark.skipif(BROWSER is None, reason="no chromium on PATH to open the page with")


def opened(page: Path, profile: Path, address: str = "") -> str:
    """Return the page as it stands in a browser that reaches no network."""
    run = subprocess.run(
        [
            *(BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"),
            *(f"--user-data-dir={profile}", "--host-resolver-rules=MAP * ~NOTFOUND"),
            *("--virtual-time-budget=4000", "--dump-dom", f"{page.as_uri()}{address}"),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    messages = [line for line in run.stderr.splitlines() if "CONSOLE" in line]
    assert not messages
    return run.stdout


def visible(dom: str) -> list[str]:
    """Return the case ids of the rows that are shown."""
    rows = re.findall(r'<tr class="case"([^>]*)>.*?</td><td>(.*?)</td>', dom, re.S)
    return [name for attributes, name in rows if "hidden" not in attributes]


@browser
def test_the_page_filters_in_a_browser(station: Path, tmp_path: Path):
    page = station / "qc/phantom.html"
    cases = read_records(station / "index/cases.parquet", Case)
    dom = opened(page, tmp_path)
    assert visible(dom) == [case.case_id for case in cases]
    assert dom.count("<canvas") + dom.count("marks") >= 4  # every chart was drawn
    converted = [
        c for n in range(2) for c in read_records(station / f"media/{n:04d}.parquet", Converted)
    ]
    targets = [c for c in converted if c.truth and c.truth.bbox_3d]
    expected = {
        "#kind=no-mask": {cases[0].case_id},
        "#finding=image-unreadable": {cases[1].case_id},
        "#kind=target": {c.case.case_id for c in targets},
        "#side=left&q=" + cases[3].case_id: {cases[3].case_id}
        & {c.case.case_id for c in targets if c.meta["side"] == "left"},
        "#q=image+unreadable": {cases[1].case_id},
        "#q=nowhere": set(),
    }
    for address, names in expected.items():
        dom = opened(page, tmp_path, address)
        assert set(visible(dom)) == names, address
        assert f'<output id="count">{len(names)}</output>' in dom


@browser
def test_sorting_and_enlarging_in_a_browser(station: Path, tmp_path: Path):
    """The page's own buttons, pressed by a script that is put behind it."""
    page = station / "qc/phantom.html"
    head = "[...document.querySelectorAll('#cases th')].find(h => h.textContent === 'ratio')"
    press = f"{head}.click(); {head}.click(); document.querySelector('#cases tbody a').click();"
    acted = page.with_name("acted.html")
    script = f"<script type='module'>{press}</script></body>"
    acted.write_text(script.join(page.read_text().rsplit("</body>", 1)))
    dom = opened(acted, tmp_path)
    acted.unlink()
    rows = re.findall(r'<tr class="case".*?</tr>', dom, re.S)
    numbers = [re.findall(r"<td>(.*?)</td>", row)[7] for row in rows]
    assert numbers[-2:] == ["", ""]  # the cases without a mask or a video
    shown = [float(text) for text in numbers[:-2]]
    assert shown == sorted(shown, reverse=True)
    assert len(shown) > 8
    assert re.search(r'<dialog id="viewer" open', dom)
