"""DVC and Snakemake on one clone: whichever runs first, the other finds nothing left to do."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import REPOSITORY, long
from small_experiment import copy_repository, planned, small_config

from medtune.config.experiment import load
from medtune.config.stages import STAGES, stage_json

UP_TO_DATE = "Data and pipelines are up to date."
NOTHING = "Nothing to be done"
WEIGHTS = "results/demo/sft/model.safetensors"


def run(folder: Path, *command: str, code: int | None = 0, **variables: str):
    """Run a command in a clone, with its own code, and caches and settings of nobody else."""
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(folder / "workflow"),
        "DVC_SITE_CACHE_DIR": str(folder.parent / "dvc-site"),
        "DVC_GLOBAL_CONFIG_DIR": str(folder.parent / "dvc-global"),
        "DVC_SYSTEM_CONFIG_DIR": str(folder.parent / "dvc-system"),
        "GIT_CONFIG_COUNT": "2",
        "GIT_CONFIG_KEY_0": "user.name",
        "GIT_CONFIG_VALUE_0": "test",
        "GIT_CONFIG_KEY_1": "user.email",
        "GIT_CONFIG_VALUE_1": "test@example.org",
    }
    done = subprocess.run(
        command,
        cwd=folder,
        capture_output=True,
        text=True,
        env=environment | variables,
        check=False,
    )
    if code is not None:
        assert done.returncode == code, done.stdout + done.stderr
    return done


def said(done) -> str:
    return done.stdout + done.stderr


def dvc_yaml() -> dict:
    return yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())


def ran(done) -> list[str]:
    return re.findall(r"^Running stage '(\w+)'", done.stdout, re.M)


def both_are_done(folder: Path) -> None:
    assert UP_TO_DATE in said(run(folder, "dvc", "repro"))
    assert NOTHING in said(run(folder, "snakemake", "--dry-run"))
    assert run(folder, "git", "status", "--short").stdout == ""


def commit(folder: Path) -> None:
    run(folder, "git", "add", "--all")
    run(folder, "git", "commit", "-qm", "all")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone with a small demo, in which `dvc repro` has run and what git should know is there."""
    folder = tmp_path_factory.mktemp("dvc") / "clone"
    copy_repository(folder)
    small_config(folder / "config", reward={"file": None, "weights": {}})
    (folder / "config/terms.py").unlink()
    run(folder, "git", "init", "-q")
    commit(folder)
    assert ran(run(folder, "dvc", "repro")) == ["prepare", "sft", "grpo", "evaluate", "report"]
    commit(folder)
    return folder


@pytest.fixture
def clone(recorded: Path, tmp_path: Path) -> Path:
    """A copy of that clone to work in."""
    return Path(shutil.copytree(recorded, tmp_path / "clone", symlinks=True))


def test_git_knows_pointers_and_metrics_alone(recorded: Path):
    tracked = run(recorded, "git", "ls-files", "results/demo", "data", ".snakemake").stdout.split()
    assert tracked == ["data/README.md", "results/demo/means.json"]


def test_after_dvc_both_are_done(recorded: Path):
    both_are_done(recorded)


def test_after_snakemake_dvc_only_records(clone: Path):
    (clone / "dvc.lock").unlink()
    shutil.rmtree(clone / ".dvc/cache")
    weights = (clone / WEIGHTS).stat()
    done = run(clone, "dvc", "repro")
    assert said(done).count(NOTHING) == len(ran(done)) == 5
    assert (clone / WEIGHTS).stat().st_mtime_ns == weights.st_mtime_ns
    both_are_done(clone)


@pytest.mark.long
def test_a_key_of_grpo_reruns_grpo_evaluation_and_report(clone: Path):
    path = clone / "config/config.yaml"
    before = path.read_text()
    values = yaml.safe_load(before)
    values["grpo"]["learning_rate"] = 0.002
    path.write_text(yaml.safe_dump(values))
    dry = run(clone, "snakemake", "--dry-run")
    assert planned(dry) == {"grpo", "predict", "score", "report"}
    path.write_text(before)

    done = run(clone, "dvc", "exp", "run", "-S", "config/config.yaml:grpo.learning_rate=0.002")
    assert ran(done) == ["grpo", "evaluate", "report"]
    assert NOTHING not in said(done)
    params = json.loads(run(clone, "dvc", "params", "diff", "--json").stdout)
    assert params == {
        "config/config.yaml": {"grpo.learning_rate": {"old": 0.0001, "new": 0.002, "diff": 0.0019}}
    }
    shown = json.loads(run(clone, "dvc", "plots", "diff", "HEAD", "--json").stdout)["data"]
    assert set(shown) == {next(iter(plot)) for plot in dvc_yaml()["plots"]}
    for (plot,) in shown.values():
        assert set(plot["revisions"]) == {"HEAD", "workspace"}
        assert '"step"' in json.dumps(plot["content"])
    assert "index.html" in run(clone, "dvc", "plots", "show").stdout
    means = clone / "results/demo/means.json"
    kept = means.read_text()
    values = json.loads(kept)
    values["grpo"]["iou"] += 0.5
    means.write_text(json.dumps(values))  # so few steps change nothing
    metrics = json.loads(run(clone, "dvc", "metrics", "diff", "--json").stdout)
    assert metrics["results/demo/means.json"]["grpo.iou"]["diff"] == 0.5
    means.write_text(kept)
    commit(clone)
    both_are_done(clone)


@pytest.fixture(scope="module")
def s3():
    """The URL of a local server that speaks S3."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


def add_remote(folder: Path, kind: str, s3: str) -> dict[str, str]:
    """Add an empty remote, and return what its users need in their environment."""
    keys = {
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    if kind == "local":
        run(folder, "dvc", "remote", "add", "-d", "store", str(folder.parent / "store"))
    else:
        import boto3

        client = boto3.client(
            "s3",
            endpoint_url=s3,
            region_name="us-east-1",
            aws_access_key_id="a",
            aws_secret_access_key="b",
        )
        client.create_bucket(Bucket="bucket")
        run(folder, "dvc", "remote", "add", "-d", "store", "s3://bucket/medtune")
        run(folder, "dvc", "remote", "modify", "store", "endpointurl", s3)
    return keys


@pytest.mark.parametrize("kind", ["local", "s3"])
def test_what_is_pushed_and_pulled_is_up_to_date(clone: Path, kind, s3):
    keys = add_remote(clone, kind, s3)
    commit(clone)
    run(clone, "dvc", "push", **keys)
    fresh = clone.parent / "fresh"
    run(clone, "git", "clone", "-q", ".", str(fresh))
    run(fresh, "dvc", "pull", **keys)
    both_are_done(fresh)
    for name in (WEIGHTS, "results/demo/report/report.html", "results/demo/qc/phantom.html"):
        assert (fresh / name).read_bytes() == (clone / name).read_bytes()
    videos = list((clone / "results/demo/media").rglob("*.mp4"))
    assert videos
    assert all((fresh / video.relative_to(clone)).exists() for video in videos)


@pytest.mark.parametrize(
    "accident", ["changed", *(pytest.param(name, marks=long) for name in ("removed", "added"))]
)
def test_what_no_job_has_written_is_not_recorded(clone: Path, accident):
    lock = (clone / "dvc.lock").read_text()
    weights = clone / WEIGHTS
    if accident == "changed":
        weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    elif accident == "removed":
        weights.unlink()
    else:
        (weights.parent / "notes.txt").write_text("mine")
    done = run(clone, "dvc", "repro", code=255)
    assert "results/demo/sft" in done.stderr
    assert "no job has written it" in done.stderr
    assert (clone / "dvc.lock").read_text() == lock
    run(clone, "dvc", "checkout", "--force", "results/demo/sft")
    both_are_done(clone)


@pytest.mark.long
def test_a_lost_result_is_made_again(clone: Path):
    (clone / "results/demo/means.json").unlink()
    assert ran(run(clone, "dvc", "repro"))[0] == "evaluate"
    commit(clone)  # when jobs ran is in the lock
    both_are_done(clone)


def raw_source(clone: Path, **source) -> Path:
    """Write a configuration whose source is real to it: it has no phantom that writes it."""
    values = yaml.safe_load((clone / "config/config.yaml").read_text())
    values |= {"phantom": None, "experiment": "other"}
    values["sources"][0] |= {"root": "data/raw"} | source
    (clone / "data/phantom").rename(clone / "data/raw")
    (clone / "config/mine.yaml").write_text(yaml.safe_dump(values))
    return clone / "data/raw"


def test_raw_files_that_dvc_tracks_count_by_content(clone: Path):
    """A pull gives them other times; a change counts once `dvc add` has seen it."""
    raw = raw_source(clone)
    run(clone, "dvc", "add", "data/raw")
    command = ("snakemake", "results/other/index/verification.json")
    config = ("--configfile", "config/mine.yaml")
    run(clone, *command, *config)
    files = sorted(raw.rglob("*.nii.gz"))
    for path in files:
        os.utime(path, (1, 1))
    assert NOTHING in said(run(clone, *command, "--dry-run", *config))
    files[0].write_bytes(files[5].read_bytes())
    run(clone, "dvc", "add", "data/raw")
    assert planned(run(clone, *command, "--dry-run", *config)) >= {"index", "findings"}


def restrict(folder: Path) -> None:
    values = yaml.safe_load((folder / "config/config.yaml").read_text())
    values["sources"][0]["restricted"] = True
    (folder / "config/config.yaml").write_text(yaml.safe_dump(values))


def test_nothing_made_of_a_restricted_source_is_pushed(clone: Path, s3):
    keys = add_remote(clone, "local", s3)
    restrict(clone)
    private = (
        (clone / "dvc.yaml").read_text().replace("persist: true", "persist: true, push: false")
    )
    report = "results/${experiment}/report: {persist: true"
    (clone / "dvc.yaml").write_text(private.replace(f"{report}, push: false", report))
    refused = run(clone, "snakemake", "--dry-run", code=1)
    assert "dvc.yaml: results/demo/report may be pushed" in said(refused)
    (clone / "dvc.yaml").write_text(private)
    assert NOTHING in said(run(clone, "snakemake", "--dry-run"))
    run(clone, "dvc", "push", **keys)
    assert not (clone.parent / "store").exists()


def test_a_restricted_source_itself_is_not_pushed(clone: Path):
    raw_source(clone, restricted=True)
    command = ("snakemake", "--dry-run", "--configfile", "config/mine.yaml")
    run(clone, *command)
    run(clone, "dvc", "add", "data/raw")
    assert "raw.dvc: data/raw may be pushed" in said(run(clone, *command, code=1))
    pointer = yaml.safe_load((clone / "data/raw.dvc").read_text())
    pointer["outs"][0]["push"] = False
    (clone / "data/raw.dvc").write_text(yaml.safe_dump(pointer))
    run(clone, *command)


def test_no_cluster_job_runs_under_the_lock_of_dvc(clone: Path):
    command = ("snakemake", "report", "-R", "report", "--executor", "slurm", "--jobs", "1")
    refused = run(clone, *command, code=1, DVC_STAGE="report")
    assert "`dvc repro` would lock its files while cluster jobs run" in said(refused)


VERBS = {
    "prepare": ("phantom", "index", "verify", "findings", "convert", "qc", "annotate", "views"),
    "sft": ("model", "sft"),
    "grpo": ("difficulty", "grpo"),
    "evaluate": ("predict", "baselines", "judge", "score"),
    "report": ("report",),
}


@pytest.mark.parametrize("stage", VERBS)
def test_a_stage_in_dvc_has_the_parameters_of_its_rules(stage):
    """And the rules of all stages are those of the workflow, but for the export."""
    stages = dvc_yaml()["stages"]
    config = load(REPOSITORY / "config/config.yaml")
    read = {key for verb in VERBS[stage] for key in json.loads(stage_json(config, verb))}
    params = {key.partition(".")[0] for key in stages[stage]["params"][0]["${config}"]}
    assert params == read - {"reward_sha256"}
    of_volumes = {name for name in STAGES if not name.startswith("film")}
    assert {verb for verbs in VERBS.values() for verb in verbs} == of_volumes - {
        "export",
        "push",
        "rewardservice",
        "tracking",
    }
