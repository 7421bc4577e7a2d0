"""What `medtune status` says of a job."""

import base64
import re
from pathlib import Path

import pytest

from medtune.orchestration.attempts import head, last_line
from medtune.orchestration.status import Job, state
from medtune.runtime.snakemake_records import INCOMPLETE, output_of, record_of

SFT = Job("sft", "sft/manifest.json", "sft.log")


@pytest.fixture
def results(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results/demo/logs").mkdir(parents=True)
    return Path("results/demo")


def begin(results: Path, job: Job) -> None:
    """Mark a job's output as Snakemake does while it is made."""
    name = base64.urlsafe_b64encode(str(results / job.output).encode()).decode()
    Path(".snakemake/incomplete").mkdir(parents=True)
    (Path(".snakemake/incomplete") / name).write_text('{"external_jobid": null}')


def test_states_in_the_life_of_a_job(results: Path):
    assert state(SFT, results, {}, alive=True) == "waiting"
    (results / "logs/sft.log").write_text("error: ...")
    assert state(SFT, results, {}, alive=True) == "failed"
    begin(results, SFT)
    assert state(SFT, results, {}, alive=True) == "running"
    assert state(SFT, results, {}, alive=False) == "interrupted"
    queue = {"rule_sft": "pending as Slurm job 7"}
    assert state(SFT, results, queue, alive=True) == "pending as Slurm job 7"
    next(Path(".snakemake/incomplete").iterdir()).unlink()
    (results / "sft").mkdir()
    (results / SFT.output).write_text("{}")
    assert state(SFT, results, {}, alive=False) == "done"


def test_a_log_says_whose_it_is_and_only_the_present_job_s_is_quoted(tmp_path, monkeypatch):
    log = tmp_path / "sft.log"
    assert last_line(log, "running as Slurm job 7") == "no log yet"
    monkeypatch.setenv("MEDTUNE_ATTEMPT", "2")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    line = head()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d [\d:]{8} [+-]\d{4} on \S+, Slurm job 7, attempt 2", line)
    assert head() is None, "what a job starts writes no other"
    log.write_text(f"{line}\nsft: 3/9, about 7 h 12 min left\n\n")
    quoted = "sft: 3/9, about 7 h 12 min left"
    assert last_line(log, "failed") == last_line(log, "running as Slurm job 7") == quoted
    assert last_line(log, "running as Slurm job 8") == "no log yet"
    assert last_line(log, "running as Slurm job 70") == "no log yet"
    assert last_line(log, "pending as Slurm job 7") == "no log yet", "requeued"


def test_slurm_names_jobs_by_rule_and_wildcards():
    assert SFT.comment == "rule_sft"
    shard = Job("convert", "media/0003.parquet", "convert/0003.log")
    assert shard.comment == "rule_convert_wildcards_0003"
    answers = Job("predict", "eval/predictions/sft/0001.parquet", "predict/sft.0001.log")
    assert answers.comment == "rule_predict_wildcards_sft_0001"


def test_a_long_path_has_a_record_in_folders():
    output = "results/demo/" + 300 * "x"
    record = record_of(output, INCOMPLETE)
    assert [part[0] for part in record.relative_to(INCOMPLETE).parts[:-1]] == ["@"]
    assert output_of(record, INCOMPLETE) == output
