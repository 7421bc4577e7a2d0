"""Where an experiment stands: what is done, running or failed, and where its logs are."""

import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]
from rich.table import Table

from medtune.config.experiment import Config
from medtune.dataset.film_shards import shard_names
from medtune.orchestration.attempts import last_line
from medtune.runtime.console import console, log
from medtune.runtime.snakemake_records import INCOMPLETE, record_of
from medtune.sources.index import shard_count


@dataclass(frozen=True)
class Job:
    """One job of the workflow: its rule, output and log below the folder of the experiment."""

    rule: str
    output: str
    log: str

    @property
    def comment(self) -> str:
        """Return what the Slurm executor calls it."""
        wildcards = [Path(self.log).stem.replace(".", "_")] if "/" in self.log else []
        return "_wildcards_".join([f"rule_{self.rule}", *wildcards])


def jobs(config: Config, results: Path) -> Iterator[Job]:
    """Yield the jobs of an experiment in the order of the data; shards once the index is there."""
    yield from film_jobs(config, results) if config.films else volume_jobs(config, results)
    yield Job("model", "base/manifest.json", "model.log")
    yield Job("sft", "sft/trained.json", "sft.log")
    if config.grpo.curriculum:
        yield Job("difficulty", "difficulty.parquet", "difficulty.log")
    yield Job("grpo", "grpo/trained.json", "grpo.log")
    others = [other.name for other in config.evaluation.models]
    for name in others:
        yield Job("other_model", f"eval/models/{name}/manifest.json", f"other_model/{name}.log")
    for model in ("base", "sft", "grpo", *others):
        for part in range(config.evaluation.shards):
            table = f"eval/predictions/{model}/{part:04d}.parquet"
            yield Job("predict", table, f"predict/{model}.{part:04d}.log")
    yield Job("baselines", "eval/predictions/oracle/0000.parquet", "baselines.log")
    for model in ("base", "sft", "grpo", *others) if config.evaluation.judge else ():
        yield Job("judge", f"eval/judged/{model}/green.parquet", f"judge/{model}.log")
    yield Job("score", "eval/metrics.json", "score.log")
    yield Job("report", "report/report.html", "report.log")


def film_jobs(config: Config, results: Path) -> Iterator[Job]:
    """Yield the jobs of chest films up to the data set."""
    shards = shard_names(results)
    texts = config.films.texts if config.films else None
    yield Job("film_index", "index/films/manifest.json", "film_index.log")
    for shard in shards:
        yield Job("film_verify", f"index/verified/{shard}.parquet", f"film_verify/{shard}.log")
    yield Job("film_findings", "index/images.json", "film_findings.log")
    for shard in shards:
        yield Job("film_images", f"media/{shard}.parquet", f"film_images/{shard}.log")
    yield Job("film_splits", "index/splits.parquet", "film_splits.log")
    for shard in shards if config.films and config.films.has_texts else ():
        yield Job("film_texts", f"texts/talk/{shard}.parquet", f"film_texts/{shard}.log")
    for shard in shards if texts and texts.reasoning else ():
        written = f"texts/reasoning/{shard}.parquet"
        yield Job("film_reasoning", written, f"film_reasoning/{shard}.log")
    yield Job("annotate", "datasets/manifest.json", "annotate.log")
    yield Job("views", "datasets/views.manifest.json", "views.log")


def volume_jobs(config: Config, results: Path) -> Iterator[Job]:
    """Yield the jobs of volumes up to the data set."""
    index = results / "index/cases.parquet"
    count = shard_count(index, config.media.shard_size) if index.exists() else 0

    def of_shards(rule: str, output: str) -> Iterator[Job]:
        for shard in range(count):
            yield Job(rule, f"{output}/{shard:04d}.parquet", f"{rule}/{shard:04d}.log")

    yield Job("index", "index/cases.parquet", "index.log")
    yield from of_shards("verify", "index/verified")
    yield Job("findings", "index/verification.json", "findings.log")
    yield from of_shards("convert", "media")
    yield from of_shards("qc", "qc")
    yield Job("annotate", "datasets/manifest.json", "annotate.log")
    yield Job("views", "datasets/views.manifest.json", "views.log")


def state(job: Job, results: Path, queue: dict[str, str], alive: bool) -> str:
    """Return `done`, `running`, `pending`, `interrupted`, `failed` or `waiting`.

    Args:
        job: The job.
        results: Folder of the experiment.
        queue: Slurm's jobs of this folder, see `slurm_queue`.
        alive: Whether a Snakemake works in this folder.
    """
    if job.comment in queue:
        return queue[job.comment]
    if record_of(str(results / job.output), INCOMPLETE).is_file():
        return "running" if alive else "interrupted"
    if (results / job.output).exists():
        return "done"
    return "failed" if (results / "logs" / job.log).exists() else "waiting"


def show_status(config: Config) -> None:
    """Print a line for every rule, and where the logs of its unfinished jobs are."""
    results = Path("results") / config.experiment
    queue, alive = slurm_queue(Path.cwd()), _snakemake_works(Path.cwd())
    rules: dict[str, list[tuple[Job, str]]] = {}
    for job in jobs(config, results):
        rules.setdefault(job.rule, []).append((job, state(job, results, queue, alive)))
    table = Table("stage", "jobs done", "state", "log, and its last line", box=None)
    for rule, found in rules.items():
        states = [state for _, state in found]
        done = states.count("done")
        whole = "done" if done == len(states) else "waiting" if "waiting" in states else ""
        table.add_row(rule, f"{done}/{len(states)}", whole)
        for job, where in found:
            if where not in ("done", "waiting"):
                path = results / "logs" / job.log
                table.add_row("", "", where, f"{path}\n{last_line(path, where)}")
    console.print(table)
    log("whether what is done is up to date: snakemake -n; logs of Slurm: .snakemake/slurm_logs")


def slurm_queue(folder: Path) -> dict[str, str]:
    """Return the state of Slurm's jobs of a folder by their comments; empty without Slurm."""
    command = ["squeue", "-h", "-o", "%i %T %k %Z"]
    try:
        run = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return {}
    found = (line.split(maxsplit=3) for line in run.stdout.splitlines())
    return {
        comment: f"{state.lower()} as Slurm job {number}"
        for number, state, comment, where in found
        if where == str(folder)
    }


def _snakemake_works(folder: Path) -> bool:
    """Return whether a process of Snakemake on this machine works in a folder."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.cwd() == str(folder) and "snakemake" in " ".join(process.cmdline()):
                return True
    return False
