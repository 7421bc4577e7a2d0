"""The verbs of scores that a language model or a service gives; see `medtune.evaluation`."""

from pathlib import Path
from typing import Annotated

import typer

from medtune.files import MANIFEST, alone, recorded
from medtune.stages import JudgeStage, RewardServiceStage, load_stage

ConfigOption = Annotated[str, typer.Option("--config", help="Configuration file, or JSON.")]
Dataset = Annotated[Path, typer.Option(help="Folder of the data set.")]


def judge(
    config: ConfigOption,
    dataset: Dataset,
    predictions: Annotated[Path, typer.Option(help="Folder of a model's answers.")],
    cache: Annotated[Path, typer.Option(help="Folder of replies, kept for the next run.")],
    output: Annotated[Path, typer.Option(help="Folder of verdicts on this model.")],
    log: Annotated[Path, typer.Option(help="File that a local server writes to.")],
) -> None:
    """Ask a language model to judge the reports and replies of a model."""
    from contextlib import ExitStack

    from medtune.evaluation.judging import judge_answers, tables_of
    from medtune.evaluation.predictions import prediction_shards

    stage = load_stage(JudgeStage, config)
    parents = [dataset / MANIFEST, *prediction_shards(predictions)]
    with alone(output), ExitStack() as records:
        for table, rejects in tables_of(output).values():
            records.enter_context(recorded("judge", stage, parents, table, rejects))
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
