"""The verbs of scores: without a model, of models, by a judge; see `medtune.evaluation`."""

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from medtune.cli.options import ConfigOption, Dataset, Out
from medtune.config.stages import (
    BaselinesStage,
    JudgeStage,
    RewardServiceStage,
    ScoreStage,
    load_stage,
)
from medtune.runtime.files import MANIFEST, exclusive_lock, with_manifest


def baselines(
    config: ConfigOption,
    dataset: Dataset,
    output: Annotated[Path, typer.Option(help="Folder of all predictions.")],
) -> None:
    """Answer the test split without a model: what a model must beat."""
    from medtune.config.evaluation import BASELINES_OF
    from medtune.evaluation.baselines import write_baselines

    stage = load_stage(BaselinesStage, config)
    tables = {name: output / name / "0000.parquet" for name in BASELINES_OF[stage.task.name]}
    with exclusive_lock(output), ExitStack() as records:
        for table in tables.values():
            records.enter_context(with_manifest("baselines", stage, [dataset / MANIFEST], table))
        write_baselines(stage, dataset, tables)


def score(
    config: ConfigOption,
    dataset: Dataset,
    predictions: Annotated[
        list[Path], typer.Argument(help="Folders of shards; a folder's name is its model's.")
    ],
    metrics: Out,
    cases: Out,
    means: Out,
    judged: Annotated[
        list[Path] | None, typer.Option(help="Folder of verdicts on a model; repeatable.")
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(help="Folder of scores by models, kept for the next run.")
    ] = None,
) -> None:
    """Score all predictions and compare the stages; a tidy table lies beside the metrics."""
    from medtune.evaluation.judging import tables_of
    from medtune.evaluation.predictions import prediction_shards
    from medtune.evaluation.score import score as run
    from medtune.evaluation.score import write_means
    from medtune.evaluation.tidy import write_tidy

    stage, table = load_stage(ScoreStage, config), metrics.with_suffix(".parquet")
    shards = [shard for folder in predictions for shard in prediction_shards(folder)]
    verdicts = [table for folder in judged or () for table, _ in tables_of(folder).values()]
    with (
        exclusive_lock(metrics),
        with_manifest(
            "score", stage, [dataset / MANIFEST, *shards, *verdicts], metrics, cases, table
        ),
    ):
        run(stage, dataset, predictions, metrics, cases, judged or (), cache)
        write_tidy(metrics, table)
    write_means(metrics, means)


def judge(
    config: ConfigOption,
    dataset: Dataset,
    predictions: Annotated[Path, typer.Option(help="Folder of a model's answers.")],
    cache: Annotated[Path, typer.Option(help="Folder of replies, kept for the next run.")],
    output: Annotated[Path, typer.Option(help="Folder of verdicts on this model.")],
    log: Annotated[Path, typer.Option(help="File that a local server writes to.")],
) -> None:
    """Ask a language model to judge the reports and replies of a model."""
    from medtune.evaluation.judging import judge_answers, tables_of
    from medtune.evaluation.predictions import prediction_shards

    stage = load_stage(JudgeStage, config)
    parents = [dataset / MANIFEST, *prediction_shards(predictions)]
    with exclusive_lock(output), ExitStack() as records:
        for table, rejects in tables_of(output).values():
            records.enter_context(with_manifest("judge", stage, parents, table, rejects))
        judge_answers(stage, dataset, predictions, cache, output, log)


def reward_service(
    config: ConfigOption,
    dataset: Annotated[
        Path | None, typer.Option(help="Data set whose references canonical RadCliQ weighs by.")
    ] = None,
) -> None:
    """Score reports for the trainings of an experiment, until stopped (reward.service)."""
    from medtune.rewards.serving import run_service

    run_service(load_stage(RewardServiceStage, config), dataset)
