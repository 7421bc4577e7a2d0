"""Judging reports and replies of one model by a language model, and reading its verdicts."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from medtune.config.stages import JudgeStage
from medtune.evaluation.corpus_metrics import REPORT, CorpusMetric, mean_metric, not_run, text_of
from medtune.evaluation.predictions import read_predictions
from medtune.llm.serve import served
from medtune.models.coordinate_format import IMAGE_COORDINATE_FORMATS
from medtune.records.sample import iterate, load_split
from medtune.rewards.base import Judged
from medtune.rewards.reports import CONVERSATION, has_reference, reference
from medtune.runtime.errors import ConfigError
from medtune.runtime.files import MANIFEST, check_manifest
from medtune.runtime.tables import read_rows
from medtune.tasks import get_task
from medtune.texts.judge import (
    CONVERSATION_STEP,
    GREEN_STEP,
    ConversationVerdict,
    Exchange,
    GreenVerdict,
    JudgedConversation,
    JudgedReport,
)
from medtune.texts.run import run_step
from medtune.texts.steps import Step

STEPS: Mapping[str, Step] = {"green": GREEN_STEP, "conversation": CONVERSATION_STEP}
# Task -> figure, the step that gives it, and its verdicts.
FIGURES: Mapping[str, tuple[str, type[GreenVerdict] | type[ConversationVerdict]]] = {
    REPORT: ("green", GreenVerdict),
    **dict.fromkeys(sorted(CONVERSATION), ("conversation", ConversationVerdict)),
}
NO_JUDGE = "`evaluation.judge` is null: there is no judge"


def tables_of(folder: Path) -> dict[str, tuple[Path, Path]]:
    """Return by step the tables of verdicts and of refused replies in a model's folder."""
    return {
        name: (folder / f"{name}.parquet", folder / f"{name}.rejects.parquet") for name in STEPS
    }


def judge_answers(
    stage: JudgeStage, dataset: Path, predictions: Path, cache: Path, output: Path, log: Path
) -> None:
    """Ask the judge about the valid greedy reports and replies of a model.

    Args:
        stage: The configuration, with a judge.
        dataset: Folder of the data set.
        predictions: Folder of the model's answers.
        cache: Folder of the judge's replies: none is asked for twice.
        output: Folder of the tables that are written (see `tables_of` and `run_step`).
        log: File that a local server writes to.

    Raises:
        ConfigError: There is no judge, or the texts of a source may not go to it.
        MedtuneError: See `run_step`.
    """
    if stage.evaluation.judge is None:
        raise ConfigError("evaluation.judge", "is null", "configure a judge")
    check_manifest(dataset / MANIFEST)
    samples = {sample.id: sample for sample in iterate(load_split(dataset, "test"))}
    task, items = get_task(stage.task), dict[str, list[Any]](green=[], conversation=[])
    for row in read_predictions([predictions])[predictions.name]:
        sample = samples[row["id"]]
        if row["mode"] != "greedy" or sample.task not in FIGURES:
            continue
        judged = task.judge(row["text"], sample, IMAGE_COORDINATE_FORMATS[row["family"]])
        if judged.answer is not None and has_reference(sample):
            items[FIGURES[sample.task][0]].append(_item(judged))
    with served(stage.evaluation.judge, log) as llm:
        for name, (table, rejects) in tables_of(output).items():
            run_step(llm, STEPS[name], items[name], cache, table, rejects, stage.seed)


def _item(judged: Judged) -> JudgedReport | JudgedConversation:
    sample, text = judged.sample, text_of(judged)
    if sample.task == REPORT:
        return JudgedReport(
            id=sample.id, source=sample.source, reference=reference(sample), candidate=text
        )
    known = {key: sample.truth.get(key) for key in ("report", "labels", "regions")}
    earlier = [{"question": turn.prompt, "answer": turn.target} for turn in sample.turns]
    last = Exchange(question=sample.prompt, expected=reference(sample), answered=text)
    return JudgedConversation(
        id=sample.id, source=sample.source, known=known, earlier=earlier, rounds=(last,)
    )


def judge_metrics(folders: Iterable[Path]) -> dict[str, list[CorpusMetric]]:
    """Return, by task, the mean verdict on a model's answers.

    An answer that is invalid is worth 0, and the judge is not asked. One whose verdict could not be
    had is left out of the mean, and counted as `failed`; why is in the table of refused replies.

    Args:
        folders: Folder of verdicts of every model that was judged, which bears its name.
    """
    found = list(folders)
    if not found:
        return {task: [not_run([name], NO_JUDGE)] for task, (name, _) in FIGURES.items()}
    return {task: [_family(found, *figure)] for task, figure in FIGURES.items()}


def _family(
    folders: Sequence[Path], name: str, kind: type[GreenVerdict] | type[ConversationVerdict]
) -> CorpusMetric:
    scores, failed = {}, {}
    for folder in folders:
        table, rejects = tables_of(folder)[name]
        rows = {row["id"]: row["result"] for row in read_rows(table)}
        scores[folder.name] = {
            key: kind.model_validate_json(text).score for key, text in rows.items()
        }
        failed[folder.name] = {"failed": len({r["id"] for r in read_rows(rejects) if r["dropped"]})}

    def score(model: str, judged: Judged) -> float | None:
        if model not in scores or not has_reference(judged.sample):
            return None
        return 0.0 if judged.answer is None else scores[model].get(judged.sample.id)

    absent = "the judge was not asked about this model, or gave no verdict on it"
    family = mean_metric(name, score, absent)
    return CorpusMetric(family.names, family.value, family.add, absent, details=failed)
