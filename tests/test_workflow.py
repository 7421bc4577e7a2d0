"""The workflow as users run it: dry runs, one small run, every rule alone."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml
from conftest import REPOSITORY, long
from kill_demo import kill, tree
from PIL import Image
from small_experiment import TERMS, planned, small_config, snakemake
from test_fingerprint import HARMLESS, lacking, replacing

from medtune.cli.main import app
from medtune.config.evaluation import BASELINES
from medtune.config.stages import REWARD_CODE
from medtune.orchestration.lineage import show_lineage
from medtune.runtime.errors import DataError
from medtune.runtime.files import check_manifest, read_json, sha256
from medtune.runtime.tables import read_rows


def test_the_run_leaves_what_it_promises(finished: Path):
    results = finished / "results/demo"
    for folder in ("datasets", "base", "sft", "grpo"):
        manifest = check_manifest(results / folder / "manifest.json")
        assert manifest["config"]["seed"] == 1
        assert len(manifest["commit"].rstrip("+")) in (40, 7)
    metrics = read_json(results / "eval/metrics.json")
    assert set(metrics["models"]) == {"constant", "base", "sft", "grpo", *BASELINES}
    modes = {"greedy", "sampled", "shuffled", "best_of_n", "majority"}
    assert set(metrics["models"]["grpo"]) == modes
    assert metrics["models"]["oracle"]["greedy"]["valid"]["mean"] == 1
    assert metrics["comparisons"]["grpo - sft, sampled"]["reward"]["n"] > 0
    tables = sorted((results / "grpo/completions").iterdir())
    assert [path.name for path in tables] == ["step-00001.parquet", "step-00002.parquet"]
    assert "term_brevity" in read_rows(tables[0])[0]
    config = read_json(results / "grpo/manifest.json")["config"]
    assert config["reward_sha256"] == sha256(finished / "terms.py")
    page = (results / "report/report.html").read_text()
    for words in (
        "in step 2 of GRPO, for 2 prompts",
        "medtune demo",
        "mean 3-D IoU",
        "GRPO over SFT",
        "other video",
        "Can the reward be gamed?",
        "constant, after long reasoning",
        "Signs of copying and collapse",
        "vegaEmbed(",
    ):
        assert words in page
    assert not re.search(r"""(src|href)=["']https?:""", page), "the page must open offline"
    assert len(page) < 5_000_000


def test_the_export_tells_of_both_stages_and_their_evaluation(finished: Path):
    folder = finished / "results/demo/export/grpo"
    manifest = check_manifest(folder / "manifest.json")
    assert any(name.endswith("metrics.json") for name in manifest["parents"])
    card = (folder / "README.md").read_text()
    for words in ("sft, the weights of step", "grpo, the weights of step 2", "file: terms.py"):
        assert words in card
    metrics = read_json(finished / "results/demo/eval/metrics.json")
    iou = metrics["models"]["grpo"]["greedy"]["iou"]
    assert f"{iou['mean']:.3f} [{iou['low']:.3f}, {iou['high']:.3f}]" in card
    assert "term_brevity" in card


def test_summary_prints_three_figures_and_the_report(finished: Path):
    run = subprocess.run(
        [sys.executable, "-m", "medtune", "summary", "results/demo"],
        cwd=finished,
        capture_output=True,
        text=True,
        check=True,
    )
    assert len(re.findall(r"^ [▲▼≈?] ", run.stderr, re.M)) == 3
    assert "report: results/demo/report/report.html" in run.stderr


def test_show_draws_what_the_workflow_has_written(finished: Path):
    rows = read_rows(finished / "results/demo/eval/predictions/bright/0000.parquet")
    run = subprocess.run(
        [sys.executable, "-m", "medtune", "show", "results/demo", rows[0]["id"]],
        cwd=finished,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    for words in ("truth (green)", "bright (", "grpo (", "case.png"):
        assert words in run.stderr
    with Image.open(finished / "case.png") as picture:
        assert picture.width > 100
    (finished / "case.png").unlink()


def test_snakemakes_own_report_holds_the_pages_with_captions_and_category(finished: Path):
    run = snakemake(finished, "--report", "own.zip")
    assert run.returncode == 0, run.stderr
    with zipfile.ZipFile(finished / "own.zip") as archive:
        names = {Path(name).name: name for name in archive.namelist() if "/raw/" in name}
        shown = archive.read("own/report.html").decode()
        for name in ("report.html", "iou.svg", "report.timing.html"):
            expected = (finished / "results/demo/report" / name).read_bytes()
            assert archive.read(names[name]) == expected
    (finished / "own.zip").unlink()
    for words in (
        "demo</tt>: whether training",
        "Mean 3-D IoU on held-out patients",
        "What SFT and GRPO ran on",
        '"Results"',
        '{"page": "times"}',
    ):
        assert words in shown, words


def test_a_second_run_does_nothing(finished: Path):
    run = snakemake(finished)
    assert run.returncode == 0
    assert "Nothing to be done" in run.stdout + run.stderr


RULES = {
    "phantom": "data/phantom/manifest.json",
    "index": "results/demo/index/cases.parquet",
    "verify": "results/demo/index/verified/0000.parquet",
    "findings": "results/demo/index/verification.json",
    "convert": "results/demo/media/0001.parquet",
    "qc": "results/demo/qc/0001.parquet",
    "qc_page": "results/demo/qc/phantom.html",
    "annotate": "results/demo/datasets/manifest.json",
    "views": "results/demo/datasets/views.manifest.json",
    "model": "results/demo/base/manifest.json",
    "sft": "results/demo/sft/trained.json",
    "difficulty": "results/demo/difficulty.parquet",
    "grpo": "results/demo/grpo/trained.json",
    "predict": "results/demo/eval/predictions/grpo/0000.parquet",
    "baselines": "results/demo/eval/predictions/bright/0000.parquet",
    "other_model": "results/demo/eval/models/theirs/manifest.json",
    "score": "results/demo/eval/metrics.json",
    "report": "results/demo/report/report.html",
    "export_model": "results/demo/export/grpo/manifest.json",
}


SOME = ("convert", "sft", "predict")


@pytest.mark.parametrize(
    "rule", [*SOME, *(pytest.param(name, marks=long) for name in RULES if name not in SOME)]
)
def test_every_rule_runs_alone_and_gives_the_same_bytes(
    finished: Path, rule, tmp_path, monkeypatch
):
    """And what it calls is in the hash of its code."""
    output = finished / RULES[rule]
    monkeypatch.setenv("MEDTUNE_CALLED", str(tmp_path))
    path = [str(REPOSITORY / "tests/trace"), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))
    theirs = {"name": "theirs", "path": "results/demo/sft", "family": "qwen2_5_vl"}
    over = tmp_path / "over.yaml"
    over.write_text(yaml.safe_dump({"evaluation": {"models": [theirs]}}))
    over = over if rule == "other_model" else None
    if rule in ("difficulty", "other_model"):  # the small experiment has neither
        snakemake(finished, RULES[rule], "--allowed-rules", rule, over=over)
    before = sha256(output)
    output.unlink()
    (output.parent / "manifest.json").unlink(missing_ok=True)  # else a training would take it over
    run = snakemake(finished, RULES[rule], "--allowed-rules", rule, over=over)
    assert run.returncode == 0, run.stdout + run.stderr
    assert sha256(output) == before
    if rule == "annotate":  # its folder is replaced as a whole, with the views in it
        assert snakemake(finished, RULES["views"]).returncode == 0
    logs = finished / "results/demo/logs"
    assert list(logs.rglob(f"{rule}.log")) or list(logs.rglob(f"{rule}/*.log"))
    verb = {
        **{"verify": "verify-shard", "qc_page": "qc-page", "export_model": "export"},
        "other_model": "model",
    }.get(rule, rule)
    called = {one for path in tmp_path.glob(f"{verb}.*") for one in path.read_text().split()}
    assert len(called) > 20
    if rule == "findings":  # its pages lie beside it as logs do; their code reruns nothing
        called = {name for name in called if not name.startswith("reporting.")}
    assert not lacking(verb.replace("-", "_"), called, REWARD_CODE if rule == "sft" else ())


EDGES = {
    "index": "verify findings qc_page",
    "verify": "findings convert qc_page",
    "findings": "convert annotate report",
    "convert": "qc qc_page annotate",
    "qc": "qc_page",
    "annotate": "views model sft grpo predict baselines score report",
    "model": "sft predict report",
    "sft": "grpo predict report",
    "grpo": "predict report",
    "predict": "score",
    "baselines": "score",
    "score": "report",
}


def following(*rules: str) -> set[str]:
    """Return rules and all that follow them."""
    found = set(rules)
    for rule in rules:
        found |= following(*EDGES.get(rule, "").split())
    return found


def test_all_rules_are_tested_alone():
    """Those of films in `test_films_workflow`; the judge, who is asked by an endpoint, by hand."""
    paths = [path for path in (REPOSITORY / "rules").glob("*.smk") if "film" not in path.stem]
    text = "".join(path.read_text() for path in paths)
    found = set(re.findall(r"^ *(?:rule|checkpoint) (\w+):", text, re.M))
    assert found - {"judge"} == set(RULES)


def test_a_lost_file_of_reward_terms_is_named(finished: Path):
    path = (finished / "terms.py").rename(finished / "kept.py")
    run = snakemake(finished, "--dry-run")
    path.rename(finished / "terms.py")
    assert run.returncode != 0
    assert "terms.py: cannot be read" in run.stdout + run.stderr
    assert "Traceback" not in run.stdout + run.stderr


@pytest.mark.parametrize(
    ("lost", "expected"),
    [
        ("sft/manifest.json", following("sft")),
        ("media/0000.parquet", following("convert")),
        ("qc/0000.parquet", following("qc")),
        ("qc/phantom.html", {"qc_page"}),
        ("eval/predictions/base/0000.parquet", following("predict")),
    ],
)
def test_an_interrupted_stage_is_not_hidden_by_an_older_report(finished: Path, lost, expected):
    """Snakemake removes the output of an interrupted job; what depends on it is stale."""
    path, marker = finished / "results/demo" / lost, finished / RULES["sft"]
    before = marker.read_bytes(), marker.stat().st_mtime_ns
    kept = path.rename(path.with_suffix(".kept"))
    run = snakemake(finished, "--dry-run")
    kept.rename(path)
    if not marker.exists():  # it vouches for no model that is gone
        marker.write_bytes(before[0])
        os.utime(marker, ns=(before[1], before[1]))
    assert planned(run) == expected


def test_a_failed_retraining_costs_no_model_and_passes_for_none(finished: Path, tmp_path):
    """With other settings than the model's, which stays; with its own, it is taken over again."""
    folder = tmp_path / "folder"
    shutil.copytree(finished, folder)
    model = folder / "results/demo/sft"
    before = {path: sha256(path) for path in model.rglob("*") if path.is_file()}
    target = ("results/demo/sft/trained.json", "--allowed-rules", "sft")
    over = tmp_path / "over.yaml"
    over.write_text(yaml.safe_dump({"sft": {"learning_rate": 0.1}}))
    (folder / "results/demo/checkpoints").write_text("no folder: training cannot start")
    assert snakemake(folder, *target, over=over).returncode != 0
    assert read_json(model / "manifest.json")["config"]["sft"]["learning_rate"] != 0.1
    assert planned(snakemake(folder, "--dry-run", *target, over=over)) == {"sft"}
    run = snakemake(folder, *target)
    assert "is there, of this code, configuration and data" in run.stdout + run.stderr
    assert {path: sha256(path) for path in before} == before


@pytest.fixture(scope="module")
def own(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished folder as of a user with raw data, which nothing in the workflow writes."""
    folder = tmp_path_factory.mktemp("own") / "folder"
    shutil.copytree(finished, folder)
    small_config(folder, phantom=None)
    assert planned(snakemake(folder, "--dry-run"))
    assert snakemake(folder, "--touch").returncode == 0
    assert not planned(snakemake(folder, "--dry-run")), "--touch accepts what is there"
    return folder


def configured(**changes):
    def run(own: Path, tmp_path: Path):
        return snakemake(own, "--dry-run", config=small_config(tmp_path, phantom=None, **changes))

    return run


def edited(*edits):
    def run(own: Path, tmp_path: Path):
        for name in ("rules", "workflow", "profiles"):
            shutil.copytree(REPOSITORY / name, tmp_path / name)
        shutil.copy(REPOSITORY / "Snakefile", tmp_path)
        for edit in edits:
            edit(tmp_path / "workflow/medtune")
        return snakemake(own, "--dry-run", repository=tmp_path)

    return run


def with_other_terms(own: Path, _: Path):
    (own / "terms.py").write_text(TERMS.replace("0.9", "0.8"))
    run = snakemake(own, "--dry-run")
    (own / "terms.py").write_text(TERMS)
    return run


def with_other_file(own: Path, _: Path):
    path = next((own / "data/phantom").rglob("*t1c.nii.gz"))
    before = path.stat()
    os.utime(path)
    run = snakemake(own, "--dry-run")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    return run


def with_other_file_of_frozen(own: Path, tmp_path: Path):
    """A frozen source is not looked at; `--touch` accepts that it was before."""
    source = {"name": "phantom", "kind": "brats2023_gli", "root": "data/phantom"}
    source |= {"allow_empty_masks": True, "frozen": True}
    folder = tmp_path / "folder"
    shutil.copytree(own, folder)
    small_config(folder, phantom=None, sources=[source])
    snakemake(folder, "--touch")
    return with_other_file(folder, tmp_path)


def with_other_date(own: Path, _: Path):
    os.utime(own / "results/demo/datasets/manifest.json")
    return snakemake(own, "--dry-run")


CHANGES = {
    "a raw file": [with_other_file],
    "a raw file of a `frozen` source": [with_other_file_of_frozen],
    "`media`: window, layout, size": [
        configured(media={"window": [1, 99]}),
        configured(media={"layout": "row", "tile_size": [48, 48]}),
    ],
    "`media`: modalities": [configured(media={"layout": "single", "modalities": ["t2f"]})],
    "`task.region`": [configured(task={"region": "TC"})],
    "`task`: the prompt": [configured(task={"chain_of_thought": True})],
    "`seed`, or the seed and shares of `splits`": [
        configured(seed=2),
        configured(splits={"test": 0.2}),
        configured(splits={"seed": 2}),
    ],
    "`views`: format, trainers": [
        configured(views={"format": "llava_onevision"}),
        configured(views={"trainers": ["llava"]}),
    ],
    "a key of `sft`": [configured(sft={"learning_rate": 0.5})],
    "a key of `grpo`": [configured(grpo={"learning_rate": 0.5})],
    "`reward`: a weight, a term's file": [
        configured(reward={"weights": {"brevity": 2.0}}),
        with_other_terms,
    ],
    "`evaluation`: how many answers, how long": [configured(evaluation={"samples": 3})],
    "`evaluation`: intervals": [configured(evaluation={"resamples": 300})],
    "the code of a metric": [
        edited(replacing("tasks/brain/tumor_metrics.py", "(0.3, 0.5, 0.7)", "(0.3, 0.6, 0.7)"))
    ],
    "the code of a stage, say SFT": [
        edited(replacing("training/sft.py", "model_accepts_loss_kwargs = True", "x = True"))
    ],
    "a template of the report": [edited(replacing("../report/report.html.jinja", "<h1", "<h1 "))],
    "a comment, a docstring, a message, a date": [
        edited(*(replacing(*change) for change in HARMLESS)),
        with_other_date,
    ],
}
VERSIONS = (REPOSITORY / "docs/versions.md").read_text()


@pytest.mark.parametrize("row", CHANGES)
def test_what_the_docs_say_runs_again_does(own: Path, tmp_path_factory, row):
    text = re.search(rf"^\| {re.escape(row)} \| (.*?) \|$", VERSIONS, re.M)[1].partition(";")[0]
    named = re.findall(r"`(\w+)`", text)
    expected = following(*named) if "what follows" in text else set(named)
    if "index" in expected:  # before it has run, nobody knows the shards
        expected -= {"verify", "convert", "qc"}
    for change in CHANGES[row]:
        run = change(own, tmp_path_factory.mktemp("changed"))
        assert run.returncode == 0, run.stdout + run.stderr
        assert planned(run) == expected


def test_every_row_of_the_docs_is_tested():
    table = VERSIONS.partition("| What changes |")[2].partition("\n\n")[0]
    rows = [line.split(" | ")[0].strip("| ") for line in table.splitlines()[2:]]
    assert rows == list(CHANGES)


def test_a_stage_is_run_again_by_its_name(finished: Path):
    assert planned(snakemake(finished, "--dry-run", "-R", "sft")) == following("sft")
    only = snakemake(finished, "sft", "--dry-run", "-R", "sft")
    assert planned(only) == {"sft"}


@pytest.mark.parametrize(
    "artifact",
    [
        *("datasets", "sft", "export/grpo", "eval/cases.parquet"),
        *("report/report.html", "eval/predictions/sft/0000.parquet"),
    ],
)
def test_the_lineage_of_everything_leads_to_the_raw_files(finished: Path, artifact, capsys):
    assert show_lineage(finished / "results/demo" / artifact)
    shown = capsys.readouterr().out
    cases = read_rows(finished / "results/demo/index/cases.parquet")
    assert f"raw  {5 * len(cases)} files of {len(cases)} cases" in shown


def test_the_lineage_of_a_video_lists_the_files_of_its_case(finished: Path, capsys, monkeypatch):
    monkeypatch.chdir(finished)
    video = next(Path("results/demo/media/phantom").glob("*.mp4"))
    assert show_lineage(video, files=True)
    assert capsys.readouterr().out.count(f"data/phantom/{video.stem}/") == 5


@pytest.mark.parametrize(
    ("changed", "artifact", "words"),
    [
        ("results/demo/sft/config.json", "grpo", "config.json changed since it was written"),
        ("results/demo/base/manifest.json", "report/report.html", "changed since it was used"),
        ("results/demo/media/0000.parquet", "datasets", "changed since it was used"),
        ("data/phantom", "sft", "seg.nii.gz is missing"),
    ],
)
def test_what_was_changed_on_the_way_is_marked(finished: Path, changed, artifact, words):
    path = finished / changed
    aside = path.rename(path.with_suffix(".aside"))
    if aside.is_file():
        path.write_bytes(aside.read_bytes() + b"\n")
    command = [sys.executable, "-m", "medtune", "lineage", f"results/demo/{artifact}"]
    run = subprocess.run(command, cwd=finished, capture_output=True, text=True, check=False)
    path.unlink(missing_ok=True)
    aside.rename(path)
    assert run.returncode == 1
    assert words in run.stdout
    assert "rerun its stage" in run.stderr


@pytest.fixture(scope="module")
def commands(finished: Path) -> list[list[str]]:
    """The commands of all jobs."""
    records = [path for path in (finished / ".snakemake/metadata").rglob("*") if path.is_file()]
    texts = {read_json(path)["shellcmd"] for path in records}
    words = [shlex.split(text.partition(" 2>&1")[0]) for text in sorted(texts)]
    starts = [one.index("--") if one[1] == "launch" else 0 for one in words]
    return [one[start + 1 :] for one, start in zip(words, starts, strict=True)]


@pytest.mark.parametrize(
    ("verb", "changed"),
    [
        ("verify-shard", "index/cases.parquet"),
        ("findings", "index/verified/0000.parquet"),
        ("convert", "index/verified/0001.parquet"),
        ("qc", "media/0000.parquet"),
        ("annotate", "media/0000.parquet"),
        ("annotate", "index/verification.json"),
        ("model", "datasets/splits.parquet"),
        ("sft", "datasets/splits.parquet"),
        ("sft", "base/config.json"),
        ("grpo", "datasets/splits.parquet"),
        ("grpo", "sft/config.json"),
        ("predict", "datasets/splits.parquet"),
        ("predict", "grpo/config.json"),
        ("score", "datasets/splits.parquet"),
        ("score", "eval/predictions/sft/0000.parquet"),
        ("report", "eval/cases.parquet"),
        ("report", "sft/history.json"),
        ("report", "index/verification.json"),
        ("export", "grpo/config.json"),
        ("export", "eval/metrics.json"),
    ],
)
def test_a_stage_refuses_a_parent_that_was_changed(
    finished: Path, commands, monkeypatch, verb, changed
):
    monkeypatch.chdir(finished)
    path = Path("results/demo") / changed
    before = path.read_bytes()
    own = [one for one in commands if one[0] == verb]
    near = [one for one in own if {str(path), str(path.parent)} & {*one}] or own
    path.write_bytes(before + b"\n")
    try:
        with pytest.raises(DataError, match=rf"{changed}: changed since .*manifest.json"):
            app(near[0], standalone_mode=False)
    finally:
        path.write_bytes(before)


def test_a_killed_run_ends_as_an_unbroken_one(finished: Path, tmp_path):
    """Twice here; `python tests/kill_demo.py` kills 50 times, from nothing on."""
    folder = tmp_path / "broken"
    shutil.copytree(finished, folder)

    def forget(folder: Path) -> None:
        (folder / "results/demo/grpo/manifest.json").unlink()

    forget(folder)
    killer = kill(folder, 2, 10, 3, forget)
    assert killer.killed == {"everything": 1, "snakemake": 1}
    assert tree(folder) == tree(finished)
