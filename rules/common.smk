"""Helpers of the rules: the typed configuration and where things are written.

The configuration is validated here, while the workflow is parsed; an unknown key stops it. Each
rule's `params.config` holds exactly the sections its verb may read, and `params.code` a hash of
what the verb's code does: a change reruns the stages that it concerns and no other.
"""

import os
import signal
from functools import cache

sys.path.insert(0, str(Path(workflow.basedir) / "workflow"))

from medtune.config.experiment import parse_config, read_yaml
from medtune.orchestration.dvc import check_restricted, recorded_files
from medtune.runtime.errors import MedtuneError
from medtune.orchestration.preflight import check_experiment, needed_models
from medtune.texts.prompt_files import prompts_sha256
from medtune.texts.judge import PROMPTS as JUDGE_PROMPTS
from medtune.config.evaluation import BASELINES_OF
from medtune.sources.index import (
    inventory,
    shard_count,
    shard_inventory,
    tables_inventory,
)
from medtune.config.stages import stage_code, stage_json

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
os.environ.update(
    MEDTUNE_ATTEMPT=dict(zip(sys.argv, sys.argv[1:])).get("--attempt", "")
)

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
