"""The verbs that the rules call; each also works by hand.

`--config` takes a configuration file or the JSON of a stage's sections. Heavy imports happen
inside the verb that needs them.
"""

import errno
import os
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from medtune.cli.config import config_app
from medtune.cli.films import (
    annotate_films,
    film_findings,
    film_images,
    film_index,
    film_reasoning,
    film_splits,
    film_texts,
    film_verify,
)
from medtune.cli.inspect import (
    check,
    compare,
    dvc_check,
    lineage,
    plan,
    predict_case,
    push,
    show,
    status,
    summary,
    verify,
)
from medtune.cli.options import ConfigOption, Dataset, Out, Results, version_option, writes
from medtune.cli.scores import baselines, judge, reward_service, score
from medtune.cli.views import views
from medtune.config.stages import (
    AnnotateStage,
    ConvertStage,
    DifficultyStage,
    ExportStage,
    FindingsStage,
    GrpoStage,
    IndexStage,
    ModelStage,
    PhantomStage,
    PredictStage,
    QcStage,
    ReportStage,
    SftStage,
    TrackingStage,
    VerifyStage,
    load_stage,
)
from medtune.runtime.console import PROCESSES, console, log
from medtune.runtime.errors import MedtuneError
from medtune.runtime.files import MANIFEST, check_parents, exclusive_lock, with_manifest
from medtune.runtime.stopping import Stopped, install_signal_handlers

app = typer.Typer(
    callback=version_option,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Post-training of medical vision-language models, one verb per stage.",
)
app.add_typer(config_app, name="config")
PEOPLES = (check, verify, plan, status, summary, compare, lineage, predict_case, show, push)
FILMS = (
    *(film_index, film_verify, film_findings, film_images),
    *(film_splits, film_texts, film_reasoning, annotate_films),
)
SCORES = (baselines, judge, score, reward_service)
for verb in (*PEOPLES, dvc_check, *FILMS, views, *SCORES):
    app.command(verb.__name__.replace("_", "-"))(verb)

In = Annotated[Path, typer.Option(exists=False, help="Input.")]
Index = Annotated[Path, typer.Option("--cases", help="The index.")]
Shard = Annotated[int, typer.Option(help="Which shard of the index.")]
Size = Annotated[int, typer.Option("--shard-size", help="Cases per shard.")]
Tracking = Annotated[
    str | None,
    typer.Option(
        envvar="MEDTUNE_TRACKING", help="As --config: where figures go besides; else nowhere."
    ),
]


@app.command()
def phantom(config: ConfigOption) -> None:
    """Write synthetic patients in the BraTS 2023 layout."""
    from medtune.sources.brain.phantom import write_phantom

    stage = load_stage(PhantomStage, config)
    with exclusive_lock(Path(stage.phantom.root)):
        write_phantom(stage.phantom, stage.seed)


@app.command()
@writes("output")
def index(config: ConfigOption, output: Out) -> None:
    """Find the cases of all sources."""
    from medtune.sources.index import left_out_of, write_index

    stage = load_stage(IndexStage, config)
    with with_manifest("index", stage, [], output, left_out_of(output)):
        write_index(stage.sources, output)


@app.command("verify-shard")
@writes("output")
def verify_shard(config: ConfigOption, cases: Index, output: Out, shard: Shard, size: Size) -> None:
    """Check the raw files of one shard of cases."""
    from medtune.sources.index import read_shard
    from medtune.sources.verify import verify_shard as run

    stage = load_stage(VerifyStage, config)
    with with_manifest("verify_shard", stage, [cases], output):
        chosen = read_shard(cases, shard, size)
        run(chosen, stage.sources, stage.verification, output, stage.media.modalities)


@app.command()
@writes("output")
def findings(
    config: ConfigOption,
    cases: Index,
    size: Size,
    parts: Annotated[Path, typer.Option(help="Folder of the tables written by `verify-shard`.")],
    output: Out,
    table: Annotated[
        Path, typer.Option(help="Table of all findings; it and a CSV are written in any case.")
    ],
    pages: Annotated[Path, typer.Option(help="Folder for a page per source, in any case.")],
) -> None:
    """Join the verified shards; stop at errors unless the configuration excludes their cases."""
    from medtune.sources.index import read_left_out, shard_paths
    from medtune.sources.verify import gather

    stage = load_stage(FindingsStage, config)
    paths, rest = shard_paths(cases, size, parts), read_left_out(cases)
    with with_manifest("findings", stage, paths, output):
        args = stage.splits, stage.verification, table, output
        gather(paths, *args, stage.task.region, rest, _publisher(pages))


def _publisher(folder: Path) -> Any:
    """Return what writes pages about findings; they are no output, their code reruns nothing."""
    from medtune.reporting.qc import write_finding_pages

    return partial(write_finding_pages, folder=folder)


@app.command()
@writes("output")
def convert(
    config: ConfigOption,
    verified: Annotated[Path, typer.Option(help="Table written by `verify-shard`.")],
    output: Out,
) -> None:
    """Convert one shard of cases to verified videos."""
    from medtune.media.shard import convert_shard

    stage = load_stage(ConvertStage, config)
    with with_manifest("convert", stage, [verified], output):
        convert_shard(stage, verified, output)


@app.command()
@writes("output")
def qc(
    config: ConfigOption,
    verified: Annotated[Path, typer.Option(help="Table written by `verify-shard`.")],
    cases: Annotated[Path, typer.Option(help="Table written by `convert`, beside its videos.")],
    output: Out,
) -> None:
    """Draw the contact sheets of one shard of cases."""
    from medtune.reporting.sheets import write_sheets

    check_parents([verified, cases])
    write_sheets(load_stage(QcStage, config), verified, cases, output)


@app.command("qc-page")
@writes("output")
def qc_page(
    config: ConfigOption,
    cases: Index,
    size: Size,
    verified: Annotated[Path, typer.Option(help="Folder of the tables written by `verify-shard`.")],
    shards: Annotated[Path, typer.Option(help="Folder of the tables written by `convert`.")],
    output: Annotated[Path, typer.Option(help="Folder written by `qc`; the pages go there.")],
) -> None:
    """Write one page per source: its figures, findings and contact sheets."""
    from medtune.reporting.qc import write_pages
    from medtune.sources.index import shard_paths

    for folder in (verified, shards):
        check_parents(shard_paths(cases, size, folder))
    write_pages(load_stage(FindingsStage, config), cases, size, verified, shards, output)


@app.command()
@writes("output")
def annotate(
    config: ConfigOption,
    cases: Index,
    size: Size,
    shards: Annotated[Path, typer.Option(help="Folder of the tables written by `convert`.")],
    verification: Annotated[Path, typer.Option(help="Summary written by `findings`.")],
    output: Out,
) -> None:
    """Write the data set: splits and samples, as Arrow."""
    from medtune.dataset.annotate import annotate as run
    from medtune.sources.index import shard_paths

    paths = shard_paths(cases, size, shards)
    check_parents([*paths, verification])
    run(load_stage(AnnotateStage, config), paths, verification, output)


@app.command()
@writes("output")
def model(config: ConfigOption, dataset: Dataset, output: Out) -> None:
    """Make or check the base model."""
    from medtune.training.base_model import prepare_base

    prepare_base(load_stage(ModelStage, config), dataset, output)


@app.command()
@writes("output")
def sft(
    config: ConfigOption,
    base: Annotated[Path, typer.Option(help="Folder written by `model`.")],
    dataset: Dataset,
    output: Out,
    tracking: Tracking = None,
) -> None:
    """Supervised fine-tuning."""
    from medtune.training.sft import train_sft

    tracked = load_stage(TrackingStage, tracking) if tracking else None
    train_sft(load_stage(SftStage, config), base, dataset, output, tracked)


@app.command()
@writes("output")
def difficulty(
    config: ConfigOption,
    model: Annotated[Path, typer.Option(help="Model folder that GRPO will start from.")],
    dataset: Dataset,
    output: Out,
) -> None:
    """Score sampled answers to the training prompts, for the curriculum of GRPO."""
    from medtune.training.curriculum import score_prompts

    stage, parents = load_stage(DifficultyStage, config), [dataset / MANIFEST, model / MANIFEST]
    with with_manifest("difficulty", stage, parents, output):
        score_prompts(stage, model, dataset, output)


@app.command()
@writes("output")
def grpo(
    config: ConfigOption,
    start: Annotated[Path, typer.Option(help="Model folder to start from.")],
    dataset: Dataset,
    output: Out,
    difficulty: Annotated[
        Path | None, typer.Option(help="Table written by `difficulty`, for a curriculum.")
    ] = None,
    tracking: Tracking = None,
) -> None:
    """Reinforcement learning on the reward of sampled answers."""
    from medtune.training.grpo import train_grpo

    check_parents([difficulty] if difficulty else [])
    tracked = load_stage(TrackingStage, tracking) if tracking else None
    train_grpo(load_stage(GrpoStage, config), start, dataset, output, difficulty, tracked)


@app.command(context_settings={"ignore_unknown_options": True})
def launch(
    command: Annotated[list[str], typer.Argument(help="`sft` or `grpo` with its options.")],
    nodes: Annotated[int, typer.Option(help="Nodes of this Slurm job.", min=1)] = 1,
    gpus: Annotated[int, typer.Option(help="GPUs of each node; 0: none.", min=0)] = 0,
    cpus: Annotated[int, typer.Option(help="CPUs of each node.", min=1)] = 1,
    rollout_gpus: Annotated[int, typer.Option(help="Of them, for a rollout server.", min=0)] = 0,
) -> None:
    """Run a training in one process for each GPU of this job: `medtune launch -- sft ...`."""
    from medtune.orchestration.launch import Allocation
    from medtune.orchestration.launch import launch as run

    exit_process(run(command, Allocation(nodes, gpus, cpus, rollout_gpus)))


@app.command("rollout-server")
def rollout_server(
    config: ConfigOption,
    start: Annotated[Path, typer.Option(help="Model folder that GRPO starts from.")],
    dataset: Dataset,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0: a free one.")] = 8000,
) -> None:
    """Sample answers for a GRPO on other GPUs, until stopped (grpo.rollouts.engine: server)."""
    from medtune.training.grpo import vllm_engine
    from medtune.training.rollout_server import secret, serve

    secret()  # before the engine takes its minutes
    engine = vllm_engine(load_stage(GrpoStage, config), start, dataset)
    serve(engine, start, host, port)


@app.command()
@writes("output")
def predict(
    config: ConfigOption,
    model: Annotated[Path, typer.Option(help="Model folder.")],
    dataset: Dataset,
    output: Out,
    mode: Annotated[list[str], typer.Option(help="greedy, sampled or shuffled; repeatable.")],
    cache: Annotated[Path, typer.Option(help="Folder of the answers that this model has given.")],
    shard: Annotated[int, typer.Option(help="Which shard of the test split.", min=0)] = 0,
    shards: Annotated[int, typer.Option(help="How many shards there are.", min=1)] = 1,
) -> None:
    """Answer a shard of the test split with one model."""
    import medtune.training  # noqa: F401  (declares operators before transformers is imported)
    from medtune.evaluation.predict import predict as run

    stage, parents = load_stage(PredictStage, config), [dataset / MANIFEST, model / MANIFEST]
    with with_manifest("predict", stage, parents, output):
        run(stage, model, dataset, mode, output, cache, shard, shards)


@app.command()
@writes("output")
def report(
    config: ConfigOption,
    results: Results,
    output: Out,
) -> None:
    """Write the report."""
    from medtune.reporting.page import files_of_report, parents_of_report, write_report

    stage, parents = load_stage(ReportStage, config), parents_of_report(results)
    with with_manifest("report", stage, parents, *files_of_report(output)):
        write_report(stage, results, output)


@app.command()
@writes("output")
def export(
    config: ConfigOption,
    model: Annotated[Path, typer.Option(help="Folder written by `sft` or `grpo`.")],
    dataset: Dataset,
    output: Out,
    metrics: Annotated[Path | None, typer.Option(help="Figures written by `score`.")] = None,
) -> None:
    """Write a trained model as a folder to hand on, with a model card."""
    import medtune.training  # noqa: F401  (declares operators before transformers is imported)
    from medtune.release.export import export_model

    check_parents([metrics] if metrics else [])
    export_model(load_stage(ExportStage, config), model, dataset, metrics, output)


def main() -> None:
    """Run a verb; errors a user can act on are printed without a traceback."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    install_signal_handlers()
    try:
        app()
    except MedtuneError as error:
        console.quiet = False  # whichever process it is
        log(f"error: {error}")
        exit_process(2)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        console.quiet = False
        log(f"error: no space is left ({error})\n  -> free some; nothing half-written is left")
        exit_process(2)
    except Stopped as stopped:
        log("interrupted; nothing half-written is left, run again to go on")
        exit_process(128 + int(stopped.args[0]))


def exit_process(code: int) -> NoReturn:
    """Exit; one of several processes does so at once, or it might wait for the others for ever."""
    if PROCESSES > 1:
        os._exit(code)
    sys.exit(code)
