"""The page of quality control, also in a browser."""

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from conftest import MEDIA
from PIL import Image

from medtune.config.data import (
    PhantomConfig,
    SourceConfig,
    SplitsConfig,
    TargetConfig,
    VerificationConfig,
)
from medtune.config.stages import ConvertStage, FindingsStage, QcStage
from medtune.media.convert import Converted
from medtune.media.shard import convert_shard
from medtune.records.case import Case
from medtune.records.issue import Issue
from medtune.reporting.plots import bin_edges, histogram
from medtune.reporting.qc import write_pages
from medtune.reporting.sheets import (
    Sheet,
    write_sheets,
)
from medtune.runtime.files import sha256
from medtune.runtime.tables import read_records
from medtune.sources.brain.phantom import write_phantom
from medtune.sources.index import read_shard, write_index
from medtune.sources.verify import gather, verify_shard

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
browser = pytest.mark.skipif(BROWSER is None, reason="no chromium on PATH to open the page with")


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
            allow_empty_masks=True,
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
        convert_shard(ConvertStage(media=MEDIA, task=TargetConfig()), part, table)
        write_sheets(QcStage(task=TargetConfig()), part, table, work / f"qc/{n:04d}.parquet")
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
    findings = read_records(station / "findings.parquet", Issue)
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
