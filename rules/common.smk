"""Helpers of the rules: the typed configuration and where things are written.

The configuration is validated here, while the workflow is parsed; an unknown key stops it. Each
rule's `params.config` holds exactly the sections its verb may read, and `params.code` a hash of
what the verb's code does: a change reruns the stages that it concerns and no other.
"""

import os
import signal
import time
from functools import cache

from snakemake.cli import get_profile_dir
from snakemake.resources import Resource

sys.path.insert(0, str(Path(workflow.basedir) / "workflow"))

from medtune.config import parse_config, read_yaml
from medtune.dvc import check_restricted, recorded_files
from medtune.errors import MedtuneError
from medtune.preflight import check_experiment, needed_models
from medtune.llm.prompt_files import prompts_sha256
from medtune.scores.judge import PROMPTS as JUDGE_PROMPTS
from medtune.sections.evaluation import BASELINES_OF
from medtune.slurm import (
    Request,
    check_dropped_gpus,
    check_request,
    check_slurm,
    partition_nodes,
)
from medtune.slurm_memory import Attempts
from medtune.sources.index import (
    inventory,
    shard_count,
    shard_inventory,
    tables_inventory,
)
from medtune.stages import stage_code, stage_json

try:
    for path in workflow.configfiles:
        read_yaml(Path(path))  # Snakemake would not notice a key that is given twice
    CONFIG = parse_config(config, ", ".join(str(path) for path in workflow.configfiles))
    check_restricted(CONFIG)
except MedtuneError as error:
    raise WorkflowError(str(error)) from None

RESULTS = f"results/{CONFIG.experiment}"
LOGS = f"{RESULTS}/logs"
TRAINED = ("sft", "grpo")


# Slurm's signals reach every process of a job. Training saves and ends; what is around it waits.
signal.signal(signal.SIGUSR1, signal.SIG_IGN)
shell.prefix("trap '' TERM USR1; set -euo pipefail; ")


wildcard_constraints:
    shard=r"\d{4}",
    model="base|sft|grpo",


def settings(stage, model="base"):
    """Return the sections of the configuration that a stage reads, as JSON.

    Args:
        stage: The stage.
        model: Name of the model that it is about.
    """
    try:
        return stage_json(CONFIG.for_model(model), stage)
    except MedtuneError as error:
        raise WorkflowError(str(error)) from None


def code(verb):
    """Return the hash of what a verb's code does with this configuration."""
    return stage_code(CONFIG, verb)


# At the head of every log. Snakemake tells the attempt to nobody but itself, on the command line of
# the job of a cluster.
os.environ["MEDTUNE_ATTEMPT"] = dict(zip(sys.argv, sys.argv[1:])).get("--attempt", "")

# No parameter of a rule: another tracker trains nothing anew.
os.environ.update(MEDTUNE_TRACKING=settings("tracking"))


def done(model):
    """Return the file that is there when a model is.

    Snakemake removes the outputs of a job before it starts and when it fails, and afterwards takes
    what is left of them for the result. Of a training it gets a copy of the manifest, and no
    failure costs the model that was there before or lets it pass for the new one.
    """
    if model in TRAINED:
        return f"{RESULTS}/{model}/trained.json"
    place = RESULTS if model == "base" else f"{RESULTS}/eval/models"
    return f"{place}/{model}/manifest.json"


for model in TRAINED:
    if not Path(f"{RESULTS}/{model}/manifest.json").exists():
        Path(done(model)).unlink(missing_ok=True)


def of_profile(resources):
    """Return resources as the profile or command line gives them, by name."""
    return {name: resource.raw for name, resource in resources.items()}


def slurm_gpus(name):
    """Return how Slurm is asked for the GPUs that the profile gives a rule, once per allocation.

    The executor would start a task for each GPU; the processes are `medtune launch`'s business,
    which on several nodes calls `srun` itself (`mpi`).
    """
    given = of_profile(workflow.resource_settings.overwrite_resources.get(name) or {})
    gpus, nodes = int(given.get("gpus_per_node", 0)), int(given.get("nodes", 1))
    if not gpus:
        return {}
    kind = f"{given['gpu_type']}:" if "gpu_type" in given else ""
    tasks = {"mpi": "srun", "tasks": nodes} if nodes > 1 else {}
    return {"gres": f"gpu:{kind}{gpus}", "tasks_per_gpu": 0} | tasks


def gpu_threads(wildcards):
    """Return the cores of a job that uses a GPU if there is one: as many as a node has for a GPU.

    Without a cluster all, so that one such job runs at a time: each takes the whole GPU.
    """
    return 16 if workflow.non_local_exec or workflow.remote_exec else workflow.cores


def profile_name():
    """Return the profile that the command line or the environment names."""
    words = [part for word in sys.argv for part in word.split("=", 1)]
    if "--profile" in words[:-1]:
        return words[words.index("--profile") + 1]
    return os.environ.get("SNAKEMAKE_PROFILE", "slurm")


def memory_grows_if_it_ran_out():
    """Let `attempt` in an expression of `mem_mb` count only attempts that ran out of memory.

    So an attempt after a time limit asks for no more than the one before, and none for more than a
    node of its partition has.
    """
    attempts = Attempts(since=time.time())

    def grown(given, partition):
        def memory(wildcards, input, attempt, threads, rulename, async_run):
            job = (rulename, "_".join(wildcards).replace("/", "_"))
            known = dict(input=input, threads=threads, rulename=rulename)
            known |= dict(async_run=async_run)
            first = given.evaluate(wildcards, attempt=1, **known).value
            if attempt == 1:
                return first
            attempts.wait_after_refusal(*job, attempt)
            times = 1 + attempts.out_of_memory(*job)
            most = max((node.mem_mb for node in partition_nodes(partition)), default=0)
            return min(
                given.evaluate(wildcards, attempt=times, **known).value,
                max(first, most),
            )

        return memory

    for each in workflow.rules:
        given, partition = map(each.resources.get, ("mem_mb", "slurm_partition"))
        if given is not None and partition is not None:
            each.resources["mem_mb"] = Resource(
                "mem_mb", grown(given, partition.raw), raw=given.raw
            )


def check_submission():
    """Check that Slurm can do what the profile asks for."""
    given = workflow.resource_settings
    everywhere = of_profile(given.default_resources or {})
    by_name = {"default-resources": everywhere} | {
        name: everywhere | of_profile(values)
        for name, values in given.overwrite_resources.items()
    }
    jobs = {job.rule.name: job for job in workflow.dag.needrun_jobs()}
    chosen = get_profile_dir(profile_name())
    if chosen:
        check_dropped_gpus(chosen[1], by_name, jobs)
    check_slurm(
        workflow.executor_settings.status_command,
        workflow.executor_settings.init_seconds_before_status_checks,
        {n: v["slurm_partition"] for n, v in by_name.items() if "slurm_partition" in v},
        {name for name, values in by_name.items() if values.get("gpus_per_node")},
    )
    for job in jobs.values():
        if not workflow.is_local(job.rule):
            check_request(largest_request(job))


def largest_request(job):
    """Return the most that the attempts of a job ask Slurm for; memory grows to what a node has."""
    first = job.resources
    last = job.rule.resources["runtime"].evaluate(
        job.wildcards,
        input=job.input,
        attempt=1 + job.restart_times,
        threads=job.threads,
        rulename=job.rule.name,
        async_run=workflow.async_run,
    )
    return Request(
        job.rule.name,
        first.get("slurm_partition", ""),
        nodes=first.get("nodes", 1),
        cpus=first.get("cpus_per_task", job.threads),
        mem_mb=first.get("mem_mb", 0),
        minutes=last.value,
        gpus=first.get("gpus_per_node", 0),
    )


def set_logs_aside():
    """Rename the logs of jobs that will run: one that is never submitted has none to show."""
    for job in workflow.dag.needrun_jobs():
        for log in map(Path, job.log):
            if log.exists():
                log.replace(f"{log}.earlier")


def shards(pattern):
    """Return an input function that lists one file per shard of the index."""

    def listed(wildcards):
        count = shard_count(checkpoints.index.get().output[0], CONFIG.media.shard_size)
        return [pattern.format(shard=f"{shard:04d}") for shard in range(count)]

    return listed


WRITTEN = Path(CONFIG.phantom.root) if CONFIG.phantom else None
# Sources whose files are looked at for changes.
RAW = {
    s.name: s.root for s in CONFIG.sources if Path(s.root) != WRITTEN and not s.frozen
}


@cache
def known_files():
    """Return the hashes of raw files that DVC tracks: pulled elsewhere, they have other times."""
    return {
        path: digest
        for root in RAW.values()
        for path, digest in recorded_files(Path(root)).items()
    }


@cache
def raw_files():
    """Return a hash of what is seen of all raw files: what changed is read again."""
    return inventory(RAW.values(), known_files())


@cache
def film_tables():
    """Return a hash of what is seen of the tables of film sources; images are too many to look at."""
    return tables_inventory({path for s in CONFIG.films.sources for path in s.tables})


@cache
def given_texts():
    """Return a hash of what is seen of the texts that others made."""
    named = ((s.filtered_reports, s.conversations) for s in CONFIG.films.sources)
    return inventory({path for paths in named for path in paths if path}, {})


def raw_files_of(wildcards):
    """Return the same for the cases of one shard.

    Snakemake compares no parameter that is computed from `input`: the index is named here.
    """
    index = Path(f"{RESULTS}/index/cases.parquet")
    if not index.exists():
        return None
    size = CONFIG.media.shard_size
    return shard_inventory(index, int(wildcards.shard), size, RAW, known_files())


onstart:
    if "DVC_STAGE" in os.environ and workflow.non_local_exec:
        raise WorkflowError(
            "`dvc repro` would lock its files while cluster jobs run\n"
            "  -> run snakemake first, then `dvc repro` to record what it made"
        )
    try:
        if workflow.executor_plugin.name == "slurm":
            check_submission()
        # Preparing data asks for no model: it may come later, or be on another machine.
        running = {job.rule.name for job in workflow.dag.needrun_jobs()}
        check_experiment(CONFIG, needed_models(CONFIG, running))
    except MedtuneError as error:
        raise WorkflowError(str(error)) from None
    set_logs_aside()
