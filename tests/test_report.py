"""The report: its cases, its signs of collapse, its tables, and the page in a browser."""

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from evaluated import gold
from safetensors.numpy import save_file
from test_qc import Links, browser, opened

from medtune.config.data import TaskConfig
from medtune.config.evaluation import ReportConfig
from medtune.config.stages import ReportStage
from medtune.config.training import SftConfig
from medtune.geometry.volume import Geometry
from medtune.media.overlay import TRUTH_COLOR
from medtune.models.inputs import read_frames
from medtune.records.sample import Sample, iterate, load_split
from medtune.reporting.answers import repeated_phrase, signs
from medtune.reporting.cards import parameters, trained_part
from medtune.reporting.diagnostics import diagnostics
from medtune.reporting.page import files_of_report, write_report
from medtune.reporting.rollouts import last_rollouts
from medtune.runtime.files import manifest_of, sha256, write_json, write_manifest
from medtune.runtime.tables import write_rows
from medtune.tasks import get_task

STAGE = ReportStage(task=TaskConfig(), report=ReportConfig(title="A <b>report", cases=3))
TASK = get_task(TaskConfig())
METRICS = ("iou", "peak_error", "reward", "valid", "surface_mm", "decision_brier")
LOG = [
    {"step": n, "loss": 1 / n, "reward": n / 9, "entropy": 1.0, "grad_norm": 1.0} for n in (1, 2)
]


SURE = {"above": 0.9, "below": 1.0, "said": 0.97, "true": 0.5, "low": 0.2, "high": 0.8}
SURE |= {"valid": 0.75, "n": 6, "patients": 5}


def estimate(mean: float, **more) -> dict:
    return {"mean": mean, "low": mean - 0.1, "high": mean + 0.1, "n": 6, "patients": 5} | more


def metrics() -> dict:
    """What `score` writes, as far as the report knows it, and a metric that it does not know."""
    values = dict(zip(METRICS, (0.4, 2.0, 0.5, 1.0, 3.25, 0.125), strict=True))
    figures = {name: estimate(value) for name, value in values.items()}
    tests = {
        "p": 0.012,
        "p_is_limit": True,
        "p_holm": 0.036,
        "primary": True,
        "effect": 0.51,
        "detectable": 0.07,
    }
    change = {name: estimate(value / 8, **tests) for name, value in values.items()}
    stages = {"greedy": figures, "sampled": figures, "best_of_n": figures | {"iou": None}}
    size = {"small": {"grpo": {"greedy": figures}}, "large": {"grpo": {"greedy": figures}}}
    return {
        "models": {"constant": {"greedy": figures}, "grpo": stages, "sft": stages},
        "comparisons": {"grpo - sft, greedy": change, "sft - base, greedy": None},
        "groups": {"size": size},
        "blind": {"constant": {"reward": figures["reward"], "over_constant": figures["reward"]}},
        "calibration": {
            "grpo": {"cases": 6, "without": 2, "error": estimate(0.25), "bins": [SURE]}
        },
        "failures": {
            "sft": {
                "answers": 6,
                "invalid": 0.5,
                "readable": 0.5,
                "cut_off": 0.25,
                "reasons": [{"reason": "no JSON", "share": 0.5}],
            }
        },
        "pass_at": {
            "metric": "iou",
            "correct_from": 0.5,
            "models": {"sft": {"1": estimate(0.25), "4": estimate(0.5)}},
        },
        "systematic_errors": ["sft: boxes fit better if x and y are exchanged"],
        "degenerate_answer_rates": {"sft": {"constant": 0.5, "most common": 0.5}},
    }


@pytest.fixture(scope="module")
def held_out(dataset: Path) -> list[Sample]:
    return list(iterate(load_split(dataset, "test")))


def scored(samples, model, write, iou=0.5, mode="greedy") -> list[dict]:
    """Rows as `score` writes them, with an IoU that is a number or a function of the place."""
    rows = []
    for place, sample in enumerate(samples):
        tumor = sample.truth["bbox_3d"] is not None
        value = iou(place) if callable(iou) else iou
        rows.append(
            {
                **{"model": model, "mode": mode, "id": sample.id, "video_of": sample.id},
                **{"family": "qwen2_5_vl", "text": write(sample), "reward": value},
                **{"iou": value if tumor else None, "term_iou": value, "term_none": None},
                **{"no_tumor_correct": None if tumor else value, "reason": None, "ended": True},
            }
        )
    return rows


@pytest.fixture(scope="module")
def results(dataset: Path, held_out, tmp_path_factory) -> Path:
    """The folder of an experiment with all that the report reads, and the report."""
    folder = tmp_path_factory.mktemp("report") / "results/demo"
    shutil.copytree(dataset.parent, folder)
    parents = [folder / "datasets/manifest.json"]
    for name in ("base", "sft", "grpo"):
        (folder / name).mkdir()
        save_file({"w": np.zeros((3, 4), np.float32)}, folder / name / "model.safetensors")
        write_json(folder / name / "history.json", LOG)
        config = {"model": {"family": "qwen2_5_vl", "path": None}}
        config |= {name: SftConfig().model_dump(mode="json")} if name != "base" else {}
        files = list((folder / name).iterdir())
        facts = {"stage": name.replace("base", "model"), "step": 2, "processes": 1}
        write_manifest(folder / name, files, config, parents, **facts)
    about = {"cpu": "EPYC", "cores": 2, "memory_gb": 23.4, "gpus": ["H200, 139 GiB"]}
    lines = [{"begin": 0, "machines": [about], "not_measured": {"cpu": "no RAPL"}}]
    for n in (1, 2):
        spent = {"seconds": {"rollout": 3.0, "update": 1.0}, "joules": {"gpu": {"rollout": 1800.0}}}
        lines.append({"step": n, "host_mb": 10, "gpu_mb": 2048 * n} | spent)
    (folder / "grpo.timing.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    rows = scored(held_out, "sft", lambda _: "junk", lambda n: n / 10)
    rows += scored(held_out, "grpo", gold("qwen2_5_vl"), lambda n: 0.9 - n / 10)
    rows += [row | {"model": "constant"} for row in rows[: len(held_out)]]
    write_rows(folder / "eval/cases.parquet", rows)
    write_json(folder / "eval/metrics.json", metrics())
    files = [folder / "eval/metrics.json", folder / "eval/cases.parquet"]
    write_manifest(manifest_of(files[0]), files, {}, parents, stage="score")
    write_report(STAGE, folder, folder / "report/report.html")
    return folder


def cells(page: str, table: str) -> list[list[str]]:
    body = page[page.index(f'id="{table}"') :].partition("</table>")[0]
    rows = re.findall(r"<tr[^>]*>(<td.*?)</tr>", body, re.S)
    return [re.findall(r"<td[^>]*>(.*?)</td>", row, re.S) for row in rows]


def test_the_page_and_the_text_hold_every_figure_and_say_what_was_not_run(results: Path):
    page = (results / "report/report.html").read_text()
    text = (results / "report/report.md").read_text()
    figures = cells(page, "figures_table")
    assert len(figures) == len(METRICS) * 7
    assert ["surface mm ↓", "sft", "sampled (T = 1)", "3.250 [3.150, 3.350]", "6", "5"] in figures
    assert ["3-D IoU ↑", "grpo", "best of n", "undefined", "0", "0"] in figures
    assert [row[1] for row in figures] == sorted(
        (row[1] for row in figures), key=["constant", "sft", "grpo"].index
    )
    changes = cells(page, "comparisons_table")
    tested = ["3-D IoU ↑", "grpo - sft, greedy", "+0.050 [-0.050, +0.150]"]
    assert [*tested, "primary", "≤ 0.012", "≤ 0.036", "0.51", "0.07", "6"] in changes
    assert [
        "3-D IoU ↑",
        "sft - base, greedy",
        "not run",
        "primary",
        *["not run"] * 4,
        "0",
    ] in changes
    groups = cells(page, "groups_table")
    assert ["valid answers ↑", "size", "small", "grpo", "1.000 [0.900, 1.100]", "6", "5"] in groups
    for row in figures + changes + groups:
        minor = row[0] in ("surface mm ↓", "wrong about a tumor (Brier) ↓")
        assert (f"| {' | '.join(row)} |" in text) == (not minor)
    sure = ["grpo", "0.9 to 1.0", "0.970", "0.500 [0.200, 0.800]", "6", "5", "75.0 %"]
    assert cells(page, "calibration_table") == [sure]
    tries = ["sft", "4", "0.500 [0.400, 0.600]", "6", "5"]
    assert cells(page, "pass_table")[1] == tries
    assert "is 3-D IoU of 0.5 or more" in " ".join(page.split())
    assert "| grpo | 0.250 [0.150, 0.350] | 0.125 [0.025, 0.225] | 6 | 2 |" in text
    for words in (
        "A &lt;b&gt;report",
        "12",
        "all weights",
        "score  ",
        "convert  ",
        "2 warnings:",
        "x and y are",
    ):
        assert words in page
    assert "# A <b>report\n" in text
    assert 'value="grpo"' in page
    assert 'value="constant"' not in page  # no baseline has seen the cases


def test_the_page_needs_no_network_and_is_small(results: Path):
    page = (results / "report/report.html").read_text()
    links = Links()
    links.feed(page)
    for _, target in links.found:
        assert re.match(r"#|data:image/webp|report\.timing\.html$", target)
    assert not re.search(r"@import|url\(|<link|<script[^>]+src", page[: page.index("<script>")])
    assert len(page) < 1_500_000


def test_equal_inputs_give_the_same_report_whatever_the_times(results: Path):
    output = results / "report/report.html"
    before = [sha256(path) for path in files_of_report(output)]
    times = results / "report/report.timing.html"
    for words in (
        "2 cores of EPYC, 23.4 GiB of memory, H200, 139 GiB",
        "<dd>8 s</dd>",
        "<dd>0.0 GiB of the host (so far); 4.0 GiB of the GPU, used by PyTorch</dd>",
        "<dd>1 Wh</dd>",
        "not measured: no RAPL",
        "rollout</td><td>sampling answers</td><td>6.0</td><td>75.0 %</td><td>1</td><td>-",
    ):
        assert words in times.read_text()
    file = results / "grpo.timing.jsonl"
    kept = file.rename(file.with_suffix(".kept"))
    write_report(STAGE, results, output)
    assert [sha256(path) for path in files_of_report(output)] == before
    assert "grpo.timing.jsonl</code> is missing" in times.read_text()
    again = {"begin": 2, "machines": [], "not_measured": {"gpu": "no driver"}}
    file.write_text(kept.read_text() + json.dumps(again) + "\n")
    write_report(STAGE, results, output)
    assert "1 Wh, and in part not measured: no driver" in times.read_text()
    assert "s, in 2 parts" in times.read_text()
    kept.rename(file)
    write_report(STAGE, results, output)


def flawed(samples, write) -> list[str]:
    """The warnings of answers."""
    return signs("grpo", scored(samples, "grpo", write), {s.id: s for s in samples}, TASK)[1]


def test_signs_in_answers(samples):
    assert flawed(samples, gold("qwen2_5_vl")) == []
    same = '{"bbox_3d": [9, 9, 2, 20, 20, 6], "peak_slice": 3, "tumor_ratio": 0.1}'
    stuck = flawed(samples, lambda _: same)
    assert "grpo: its boxes hardly depend on the case: 0.00 times" in stuck[0]
    assert stuck[-1] == "grpo: 100 % of its answers are one and the same text"
    copied = flawed(samples, lambda s: s.prompt[20:])
    assert copied == ["grpo: 100 % of its answers are copied from the question"]
    assert flawed(samples, lambda s: f"{s.id} " + "there is a tumor " * 3) == [
        "grpo: 100 % of its answers repeat a phrase"
    ]
    assert not repeated_phrase("a b c d a b c d")


def test_what_is_logged_is_drawn_and_what_is_not_says_why():
    held_out = {"eval_reward": 0.4, "eval_sampled_reward": 0.3, "eval_iou": 0.2}
    log = [{"step": 1, "reward": 0.5, "terms/iou/mean": 0.1, "kl": None} | held_out]
    figures, charts = diagnostics([{"step": 1, "loss": 2.0}], log, "iou")
    missing = [f["absent"] for f in figures if f["stage"] == "SFT" and "validation" in f["title"]]
    assert missing == 2 * ["not run: sft.eval_generation_samples is 0, or nobody validates"]
    by_title = {figure["title"]: figure for figure in figures if figure["stage"] == "GRPO"}
    assert by_title["KL to the model GRPO starts from"]["absent"] == "not measured: grpo.beta is 0"
    assert by_title["Entropy"]["absent"] == "not logged"
    assert set(charts) == {figure["id"] for figure in figures if figure["absent"] is None}
    drawn = charts[by_title["Reward by term"]["id"]]["data"]["values"]
    assert drawn == [{"step": 1, "series": "iou", "value": 0.1}]
    for title, values in (
        ("Reward on validation patients", {"greedy": 0.4, "sampled": 0.3}),
        ("Main metric on validation patients", {"iou": 0.2}),
    ):
        drawn = charts[by_title[title]["id"]]["data"]["values"]
        assert {one["series"]: one["value"] for one in drawn} == values


def test_parameters_and_what_of_them_was_trained(results: Path):
    assert parameters(results / "sft") == 12
    section = SftConfig(freeze=["vision"]).model_dump()
    assert trained_part(section) == "all weights but vision"
    lora = section | {"lora": {"rank": 8}}
    assert trained_part(lora) == "adapters (LoRA of rank 8)"


def test_the_report_shows_three_groups_of_the_newest_rollouts(tmp_path: Path):
    assert last_rollouts(tmp_path) is None
    rows = [
        {"id": name, "text": "x" * 500, "reward": 0.5 * draw, "advantage": draw - 0.5}
        for name in "dabc"
        for draw in (0, 1)
    ]
    write_rows(tmp_path / "completions/step-99990.parquet", rows[:1])
    write_rows(tmp_path / "completions/step-100000.parquet", rows)
    shown = last_rollouts(tmp_path)
    assert shown["step"] == 100000
    assert [group["id"] for group in shown["groups"]] == ["d", "a", "b"]
    first, second = shown["groups"][0]["answers"]
    assert first == {"text": "x" * 400 + " …", "reward": "0.000", "advantage": "-0.500"}
    assert (second["reward"], second["advantage"]) == ("0.500", "+0.500")


def acted(page: Path, profile: Path, script: str) -> dict:
    """Return what a script that is put behind the page leaves in `found`."""
    copy = page.with_name("acted.html")
    end = "document.body.dataset.found = JSON.stringify(found);"
    module = f"<script type='module'>const found = {{}};{script}{end}</script></body>"
    copy.write_text(module.join(page.read_text().rsplit("</body>", 1)))
    # The browser's clock does not wait for pictures: on a busy machine it may run out before them.
    doms = (opened(copy, profile) for _ in range(3))
    match = next(filter(None, (re.search(r'data-found="([^"]*)"', dom) for dom in doms)), None)
    copy.unlink()
    assert match, "the script did not end"
    return json.loads(match[1].replace("&quot;", '"'))


@browser
def test_tables_sort_and_filter_in_a_browser(results: Path, tmp_path: Path):
    found = acted(
        results / "report/report.html",
        tmp_path,
        """
        const table = document.getElementById("figures_table");
        const shown = () => [...table.tBodies[0].rows].filter(row => !row.hidden)
          .map(row => [...row.cells].map(cell => cell.textContent));
        found.first = shown();
        const [metric, model] = table.closest(".data-table").querySelectorAll("select");
        const choose = (select, value) => {
          select.value = value;
          select.dispatchEvent(new Event("input", { bubbles: true }));
        };
        choose(metric, "");
        choose(model, "constant");
        table.tHead.rows[0].cells[3].click();
        found.sorted = shown();
        found.count = table.closest(".data-table").querySelector("output").textContent;
        found.expected = document.querySelectorAll(".chart").length;
        for (let wait = 0; wait < 50 && (found.charts ?? 0) < found.expected; wait += 1) {
          found.charts = document.querySelectorAll(".chart .marks").length;
          await new Promise(done => setTimeout(done, 50));
        }
        const head = table.tHead.rows[0].cells[3];
        found.focus = head.tabIndex;
        head.dispatchEvent(new KeyboardEvent("keydown", { key: "Enter" }));
        found.turned = head.ariaSort;
        found.sign = getComputedStyle(head, "::after").content;
        """,
    )
    assert {row[0] for row in found["first"]} == {"3-D IoU ↑"}
    assert [row[1] for row in found["first"]] == ["constant", *["sft"] * 3, *["grpo"] * 3]
    means = [row[3] for row in found["sorted"]]
    assert [mean.split()[0] for mean in means] == [
        "0.125",
        "0.400",
        "0.500",
        "1.000",
        "2.000",
        "3.250",
    ]
    assert found["count"] == "6"
    assert found["charts"] == found["expected"] > 5
    assert (found["focus"], found["turned"]) == (0, "descending")
    assert "▾" in found["sign"]


@browser
def test_tables_are_saved_as_csv_with_a_value_per_cell(results: Path, tmp_path: Path):
    found = acted(
        results / "report/report.html",
        tmp_path,
        """
        const link = URL.createObjectURL;
        let saved;
        URL.createObjectURL = blob => { saved = blob; return link(blob); };
        for (const name of ["figures", "comparisons"]) {
          document.querySelector(`#${name}_table`).closest(".data-table").querySelector("button").click();
          found[name] = await saved.text();
        }
        """,
    )
    head, *lines = csv.reader(found["figures"].splitlines())
    assert head == [
        "metric",
        "model",
        "answers",
        "mean",
        "low",
        "high",
        "note",
        "cases",
        "patients",
    ]
    assert ["3-D IoU", "constant", "greedy", "0.400", "0.300", "0.500", "", "6", "5"] in lines
    head, *lines = csv.reader(found["comparisons"].splitlines())
    assert head[2:10] == [
        "mean",
        "low",
        "high",
        "note",
        "endpoint",
        "p",
        "p is a limit",
        "p after Holm",
    ]
    assert lines[0][2:10] == ["+0.050", "-0.050", "+0.150", "", "primary", "0.012", "true", "0.036"]
    assert lines[1][2:10] == ["", "", "", "not run", "primary", "not run", "false", "not run"]


@browser
def test_the_page_of_times_draws_its_charts_in_a_browser(results: Path, tmp_path: Path):
    dom = opened(results / "report/report.timing.html", tmp_path)
    assert len(re.findall(r'<(?:svg|canvas)[^>]*class="marks"', dom)) == 2


@browser
def test_the_gallery_scrolls_through_the_slices_in_a_browser(
    results: Path, held_out, tmp_path: Path
):
    """The truth's box, by the color of its pixels, on every slice of the first case."""
    red, green, blue = bytes.fromhex(TRUTH_COLOR[1:])
    found = acted(
        results / "report/report.html",
        tmp_path,
        f"""
        const article = document.querySelector(".case"), canvas = article.querySelector("canvas");
        article.scrollIntoView();
        while (canvas.width === 300) await new Promise(done => setTimeout(done, 20));
        await new Promise(done => setTimeout(done, 200));
        for (const box of document.querySelectorAll("#which input:not([value=truth])")) box.click();
        found.id = article.querySelector("header span").textContent;
        found.size = [canvas.width, canvas.height];
        found.edges = [];
        found.middle = [];
        const slider = article.querySelector("input"), copy = document.createElement("canvas");
        [copy.width, copy.height] = found.size;
        const pen = copy.getContext("2d", {{ willReadFrequently: true }});
        for (let slice = 0; slice <= Number(slider.max); slice += 1) {{
          slider.value = slice;
          slider.dispatchEvent(new Event("input"));
          pen.drawImage(canvas, 0, 0);
          const {{ data, width }} = pen.getImageData(0, 0, ...found.size);
          const middle = 4 * (Math.floor(found.size[1] / 2 + 1) * width + found.size[0] / 2 + 1);
          found.middle.push([...data.slice(middle, middle + 3)]);
          const edges = [1e9, 1e9, -1, -1];
          for (let i = 0; i < data.length; i += 4) {{
            if (data[i] !== {red} || data[i + 1] !== {green} || data[i + 2] !== {blue}) continue;
            const x = i / 4 % width, y = Math.floor(i / 4 / width);
            edges[0] = Math.min(edges[0], x); edges[1] = Math.min(edges[1], y);
            edges[2] = Math.max(edges[2], x); edges[3] = Math.max(edges[3], y);
          }}
          found.edges.push(edges[2] < 0 ? null : edges);
        }}
        found.all = document.querySelectorAll(".case").length;
        const which = document.querySelector("#which select");
        which.value = "grpo: best";
        which.dispatchEvent(new Event("input", {{ bubbles: true }}));
        found.left = document.querySelectorAll(".case:not([hidden])").length;
        """,
    )
    sample = next(s for s in held_out if f"{s.source}/{s.case_id}" == found["id"])
    x1, y1, z1, x2, y2, z2 = sample.truth["bbox_3d"]
    zoom = found["size"][0] / Geometry.model_validate(sample.geometry).size[0]
    assert zoom == 20
    frames = read_frames(sample.media[0], results / "datasets")
    assert found["middle"] == frames[:, frames.shape[1] // 2, frames.shape[2] // 2].tolist()
    for slice_, edges in enumerate(found["edges"]):
        assert (edges is not None) == (z1 < slice_ + 1 and z2 > slice_), slice_
        if edges:
            expected = np.array([x1, y1, x2, y2]) * zoom - (0, 0, 1, 1)
            assert np.abs(np.array(edges) - expected).max() <= 1
    assert len(found["edges"]) == sample.media[0].frames
    assert (found["all"], found["left"]) == (len(read_labels(results)), 1)


def read_labels(results: Path) -> list[str]:
    return re.findall(r'data-labels="([^"]*)"', (results / "report/report.html").read_text())
